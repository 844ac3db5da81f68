import { isUtf8 } from 'node:buffer';
import type { Problem } from '../core/database/entities/file.js';
import { AppError } from '../core/errors.js';
import type { Description } from '../core/uploads/create.js';

/*
 * The metadata of a file. Clients send it as Upload-Metadata (tus), as JSON (presign), or in a query or form.
 * All of it is checked here. Valid names stay as they are: most systems allow `12:30?.txt`, and emoji contain
 * U+200D. A browser or file system replaces the characters that it does not accept when it saves the file.
 */

type Metadata = Record<string, string | null>;

/** UTF-8 bytes of all keys and values together. */
const MAX_BYTES = 8 * 1024;

const MAX_KEYS = 64;

/** In characters; the longest name that most file systems accept. */
const MAX_FILENAME = 255;

/** Clients send the name of the file under either key. */
const NAME_KEYS = ['filename', 'name'];

const BLANKS_AROUND = /^[ \t]+|[ \t]+$/g;

/** Visible ASCII. */
const KEY = /^[!-+\--~]+$/;

/** C0 and C1 controls, and the two characters that some programs take for a line break. */
const CONTROL = /[\p{Cc}\u2028\u2029]/u;

/**
 * Characters that turn the direction of the text around them: `photo\u202Egpj.exe` looks like `photoexe.jpg`.
 * Valid names contain some too (WhatsApp begins its names with U+200E) and lose nothing without them.
 */
const BIDI_CONTROL = /[\u061C\u200E\u200F\u202A-\u202E\u2066-\u2069]/g;

const BIDI_WARNING: Problem = {
  step: 'upload',
  code: 'name_changed',
  detail: 'Characters that turn the direction of text were removed from the name of the file',
};

/** Text without any visible character. */
const INVISIBLE = /^[\p{Cf}\p{Z}]*$/u;

/** RFC 9110, 8.3.1: type "/" subtype, and parameters. */
const MEDIA_TYPE =
  /^[\w!#$%&'*+.^`|~-]+\/[\w!#$%&'*+.^`|~-]+([ \t]*;[ \t]*[\w!#$%&'*+.^`|~-]+=([\w!#$%&'*+.^`|~-]+|"[^"\\]*"))*$/;

const MAX_MEDIA_TYPE = 255;

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
export function parseMetadata(header: string): { metadata: Metadata; header: string } {
  const metadata: Metadata = {};
  const pairs = header
    .split(',')
    .map((pair) => pair.replace(BLANKS_AROUND, ''))
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

/** Puts the description from a client without tus under the keys that tus clients use. */
export function toMetadata(described: {
  filename?: string | undefined;
  type?: string | undefined;
  sha256?: string | undefined;
}): Record<string, string> {
  const { filename, type, sha256 } = described;
  return {
    ...(filename ? { filename } : {}),
    ...(type ? { filetype: type } : {}),
    ...(sha256 ? { sha256 } : {}),
  };
}

/**
 * Checks the metadata of a new upload, in whatever form it came. Reduces a path to the bare name of the file.
 * Drops an invalid media type, because browsers sometimes send one.
 * @returns the metadata to keep, with warnings for the file that the upload becomes
 * @throws {AppError} invalid_request
 */
export function checkMetadata(metadata: Metadata): Description {
  const entries = Object.entries(metadata);
  if (entries.length > MAX_KEYS) {
    throw invalid(`The metadata has ${entries.length} keys; at most ${MAX_KEYS} are taken`);
  }
  const size = entries.reduce((sum, [key, value]) => sum + byteLength(key) + byteLength(value), 0);
  if (size > MAX_BYTES) throw invalid(`The metadata has ${size} bytes; at most ${MAX_BYTES} are taken`);
  for (const [key, value] of entries) {
    requireUsable(key);
    requireText(key, key);
    requireText(value ?? '', key);
  }
  const { sha256 } = metadata;
  if (sha256 && !/^[0-9a-f]{64}$/i.test(sha256)) {
    throw invalid('sha256 in the metadata must be 64 hexadecimal digits');
  }
  const checked = { ...metadata };
  let turnsText = false;
  for (const key of NAME_KEYS) {
    const name = metadata[key];
    if (!name) continue;
    const plain = name.replaceAll(BIDI_CONTROL, '');
    turnsText ||= plain !== name;
    checked[key] = bareName(key, plain);
  }
  const { filetype } = metadata;
  if (filetype && !isMediaType(filetype)) checked.filetype = null;
  return { metadata: checked, warnings: turnsText ? [BIDI_WARNING] : [] };
}

function bareName(key: string, path: string): string {
  const name = path.split(/[/\\]/).at(-1)?.trim();
  if (!name || name === '.' || name === '..' || INVISIBLE.test(name)) {
    throw invalid(`${key} in the metadata is not a name of a file`);
  }
  if (name.length > MAX_FILENAME) throw invalid(`${key} must have at most ${MAX_FILENAME} characters`);
  return name;
}

function isMediaType(type: string): boolean {
  return type.length <= MAX_MEDIA_TYPE && MEDIA_TYPE.test(type);
}

/** A key that every object inherits could be mistaken for a key that the client sent. */
function requireUsable(key: string): void {
  if (key === '' || key in Object.prototype) throw invalid(`The metadata must not have the key "${key}"`);
}

function requireText(text: string, key: string): void {
  if (CONTROL.test(text)) throw invalid(`${printable(key)} in the metadata must not hold control characters`);
  if (!text.isWellFormed()) throw invalid(`${printable(key)} in the metadata holds half of a surrogate pair`);
}

/** A key in a form that is safe to show in a message. */
function printable(key: string): string {
  return KEY.test(key) ? key : 'A key';
}

function byteLength(value: string | null): number {
  return value === null ? 0 : Buffer.byteLength(value);
}

function invalid(detail: string): AppError {
  return new AppError('invalid_request', { detail });
}
