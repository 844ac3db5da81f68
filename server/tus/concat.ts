import type { Request } from 'express';
import type { Upload } from '../../core/database/entities/upload.js';
import { AppError } from '../../core/errors.js';
import { createFinal } from '../../core/uploads/concatenate.js';
import { lengthOf, listPartials, PartialMissing } from '../../core/uploads/concatenations.js';
import type { Concat } from '../../core/uploads/create.js';
import type { Description } from '../../core/uploads/description.js';
import { findUploadId, type UploadCall } from '../uploads/call.js';
import { noteForeign, type UploadDeps } from '../uploads/steps.js';
import { hasBody } from './headers.js';

/* The header Upload-Concat of tus, and final uploads. core/uploads/concatenate.ts says how they become a file. */

/**
 * Reads Upload-Concat: "If the upload is a partial one, the header value MUST be partial. In the case of a final upload,
 * its value MUST be final followed by a semicolon and a space-separated list of partial upload URLs that will be
 * concatenated. The partial uploads URLs MAY be absolute or relative".
 * @param publicUrl the URL at which clients reach this server, if it is known
 * @returns undefined if the request has no such header
 * @throws {AppError} invalid_request; not_found when an address cannot be one of an upload here
 */
export function readConcat(req: Request, publicUrl: string | undefined): Concat | undefined {
  const header = req.get('Upload-Concat')?.trim();
  if (header === undefined) return undefined;
  if (header === 'partial') return { kind: 'partial' };
  const [, list] = /^final; *(\S.*)$/.exec(header) ?? [];
  if (list === undefined) {
    throw invalid('Upload-Concat must be "partial", or "final;" and the addresses of partial uploads');
  }
  // "The Client MUST NOT include the Upload-Length header in the final upload creation."
  if (req.get('Upload-Length') !== undefined || req.get('Upload-Defer-Length') !== undefined) {
    throw invalid('The partial uploads say how long a final upload is: send no length');
  }
  const endpoint = new URL(`${publicUrl ?? 'http://localhost'}/uploads`);
  const partialIds = list.split(/ +/).map((address) => readAddress(address, endpoint));
  return { kind: 'final', partialIds, header };
}

/**
 * The upload that an address names, whatever name of the server the client has used. The address may have the path of the
 * endpoint or the one that a proxy leaves of it.
 * @throws {AppError} not_found
 */
function readAddress(address: string, endpoint: URL): string {
  if (URL.canParse(address, endpoint.href)) {
    const { protocol, pathname } = new URL(address, endpoint);
    const isPublic = pathname.startsWith(`${endpoint.pathname}/`);
    const path = isPublic ? pathname.slice(endpoint.pathname.length - '/uploads'.length) : pathname;
    const id = findUploadId(path);
    if (id && /^https?:$/.test(protocol)) return id;
  }
  throw new AppError('not_found', { detail: `${address} is not the address of an upload` });
}

/**
 * POST with `Upload-Concat: final;…`. "When creating a new final upload the partial uploads' metadata SHALL NOT be
 * transferred to the new final upload."
 * @throws {AppError} forbidden when there is a body; and as createFinal()
 */
export async function concatenate(
  deps: UploadDeps,
  call: UploadCall,
  concat: Extract<Concat, { kind: 'final' }>,
  description: Description,
): Promise<Upload> {
  if (await hasBody(call)) {
    throw new AppError('forbidden', { detail: 'A final upload takes no bytes of its own' });
  }
  try {
    const final = await createFinal(deps, { ...call.newUpload(), ...description }, concat);
    call.own(final);
    return final;
  } catch (error) {
    if (error instanceof PartialMissing) await noteForeign(deps, call, error.partialId);
    throw error;
  }
}

/**
 * "The Server MUST respond with the 403 Forbidden status to PATCH requests against a final upload URL and MUST NOT modify
 * the final or its partial uploads."
 * @throws {AppError} forbidden
 */
export function refuseFinal({ kind }: Upload): void {
  if (kind === 'final') {
    throw new AppError('forbidden', {
      detail: 'A final upload takes no bytes: send them to its partial uploads',
    });
  }
}

/**
 * "Response to HEAD request against partial or final upload MUST include the Upload-Concat header and its value as
 * received in the upload creation request."
 */
export function concatOf({ kind, concatHeader }: Upload): { 'Upload-Concat'?: string } {
  if (kind === 'partial') return { 'Upload-Concat': 'partial' };
  return concatHeader === null ? {} : { 'Upload-Concat': concatHeader };
}

/**
 * The headers that say how far an upload is, for HEAD. "The response to a HEAD request for a final upload SHOULD NOT
 * contain the Upload-Offset header unless the concatenation has been successfully finished. After successful
 * concatenation, the Upload-Offset and Upload-Length MUST be set and their values MUST be equal." "The Upload-Length header
 * MUST be included if the length of the final resource can be calculated at the time of the request."
 *
 * For all uploads: "The Server MUST always include the Upload-Offset header in the response for a HEAD request, even if the
 * offset is 0, or the upload is already considered completed. If the size of the upload is known, the Server MUST include
 * the Upload-Length header in the response." "As long as the length of the upload is not known, the Server MUST set
 * Upload-Defer-Length: 1 in all responses to HEAD requests."
 */
export async function progressOf(
  { database }: Pick<UploadDeps, 'database'>,
  { id, kind, status, offset, length }: Upload,
): Promise<Record<string, number>> {
  const waits = kind === 'final' && status === 'uploading';
  const known = waits ? lengthOf(await listPartials(database, id)) : (length ?? undefined);
  return {
    ...(waits ? {} : { 'Upload-Offset': offset }),
    ...(known === undefined ? { 'Upload-Defer-Length': 1 } : { 'Upload-Length': known }),
  };
}

function invalid(detail: string): AppError {
  return new AppError('invalid_request', { detail });
}
