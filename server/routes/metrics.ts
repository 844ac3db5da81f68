import { AppError } from '../../core/errors.js';
import { hasToken } from '../../core/metrics/access.js';
import type { Metrics } from '../../core/metrics/metrics.js';
import { type AnyRoute, route } from './route.js';

interface MetricsDeps {
  metrics: Metrics;
  /** Undefined: this port tells no metrics. */
  metricsToken: string | undefined;
}

/** The metrics of this server, on its public port; see core/metrics/listener.ts for the other one. */
export function metricsRoute({ metrics, metricsToken }: MetricsDeps): AnyRoute {
  return route({
    method: 'get',
    path: '/metrics',
    access: 'public',
    summary: 'Metrics of this server for Prometheus, with METRICS_TOKEN as bearer token; without one 404',
    answers: { 200: { mediaType: 'text/plain' } },
    problems: ['not_found', 'unauthenticated'],
    async handle({ req, res }) {
      if (!metricsToken) throw new AppError('not_found');
      if (!hasToken(req.get('Authorization'), metricsToken)) {
        throw new AppError('unauthenticated', { detail: 'Send Authorization: Bearer <METRICS_TOKEN>' });
      }
      const text = await metrics.scrape();
      res.setHeader('Cache-Control', 'no-store');
      res.setHeader('Content-Type', metrics.contentType);
      res.send(text);
    },
  });
}
