import { createServer, type RequestListener, type Server } from 'node:http';
import type { Config } from '../config.js';
import { listenOn } from '../listen-on.js';
import type { Logger } from '../log.js';
import { hasToken } from './access.js';
import type { Metrics } from './metrics.js';

/**
 * Answers GET /metrics on METRICS_PORT, which no public proxy leads to. With METRICS_TOKEN it wants the token there too.
 * @returns undefined if no port is set
 * @throws {ConfigError} when the port is not available
 */
export async function openMetricsPort(
  metrics: Metrics,
  { host, metricsPort: port, metricsToken }: Pick<Config, 'host' | 'metricsPort' | 'metricsToken'>,
  log: Logger,
): Promise<Server | undefined> {
  if (port === undefined) return undefined;
  const server = createServer(answer(metrics, metricsToken, log));
  await listenOn(server, host, port, 'METRICS_PORT');
  return server;
}

function answer(metrics: Metrics, token: string | undefined, log: Logger): RequestListener {
  return (request, response) => {
    const refuse = (status: number, headers = {}) => response.writeHead(status, headers).end();
    if (request.url?.split('?')[0] !== '/metrics') return refuse(404);
    if (request.method !== 'GET') return refuse(405, { Allow: 'GET' });
    if (token && !hasToken(request.headers.authorization, token)) {
      return refuse(401, { 'WWW-Authenticate': 'Bearer' });
    }
    metrics.scrape().then(
      (text) => response.writeHead(200, { 'Content-Type': metrics.contentType }).end(text),
      (error: unknown) => {
        log.error({ err: error }, 'metrics');
        refuse(500);
      },
    );
    return undefined;
  };
}
