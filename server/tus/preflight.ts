import type { RequestHandler } from 'express';
import { AppError } from '../../core/errors.js';
import { EXPOSED_HEADERS, METHODS, VERSION } from './options.js';

/** Rules of tus that hold for every request. Runs before any handler that reads the method. */
export const tusPreflight: RequestHandler = (req, res, next) => {
  // "The Tus-Resumable header MUST be included in every request and response except for OPTIONS requests."
  if (req.method !== 'OPTIONS') res.setHeader('Tus-Resumable', VERSION);
  res.setHeader('Access-Control-Expose-Headers', EXPOSED_HEADERS);

  // "The X-HTTP-Method-Override request header MUST be a string which MUST be interpreted as the request's
  // method by the Server, if the header is presented. The actual method of the request MUST be ignored."
  const method = req.get('X-HTTP-Method-Override')?.toUpperCase() || req.method;
  // Other methods have no meaning here. Node closes the connection of a request whose method has become PRI.
  if (!METHODS.includes(method)) {
    res.setHeader('Allow', METHODS.join(', '));
    throw new AppError('method_not_allowed', { detail: `Allowed: ${METHODS.join(', ')}` });
  }
  req.method = method;

  // Uploads are created at the endpoint itself; any other path names an upload.
  if (req.method === 'POST' && !/^\/uploads\/?$/.test(req.path)) throw new AppError('not_found');

  // "If the version specified by the Client is not supported by the Server, it MUST respond with the 412
  // Precondition Failed status and MUST include the Tus-Version header into the response. In addition, the Server MUST
  // NOT process the request."
  const isTus = ['POST', 'PATCH', 'HEAD', 'DELETE'].includes(req.method);
  if (isTus && req.get('Tus-Resumable') !== VERSION) {
    res.setHeader('Tus-Version', VERSION);
    throw new AppError('unsupported_version', { detail: `Send Tus-Resumable: ${VERSION}` });
  }
  next();
};
