import type { RequestHandler } from 'express';
import { AppError } from '../core/errors.js';

/** What the tus core protocol demands and @tus/server 2.4 does otherwise. Runs before anything looks at the method. */
export const tusPreflight: RequestHandler = (req, res, next) => {
  // "The Tus-Resumable header MUST be included in every request and response except for OPTIONS requests."
  if (req.method !== 'OPTIONS') res.setHeader('Tus-Resumable', '1.0.0');

  // "The X-HTTP-Method-Override request header MUST be a string which MUST be interpreted as the request's
  // method by the Server, if the header is presented. The actual method of the request MUST be ignored."
  const override = req.get('X-HTTP-Method-Override');
  if (override) req.method = override.toUpperCase();

  // "If the version specified by the Client is not supported by the Server, it MUST respond with the 412
  // Precondition Failed status and MUST include the Tus-Version header into the response."
  const tusRequest = ['POST', 'PATCH', 'HEAD', 'DELETE'].includes(req.method);
  if (tusRequest && req.get('Tus-Resumable') !== '1.0.0') {
    res.setHeader('Tus-Version', '1.0.0');
    throw new AppError('unsupported_version', { detail: 'Send Tus-Resumable: 1.0.0' });
  }

  // "All PATCH requests MUST use Content-Type: application/offset+octet-stream, otherwise the server SHOULD
  // return a 415 Unsupported Media Type status."
  if (req.method === 'PATCH' && req.get('Content-Type') !== 'application/offset+octet-stream') {
    throw new AppError('unsupported_media_type', {
      detail: 'Send Content-Type: application/offset+octet-stream',
    });
  }
  next();
};
