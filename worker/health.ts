import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import { ConfigError } from '../core/config-error.js';

/**
 * Answers every request with 200, so that an orchestrator can tell a working process from one that hangs.
 * @throws {ConfigError} when the port is not available
 */
export async function openHealth(host: string, port: number): Promise<Server> {
  const server = createServer((_request, response) => {
    response
      .writeHead(200, { 'Content-Type': 'application/json', Connection: 'close' })
      .end('{"status":"ok"}\n');
  });
  try {
    await once(server.listen(port, host), 'listening');
  } catch (error) {
    throw new ConfigError(`HEALTH_PORT=${port}: ${error instanceof Error ? error.message : error}`, {
      cause: error,
    });
  }
  return server;
}
