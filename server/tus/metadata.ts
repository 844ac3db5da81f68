import { isUtf8 } from 'node:buffer';
import { AppError } from '../../core/errors.js';
import {
  CONTROL,
  checkMetadata,
  type Description,
  KEY,
  MAX_KEYS,
  type Metadata,
  requireUsable,
} from '../../core/uploads/description.js';

/* The header Upload-Metadata of tus. core/uploads/description.ts says what its keys mean, and checks their values. */

/**
 * Reads an Upload-Metadata header: "one or more comma-separated key-value pairs. The key and value MUST be
 * separated by a space. The key MUST NOT contain spaces and commas and MUST NOT be empty. The key SHOULD be
 * ASCII encoded and the value MUST be Base64 encoded. All keys MUST be unique. … Since metadata can contain
 * arbitrary binary values, Servers SHOULD carefully validate metadata values or sanitize them before using
 * them as header values". Clients also send an empty header, a comma at the end, blanks around commas, and
 * several headers, which Node joins. Bytes of a value that are not UTF-8 become U+FFFD.
 * @returns the decoded values, null for a key without a value; and the header as it came, without blanks
 * @throws {AppError} invalid_request
 */
function parseMetadata(header: string): { metadata: Metadata; header: string } {
  const metadata: Metadata = {};
  const pairs = header
    .split(',')
    .map((pair) => pair.trim())
    .filter((pair) => pair !== '');
  if (pairs.length > MAX_KEYS)
    throw invalid(`Upload-Metadata has ${pairs.length} keys; at most ${MAX_KEYS} are taken`);
  for (const pair of pairs) {
    const [key = '', value = '', ...more] = pair.split(' ');
    if (more.length > 0 || !KEY.test(key)) {
      throw invalid(
        'Upload-Metadata must be pairs of an ASCII key, one space and a value in Base64, separated by commas',
      );
    }
    if (Object.hasOwn(metadata, key)) throw invalid(`Upload-Metadata has the key ${key} twice`);
    requireUsable(key);
    metadata[key] = value === '' ? null : decode(key, value);
  }
  return { metadata, header: pairs.join(',') };
}

function decode(key: string, value: string): string {
  const bytes = Buffer.from(value, 'base64');
  // Node ignores invalid characters, missing padding, and bits after the last byte.
  if (bytes.toString('base64') !== value) {
    throw invalid(`The value of ${key} in Upload-Metadata is not Base64 (RFC 4648, section 4, with padding)`);
  }
  if (isUtf8(bytes)) return bytes.toString();
  // Bytes of another encoding may decode to control characters, which PostgreSQL or a terminal cannot handle.
  return bytes.toString().replaceAll(new RegExp(CONTROL, 'gu'), '\uFFFD');
}

/**
 * Turns an Upload-Metadata header into the description that the ledger keeps: "responses to HEAD requests
 * MUST include the Upload-Metadata header and its value as specified by the Client during the creation".
 * @param header undefined: the client sent none
 * @throws {AppError} invalid_request
 */
export function describeUpload(header = ''): Description {
  const sent = parseMetadata(header);
  return { ...checkMetadata(sent.metadata), metadataHeader: sent.header || null };
}

/** Writes metadata as an Upload-Metadata header. */
export function writeMetadata(metadata: Metadata): string {
  return Object.entries(metadata)
    .map(([key, value]) => (value === null ? key : `${key} ${Buffer.from(value).toString('base64')}`))
    .join(',');
}

function invalid(detail: string): AppError {
  return new AppError('invalid_request', { detail });
}
