import type { RequestHandler } from 'express';
import type { Upload } from '../../core/database/entities/upload.js';
import { PARTIAL_UPLOAD } from './request.js';
import type { Dialect } from './versions.js';

/** The header Upload-Limit of an upload; none in versions that have no such header. */
export function limitsOf(
  { maxUploadSize }: { maxUploadSize: number },
  { lifetime }: Dialect,
  upload?: Pick<Upload, 'maxSize' | 'expiresAt' | 'status'>,
): Record<string, string> {
  if (!lifetime) return {};
  const limits = [`max-size=${Math.min(maxUploadSize, upload?.maxSize ?? maxUploadSize)}`];
  if (upload?.status === 'uploading') {
    // "the remaining lifetime of the upload resource in seconds counted from the generation of the response"
    const seconds = Math.max(0, Math.floor((upload.expiresAt.getTime() - Date.now()) / 1000));
    limits.push(`${lifetime}=${seconds}`);
  }
  return { 'Upload-Limit': limits.join(', ') };
}

/**
 * Adds the limits to the answer to OPTIONS: "if the resource that is the target of the request supports the creation of
 * a resumable upload resource, the server MUST include the Upload-Limit header field". Drafts 10 and 11 also ask for
 * Accept-Patch.
 */
export function offerUploads({ maxUploadSize }: { maxUploadSize: number }): RequestHandler {
  return (req, res, next) => {
    if (req.method !== 'OPTIONS' || req.path !== '/') return next();
    res.setHeader('Upload-Limit', `max-size=${maxUploadSize}`);
    res.setHeader('Accept-Patch', PARTIAL_UPLOAD);
    // tus answers at /uploads, and cors.ts answers browsers.
    if (req.baseUrl !== '/api/files' || req.get('Access-Control-Request-Method')) return next();
    res.setHeader('Allow', 'GET, HEAD, POST, PUT, OPTIONS');
    res.status(200).end();
  };
}
