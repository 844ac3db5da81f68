import type { Problem } from '../database/entities/file.js';
import type { Upload } from '../database/entities/upload.js';
import { AppError } from '../errors.js';
import { parseSettings } from '../media/image-settings.js';

/*
 * The description of a new upload. A client sends it as metadata: as Upload-Metadata (tus), as JSON (presign), or in a
 * query or form. All of it is checked and interpreted here, once, when the upload is created; after that only the
 * columns count.
 *
 * Valid names stay as they are: most systems allow `12:30?.txt`, and emoji contain U+200D. A browser or file system
 * replaces the characters that it does not accept when it saves the file.
 */

/** Decoded; null for a key without a value. */
export type Metadata = Record<string, string | null>;

/** The client's description of a new upload, checked. */
export interface Description {
  metadata: Metadata;
  /** Upload-Metadata as it came, without blanks. */
  metadataHeader?: string | null;
  /** Warnings for the file that this upload becomes. */
  warnings?: Problem[];
}

/** The metadata's description of the file. `filename` is null if the client gave no name. */
export type Described = Pick<Upload, 'filename' | 'declaredType' | 'expectedSha256' | 'settings'>;

/** Assignments of an UPDATE of `uploads` that remove the description of an upload that has ended. */
export const FORGET_DESCRIPTION =
  "metadata = '{}', metadata_header = NULL, filename = NULL, declared_type = NULL, expected_sha256 = NULL, settings = NULL, concat_header = NULL";

/** UTF-8 bytes of all keys and values together. */
export const MAX_BYTES = 8 * 1024;

export const MAX_KEYS = 64;

/** In characters; the longest name that most file systems accept. */
const MAX_FILENAME = 255;

/** Clients send the name of the file under either key. */
const NAME_KEYS = ['filename', 'name'];

/** Visible ASCII. */
export const KEY = /^[!-+\--~]+$/;

/** C0 and C1 controls, and the two characters that some programs take for a line break. */
export const CONTROL = /[\p{Cc}\u2028\u2029]/u;

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
export const MEDIA_TYPE =
  /^[\w!#$%&'*+.^`|~-]+\/[\w!#$%&'*+.^`|~-]+([ \t]*;[ \t]*[\w!#$%&'*+.^`|~-]+=([\w!#$%&'*+.^`|~-]+|"[^"\\]*"))*$/;

export const MAX_MEDIA_TYPE = 255;

/** Some clients send the media type under `type`; others send something else under it. */
const PLAIN_MEDIA_TYPE = /^[^/\s]{1,127}\/[^/\s]{1,127}$/u;

/** Interprets checked metadata: clients use several keys, and leave values empty. */
export function interpretMetadata({ filename, name, filetype, type, sha256, settings }: Metadata): Described {
  return {
    filename: filename || name || null,
    declaredType: filetype || (type && PLAIN_MEDIA_TYPE.test(type) ? type : null),
    expectedSha256: sha256 ? sha256.toLowerCase() : null,
    settings: settings ? parseSettings(settings) : null,
  };
}

/** Puts the description from a client without tus under the keys that tus clients use. */
export function toMetadata(described: {
  filename?: string | undefined;
  type?: string | undefined;
  sha256?: string | undefined;
  /** JSON. */
  settings?: string | undefined;
}): Record<string, string> {
  const { filename, type, sha256, settings } = described;
  return {
    ...(filename ? { filename } : {}),
    ...(type ? { filetype: type } : {}),
    ...(sha256 ? { sha256 } : {}),
    ...(settings ? { settings } : {}),
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
    // JSON may have line breaks.
    if (key !== 'settings') requireText(value ?? '', key);
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
    const plain = withoutTurns(name);
    turnsText ||= plain !== name;
    checked[key] = bareName(key, plain);
  }
  const { filetype, settings } = metadata;
  if (filetype && !isMediaType(filetype)) checked.filetype = null;
  if (settings) {
    const parsed = parseSettings(settings);
    checked.settings = parsed && JSON.stringify(parsed);
  }
  return { metadata: checked, warnings: turnsText ? [BIDI_WARNING] : [] };
}

/**
 * Checks metadata that a hook puts in place of the client's. Unlike ours, its keys may be anything.
 * @throws {AppError} invalid_request
 */
export function checkHookMetadata(metadata: Metadata): Description {
  const wrong = Object.keys(metadata).find((key) => !KEY.test(key));
  if (wrong !== undefined) throw invalid('A key of the metadata must be visible ASCII without commas');
  // A key without a value comes as an empty one.
  const values = Object.entries(metadata).map(([key, value]) => [key, value || null]);
  return { ...checkMetadata(Object.fromEntries(values)), metadataHeader: null };
}

/**
 * Checks a new name for a file, by the same rules as at its creation: a path is reduced to the bare name.
 * @returns the name to keep, and a warning if characters were removed from it
 * @throws {AppError} invalid_request
 */
export function checkFilename(filename: string): { filename: string; warnings: Problem[] } {
  requireText(filename, 'filename');
  const plain = withoutTurns(filename);
  return { filename: bareName('filename', plain), warnings: plain === filename ? [] : [BIDI_WARNING] };
}

function withoutTurns(name: string): string {
  return name.replaceAll(BIDI_CONTROL, '');
}

function bareName(key: string, path: string): string {
  const name = path.split(/[/\\]/).at(-1)?.trim();
  if (!name || name === '.' || name === '..' || INVISIBLE.test(name)) {
    throw invalid(`${key} is not a name of a file`);
  }
  if (name.length > MAX_FILENAME) throw invalid(`${key} must have at most ${MAX_FILENAME} characters`);
  return name;
}

/** Whether a text is a media type, with or without parameters. */
function isMediaType(type: string): boolean {
  return type.length <= MAX_MEDIA_TYPE && MEDIA_TYPE.test(type);
}

/**
 * A key that every object inherits could be mistaken for a key that the client sent.
 * @throws {AppError} invalid_request
 */
export function requireUsable(key: string): void {
  if (key === '' || key in Object.prototype) throw invalid(`The metadata must not have the key "${key}"`);
}

function requireText(text: string, key: string): void {
  if (CONTROL.test(text)) throw invalid(`${printable(key)} must not hold control characters`);
  if (!text.isWellFormed()) throw invalid(`${printable(key)} holds half of a surrogate pair`);
}

/** A key in a form that is safe to show in a message. */
function printable(key: string): string {
  return KEY.test(key) ? key : 'A key of the metadata';
}

function byteLength(value: string | null): number {
  return value === null ? 0 : Buffer.byteLength(value);
}

function invalid(detail: string): AppError {
  return new AppError('invalid_request', { detail });
}
