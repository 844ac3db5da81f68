import type { Request, RequestHandler } from 'express';
import { AppError } from '../../core/errors.js';
import { refuseCoding } from '../http/content-coding.js';
import { EXPOSED_ALWAYS } from '../http/cors.js';
import { parseMetadata } from '../upload-metadata.js';

/**
 * Headers of answers that pages of other origins may read; @tus/server adds the headers that it knows itself.
 */
export const EXPOSED_HEADERS = ['Upload-Expires', ...EXPOSED_ALWAYS];

/** The headers exposed on answers that do not come from @tus/server. */
const EXPOSED_ON_REFUSAL = [
  ...['Location', 'Tus-Extension', 'Tus-Max-Size', 'Tus-Resumable', 'Tus-Version', 'Upload-Offset'],
  ...EXPOSED_HEADERS,
].join(', ');

const METHODS = ['OPTIONS', 'POST', 'HEAD', 'PATCH', 'DELETE', 'GET'];

/** The type of a body that is a piece of a file. */
export const OCTETS = 'application/offset+octet-stream';

/** RFC 9110, 8.3.1: "The type and subtype tokens are case-insensitive." Parameters have no meaning here. */
export function isOctets(req: Request): boolean {
  return req.get('Content-Type')?.split(';')[0]?.trim().toLowerCase() === OCTETS;
}

/**
 * Enforces rules of the tus core protocol that @tus/server 2.4 handles differently. Runs before any handler
 * that reads the method.
 */
export const tusPreflight: RequestHandler = (req, res, next) => {
  // "The Tus-Resumable header MUST be included in every request and response except for OPTIONS requests."
  if (req.method !== 'OPTIONS') res.setHeader('Tus-Resumable', '1.0.0');
  res.setHeader('Access-Control-Expose-Headers', EXPOSED_ON_REFUSAL);

  // "The X-HTTP-Method-Override request header MUST be a string which MUST be interpreted as the request's
  // method by the Server, if the header is presented. The actual method of the request MUST be ignored."
  const method = req.get('X-HTTP-Method-Override')?.toUpperCase() || req.method;
  // Other methods have no meaning here, and a web Request cannot have some of them. Node closes the
  // connection of a request whose method has become PRI.
  if (!METHODS.includes(method)) {
    res.setHeader('Allow', METHODS.join(', '));
    throw new AppError('method_not_allowed', { detail: `Allowed: ${METHODS.join(', ')}` });
  }
  req.method = method;

  // Uploads are created at the endpoint itself; any other path names an upload.
  if (req.method === 'POST' && !/^\/uploads\/?$/.test(req.path)) throw new AppError('not_found');

  // "If the version specified by the Client is not supported by the Server, it MUST respond with the 412
  // Precondition Failed status and MUST include the Tus-Version header into the response."
  const tusRequest = ['POST', 'PATCH', 'HEAD', 'DELETE'].includes(req.method);
  if (tusRequest && req.get('Tus-Resumable') !== '1.0.0') {
    res.setHeader('Tus-Version', '1.0.0');
    throw new AppError('unsupported_version', { detail: 'Send Tus-Resumable: 1.0.0' });
  }

  // "The value MUST be a non-negative integer." @tus/server accepts 1e+21 and then reads it as 1.
  for (const name of ['Upload-Length', 'Upload-Offset']) {
    const value = req.get(name);
    if (value !== undefined && !/^\d+$/.test(value)) {
      throw new AppError('invalid_request', { detail: `${name} must be a whole number` });
    }
  }

  if (req.method === 'POST' || req.method === 'PATCH') refuseCoding(req);
  const metadata = req.get('Upload-Metadata');
  if (tusRequest && metadata !== undefined) parseMetadata(metadata);
  // @tus/server would answer 501, as if the server were at fault.
  if (tusRequest && req.get('Upload-Concat') !== undefined) {
    throw new AppError('invalid_request', { detail: 'Uploads cannot be concatenated here: send one upload' });
  }

  // "All PATCH requests MUST use Content-Type: application/offset+octet-stream, otherwise the server SHOULD
  // return a 415 Unsupported Media Type status."
  if (req.method === 'PATCH' && !isOctets(req)) {
    throw new AppError('unsupported_media_type', { detail: `Send Content-Type: ${OCTETS}` });
  }
  // @tus/server would answer 403, as if rights were missing.
  if (req.method === 'PATCH' && req.get('Upload-Offset') === undefined) {
    throw new AppError('invalid_request', { detail: 'Send Upload-Offset' });
  }
  next();
};
