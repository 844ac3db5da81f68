import { AppError } from '../core/errors.js';

type Metadata = Record<string, string | null>;

/** UTF-8 bytes of all keys and values together. */
const MAX_BYTES = 8 * 1024;

/** Characters; what most file systems take as a name. */
const MAX_FILENAME = 255;

/** Clients send the file's name under the one key or the other. */
const NAME_KEYS = ['filename', 'name'];

/**
 * Checks the metadata of a new upload (tus: the decoded Upload-Metadata) and reduces the name of the file to a bare name.
 * @throws {AppError} invalid_request
 */
export function checkMetadata(metadata: Metadata): Metadata {
  const size = Object.entries(metadata).reduce(
    (sum, [key, value]) => sum + key.length + byteLength(value),
    0,
  );
  if (size > MAX_BYTES) throw invalid(`The metadata has ${size} bytes; at most ${MAX_BYTES} are taken`);
  for (const [key, value] of Object.entries(metadata)) {
    if (hasControlCharacter(key) || hasControlCharacter(value ?? '')) {
      throw invalid('The metadata must not hold control characters');
    }
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
  return checked;
}

function bareName(key: string, path: string): string {
  const name = path.split(/[/\\]/).at(-1)?.trim();
  if (!name || name === '.' || name === '..') throw invalid(`${key} in the metadata is not a name of a file`);
  if (name.length > MAX_FILENAME) throw invalid(`${key} must have at most ${MAX_FILENAME} characters`);
  return name;
}

function byteLength(value: string | null): number {
  return value === null ? 0 : Buffer.byteLength(value);
}

function hasControlCharacter(text: string): boolean {
  return [...text].some((character) => {
    const code = character.charCodeAt(0);
    return code < 0x20 || code === 0x7f;
  });
}

function invalid(detail: string): AppError {
  return new AppError('invalid_request', { detail });
}
