import type { Request, RequestHandler } from 'express';
import type { Metrics } from '../../core/metrics/metrics.js';

/** Methods that get a value of their own; a client may send any of the forty that Node knows. */
const METHODS = new Set(['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS']);

/** Routes of uploads; all others are declared. */
const UPLOADS = '/uploads';
const UPLOAD = '/uploads/:id';

/**
 * Counts requests by route, and measures how long they take.
 * @param declared the routes that get a name; all other requests count as `other`
 */
export function countRequests(
  metrics: Pick<Metrics, 'requestEnded'>,
  declared: readonly { path: string }[],
): RequestHandler {
  const known = new Set([UPLOADS, UPLOAD, ...declared.map(({ path }) => path)]);
  return (req, res, next) => {
    const began = performance.now();
    // tus may change it, see X-HTTP-Method-Override.
    const method = methodOf(req);
    res.once('close', () => {
      const name = routeOf(req);
      const status = res.writableFinished ? `${Math.floor(res.statusCode / 100)}xx` : 'aborted';
      metrics.requestEnded(
        { route: known.has(name) ? name : 'other', method, status },
        (performance.now() - began) / 1000,
      );
    });
    next();
  };
}

/** The method, or `other`. */
export function methodOf({ method }: Request): string {
  return METHODS.has(method) ? method : 'other';
}

/** The path of the route that Express has chosen, with names in place of values; '' if it has chosen none. */
export function routeOf({ route, baseUrl, params }: Request): string {
  const path: unknown = route?.path;
  if (typeof path !== 'string') return '';
  if (path.startsWith(`${UPLOADS}{`)) return params.path ? UPLOAD : UPLOADS;
  return `${baseUrl}${path}`.replace(/(?<=.)\/$/, '');
}
