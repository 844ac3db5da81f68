import type { Config } from '../../core/config.js';
import { ALLOWED_ALWAYS, EXPOSED_ALWAYS } from '../http/cors.js';
import { ALGORITHMS } from './checksum.js';
import { ESTIMATE, type TusAnswer } from './headers.js';

/* What this server speaks, for clients and for the browsers of pages of other origins. */

export const VERSION = '1.0.0';

export const EXTENSIONS = [
  'creation',
  'creation-with-upload',
  'creation-defer-length',
  'checksum',
  'checksum-trailer',
  'expiration',
  'termination',
  'concatenation',
  'concatenation-unfinished',
];

export const METHODS = ['OPTIONS', 'POST', 'HEAD', 'PATCH', 'DELETE', 'GET'];

/** Headers of requests that pages of other origins may send. */
const ALLOWED_HEADERS = [
  ...['Authorization', 'Content-Type', 'Tus-Resumable', 'X-HTTP-Method-Override'],
  ...['Upload-Checksum', 'Upload-Concat', 'Upload-Defer-Length'],
  ...ALLOWED_ALWAYS,
];

/** Headers of answers that pages of other origins may read. */
export const EXPOSED_HEADERS = [
  ...['Location', 'Tus-Extension', 'Tus-Max-Size', 'Tus-Resumable', 'Tus-Version', 'Tus-Checksum-Algorithm'],
  ...['Upload-Concat', 'Upload-Defer-Length', 'Upload-Expires', 'Upload-Length', 'Upload-Metadata'],
  ...['Upload-Offset', ESTIMATE],
  ...EXPOSED_ALWAYS,
].join(', ');

/**
 * "A successful response indicated by the 204 No Content or 200 OK status MUST contain the Tus-Version header. It MAY
 * include the Tus-Extension and Tus-Max-Size headers." This is also the answer to a browser's preflight.
 */
export function answerOptions({
  maxUploadSize,
  corsHeaders,
}: Pick<Config, 'maxUploadSize' | 'corsHeaders'>): TusAnswer {
  return {
    status: 200,
    headers: {
      'Tus-Resumable': VERSION,
      'Tus-Version': VERSION,
      'Tus-Extension': EXTENSIONS.join(','),
      'Tus-Max-Size': maxUploadSize,
      // "The Tus-Checksum-Algorithm header MUST be included in the response to an OPTIONS request."
      'Tus-Checksum-Algorithm': ALGORITHMS.join(','),
      // PUT is that of server/ietf.
      'Access-Control-Allow-Methods': [...METHODS, 'PUT'].join(', '),
      'Access-Control-Allow-Headers': [...ALLOWED_HEADERS, ...corsHeaders].join(', '),
      'Access-Control-Max-Age': 86_400,
    },
  };
}
