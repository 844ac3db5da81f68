import contentDisposition from 'content-disposition';
import type { Request } from 'express';
import { AppError } from '../../core/errors.js';
import { checkMetadata, type Description, toMetadata } from '../../core/uploads/description.js';
import { isForm } from '../plain/form-files.js';
import { describeUpload } from '../tus/metadata.js';
import { parseBoolean, parseDictionary, parseWholeNumber } from './fields.js';
import { BeyondLength, InconsistentLength } from './problems.js';
import { type Dialect, dialectOf, VERSION_FIELD } from './versions.js';

/* Reads the head of a request in terms of resumable uploads. */

/** The media type of a piece of a file. */
export const PARTIAL_UPLOAD = 'application/partial-upload';

/** Types that say nothing about the file: the client does not know it, or they describe the request. */
const NO_TYPE_OF_A_FILE = [
  'application/octet-stream',
  'application/x-www-form-urlencoded',
  'application/offset+octet-stream',
  PARTIAL_UPLOAD,
];

const STATE_FIELDS = ['Upload-Offset', 'Upload-Complete', 'Upload-Incomplete', 'Upload-Length'];

/** The digests that are verified, with their sizes in bytes. RFC 9530, 5: the others are insecure. */
export const DIGEST_SIZES = { 'sha-256': 32, 'sha-512': 64 } as const;

export type Digests = Partial<Record<keyof typeof DIGEST_SIZES, Buffer>>;

/** Whether a request for `/uploads` or `/api/files` speaks this protocol, and not tus. */
export function isResumable(req: Request): boolean {
  if (req.method === 'OPTIONS' || req.get('Tus-Resumable') !== undefined) return false;
  if ([VERSION_FIELD, 'Upload-Complete', 'Upload-Incomplete'].some((name) => req.get(name) !== undefined)) {
    return true;
  }
  return req.method === 'PATCH' ? mediaTypeOf(req) === PARTIAL_UPLOAD : isBareQuestion(req);
}

/**
 * Whether a request asks for the offset of an upload, or cancels it, and has no field of any protocol. A client that names
 * no version, as those of the future RFC will, sends these requests so. Each request of tus has Tus-Resumable.
 */
function isBareQuestion({ method, path, headers }: Request): boolean {
  if (!['HEAD', 'GET', 'DELETE'].includes(method) || !path.startsWith('/uploads/')) return false;
  return !Object.keys(headers).some((name) => /^(upload-|tus-|x-http-method-override$)/.test(name));
}

/**
 * Whether a POST or PUT to `/api/files` is to create a resumable upload. A form and a body with a coding are stored in
 * another form than the one in which they arrive, so no offset of them can be told: "A resource that … does not want to
 * upgrade to a resumable upload for this request ignores the Upload-Complete: ?1 header."
 */
export function isUpgradable(req: Request): boolean {
  const dialect = dialectOf(req);
  const isComplete = completenessIn(req, dialect);
  if (!isResumable(req) || isComplete === undefined) return false;
  if (!isComplete) return true;
  // Over HTTP/1.0, which some proxies speak to servers, no 104 can tell the address: nobody could resume the upload.
  return dialect.version !== undefined && req.httpVersion !== '1.0' && !isForm(req) && !isCoded(req);
}

function isCoded(req: Request): boolean {
  return !/^(\s*identity\s*|\s*)$/i.test(req.get('Content-Encoding') ?? '');
}

/** Whether the request says that its end is the end of the upload; undefined: it does not say. */
export function completenessIn(req: Request, { completeness }: Dialect): boolean | undefined {
  const said = parseBoolean(req.get(completeness));
  return said === undefined || completeness === 'Upload-Complete' ? said : !said;
}

/** @returns bytes; undefined: the body is chunked */
export function contentLengthOf({ headers }: Request): number | undefined {
  return headers['transfer-encoding'] === undefined ? Number(headers['content-length'] ?? 0) : undefined;
}

export function offsetIn(req: Request): number | undefined {
  return parseWholeNumber(req.get('Upload-Offset'));
}

/**
 * The length of the upload as far as this request tells: "the sum of the current offset and the Content-Length header
 * field value" if it completes the upload, or Upload-Length. "If indicators (1) and (2) are both present in the same
 * request, their indicated lengths MUST match."
 * @param known the length that an earlier request has told; null: none
 * @returns bytes; null if it is not known
 * @throws {InconsistentLength}
 */
