import type { RequestHandler } from 'express';
import type { Tracer } from '../../core/tracing/tracer.js';
import { methodOf, routeOf } from './request-metrics.js';

/** Makes a span of each request, named by its route. It continues the trace of a client that sends `traceparent`. */
export function traceRequests(tracer: Tracer): RequestHandler {
  return (req, res, next) => {
    const method = methodOf(req);
    const { traceparent, tracestate } = req.headers;
    const headers = { traceparent: one(traceparent), tracestate: one(tracestate) };
    const span = tracer.request(headers, method, next);
    const end = () => {
      const route = routeOf(req);
      const { statusCode } = res;
      span.end({
        name: route ? `${method} ${route}` : method,
        attributes: {
          'http.request.method': method,
          'http.route': route || undefined,
          'http.response.status_code': statusCode,
          'landfall.request_id': req.id,
          'landfall.upload_id': req.uploadId,
        },
        ...(statusCode >= 500 ? { failure: new Error(String(statusCode)) } : {}),
      });
    };
    if (res.closed) end();
    else res.once('close', end);
  };
}

const one = (value: string | string[] | undefined) => (Array.isArray(value) ? value[0] : value);
