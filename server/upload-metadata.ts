import { AppError } from '../core/errors.js';

/*
 * What clients say of a file: as Upload-Metadata (tus), as JSON (presign) or in a query or form. All of it is checked
 * here, and honest names stay as they are: `12:30?.txt` is one on most systems, emoji hold U+200D and names made by
 * WhatsApp U+200E. What a browser or file system does not take it replaces when the file is saved.
 */

type Metadata = Record<string, string | null>;

/** UTF-8 bytes of all keys and values together. */
const MAX_BYTES = 8 * 1024;

const MAX_KEYS = 64;

/** Characters; what most file systems take as a name. */
const MAX_FILENAME = 255;

/** Clients send the file's name under the one key or the other. */
const NAME_KEYS = ['filename', 'name'];

/** Visible ASCII. */
const KEY = /^[!-+\--~]+$/;

/** C0 and C1 controls, and what some take for a line break. */
const CONTROL = /[\p{Cc}\u2028\u2029]/u;

/** Embeddings, overrides and isolates: `photo\u202Egpj.exe` looks like `photoexe.jpg`. */
const REORDERING = /[\u202A-\u202E\u2066-\u2069]/;

/** Nothing that could be seen. */
const INVISIBLE = /^[\p{Cf}\p{Z}]*$/u;

/** RFC 9110, 8.3.1: type "/" subtype, and parameters. */
const MEDIA_TYPE =
  /^[\w!#$%&'*+.^`|~-]+\/[\w!#$%&'*+.^`|~-]+([ \t]*;[ \t]*[\w!#$%&'*+.^`|~-]+=([\w!#$%&'*+.^`|~-]+|"[^"\\]*"))*$/;

const MAX_MEDIA_TYPE = 255;

/**
 * Reads an Upload-Metadata header: "one or more comma-separated key-value pairs. The key and value MUST be separated by a
 * space. The key MUST NOT contain spaces and commas and MUST NOT be empty. The key SHOULD be ASCII encoded and the value
 * MUST be Base64 encoded. All keys MUST be unique. … Since metadata can contain arbitrary binary values, Servers SHOULD
 * carefully validate metadata values or sanitize them before using them as header values". Ours are UTF-8.
 * @returns values decoded; null where a key has none
 * @throws {AppError} invalid_request
 */
export function parseMetadata(header: string): Metadata {
  const metadata: Metadata = {};
  const pairs = header.split(',');
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
  return metadata;
}

function decode(key: string, value: string): string {
  const bytes = Buffer.from(value, 'base64');
  // Node overlooks characters that do not belong there, missing padding, and bits behind the last byte.
  if (bytes.toString('base64') !== value) {
    throw invalid(`The value of ${key} in Upload-Metadata is not Base64 (RFC 4648, section 4, with padding)`);
  }
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw invalid(`The value of ${key} in Upload-Metadata is not UTF-8`);
  }
}

/** What other clients tell of a file, under the names that tus clients use. */
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
 * Checks the metadata of a new upload, however it came. The name of the file is reduced to a bare name; a type that is
 * none, as browsers send it at times, is forgotten.
 * @throws {AppError} invalid_request
 */
export function checkMetadata(metadata: Metadata): Metadata {
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
  for (const key of NAME_KEYS) {
    const name = metadata[key];
    if (name) checked[key] = bareName(key, name);
  }
  const { filetype } = metadata;
  if (filetype && !isMediaType(filetype)) checked.filetype = null;
  return checked;
}

function bareName(key: string, path: string): string {
  if (REORDERING.test(path)) {
    throw invalid(`${key} must not hold characters that change the direction of the text around them`);
  }
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

/** What every object has could be mistaken for what a client has sent. */
function requireUsable(key: string): void {
  if (key === '' || key in Object.prototype) throw invalid(`The metadata must not have the key "${key}"`);
}

function requireText(text: string, key: string): void {
  if (CONTROL.test(text)) throw invalid(`${printable(key)} in the metadata must not hold control characters`);
  if (!text.isWellFormed()) throw invalid(`${printable(key)} in the metadata holds half of a surrogate pair`);
}

/** A key as it may stand in a message. */
function printable(key: string): string {
  return KEY.test(key) ? key : 'A key';
}

function byteLength(value: string | null): number {
  return value === null ? 0 : Buffer.byteLength(value);
}

function invalid(detail: string): AppError {
  return new AppError('invalid_request', { detail });
}