export function lengthIn(
  req: Request,
  state: { offset: number; isLast: boolean; known: number | null },
): number | null {
  const { offset, isLast, known } = state;
  const content = contentLengthOf(req);
  const end = offset + (content ?? 0);
  if (known !== null && end > known) throw new BeyondLength(known);
  const told = [
    known,
    parseWholeNumber(req.get('Upload-Length')),
    isLast && content !== undefined ? offset + content : undefined,
  ].filter((length) => length !== null && length !== undefined);
  const [length = null] = told;
  if (told.some((other) => other !== length)) {
    throw new InconsistentLength(
      `The request and those before it tell different lengths: ${told.join(', ')}`,
    );
  }
  if (length !== null && end > length) {
    throw new InconsistentLength(`The request announces ${length} bytes and brings more`);
  }
  return length;
}

/** Versions 3 to 6: "The server MUST reject requests with either of these fields". @throws {AppError} invalid_request */
export function refuseState(req: Request, { plainQuestions }: Dialect): void {
  const sent = STATE_FIELDS.find((name) => req.get(name) !== undefined);
  if (plainQuestions && sent) throw new AppError('invalid_request', { detail: `Send no ${sent}` });
}

/**
 * The description of a new upload: from Content-Disposition, Content-Type, the query and Repr-Digest, and besides these
 * from the Upload-Metadata of tus.
 * @throws {AppError} invalid_request
 */
export function describeIn(req: Request): Description {
  const sent = describeUpload(req.get('Upload-Metadata'));
  const { sha256, settings } = req.query;
  const digest = digestsIn(req, 'Repr-Digest')['sha-256']?.toString('hex');
  if (digest && typeof sha256 === 'string' && sha256.toLowerCase() !== digest) {
    throw new AppError('invalid_request', { detail: 'sha256 in the query is not the one in Repr-Digest' });
  }
  const type = mediaTypeOf(req);
  const told = toMetadata({
    filename: filenameIn(req),
    type: type && !NO_TYPE_OF_A_FILE.includes(type) ? req.get('Content-Type') : undefined,
    sha256: digest ?? (typeof sha256 === 'string' ? sha256 : undefined),
    settings: typeof settings === 'string' ? settings : undefined,
  });
  const described = checkMetadata({ ...sent.metadata, ...told });
  return {
    ...described,
    metadataHeader: Object.keys(told).length > 0 ? null : (sent.metadataHeader ?? null),
  };
}

/** "The Content-Disposition header field can be used to transmit a filename." */
function filenameIn(req: Request): string | undefined {
  const { filename } = req.query;
  if (typeof filename === 'string') return filename;
  try {
    return contentDisposition.parse(req.get('Content-Disposition') ?? '').parameters.filename;
  } catch {
    // Other uses of this field are no concern of an upload.
    return undefined;
  }
}

/** In lower case, without parameters. */
export function mediaTypeOf(req: Request): string | undefined {
  return req.get('Content-Type')?.split(';')[0]?.trim().toLowerCase();
}

/**
 * The digests of a field of RFC 9530 that are verified here. Those of other algorithms are ignored: "A recipient MAY
 * ignore any or all Integrity fields." A field that cannot be read is refused, since the client relies on it.
 * @throws {AppError} invalid_request
 */
export function digestsIn(req: Request, name: 'Content-Digest' | 'Repr-Digest'): Digests {
  const field = req.get(name);
  if (field === undefined) return {};
  const members = parseDictionary(field);
  if (!members) throw new AppError('invalid_request', { detail: `${name} is no dictionary (RFC 9651, 3.2)` });
  const digests: Digests = {};
  for (const [algorithm, size] of Object.entries(DIGEST_SIZES) as [keyof typeof DIGEST_SIZES, number][]) {
    const digest = members.get(algorithm);
    if (digest === undefined) continue;
    if (!Buffer.isBuffer(digest) || digest.length !== size) {
      throw new AppError('invalid_request', {
        detail: `${algorithm} in ${name} must be ${size} bytes, in Base64 between two colons`,
      });
    }
    digests[algorithm] = digest;
  }
  return digests;
}

/**
 * How much the client wants to know the SHA-256 of the whole, by Want-Repr-Digest (RFC 9530, 4): "0 means "not acceptable"".
 * @returns undefined if it does not say
 */
export function reprSha256Preference(req: Request): number | undefined {
  const preference = parseDictionary(req.get('Want-Repr-Digest') ?? '')?.get('sha-256');
  return typeof preference === 'string' ? parseWholeNumber(preference) : undefined;
}
