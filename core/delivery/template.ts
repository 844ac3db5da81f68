/*
 * Templates of the keys and paths at which files are delivered, and of header values and tags: texts with placeholders,
 * such as `{owner}/{yyyy}/{id}/{filename}`. Pure functions: templates are checked when the process starts, so that rendering
 * them never fails.
 *
 * In a key, the value of a placeholder is always a part of one segment: it has no slash, no control character, no dot at its
 * beginning, and a limited length. So no file can leave its folder, and no key becomes longer than S3 allows.
 */

/** The file that a template is rendered for. */
export interface DeliveredFile {
  id: string;
  ownerId: string;
  filename: string;
  /** Media type. */
  type: string;
  createdAt: Date;
  /** Hex. */
  sha256: string;
  /** The metadata of the upload. */
  metadata: Record<string, string | null>;
}

/** A template that cannot be used. The message says why. */
export class TemplateError extends Error {
  override name = 'TemplateError';
}

type Piece = { text: string } | { placeholder: string };

/** A text with placeholders. */
export type Template = readonly Piece[];

/** A key or path with placeholders. */
export interface PathTemplate {
  segments: readonly Template[];
  /** Whether two files can never have the same path. */
  isUnique: boolean;
  /** Whether two files with different bytes may have the same path. */
  mayCollide: boolean;
}

/** UTF-8 bytes of a segment: what file systems take. */
const MAX_SEGMENT = 255;

/** UTF-8 bytes of a key: what S3 takes. */
export const MAX_KEY = 1024;

/** What `{filename}` gets at least, in UTF-8 bytes. */
const MIN_FILENAME = 40;

/** The longest value of a placeholder in a key, in UTF-8 bytes. `{filename}` gets the rest of its segment. */
const LONGEST: Record<string, number> = {
  owner: 36,
  id: 36,
  ext: 16,
  type: 100,
  yyyy: 4,
  mm: 2,
  dd: 2,
  sha256: 64,
};
const LONGEST_METADATA = 100;

/** Stands for a value that is missing or has no character that can be used. */
const EMPTY = '_';

const METADATA = /^metadata\.([!-+\--z|~]+)$/;

const EXTENSION = /\.([A-Za-z0-9]{1,16})$/;

/** Control characters, and those that turn the direction of the text around them. */
const UNUSABLE = /[\p{Cc}\u2028\u2029\u061C\u200E\u200F\u202A-\u202E\u2066-\u2069]+/u;
const ALL_UNUSABLE = new RegExp(UNUSABLE, 'gu');

/** Reads a text with placeholders. @throws {TemplateError} */
export function parseTemplate(text: string): Template {
  if (UNUSABLE.test(text) || !text.isWellFormed()) throw new TemplateError('it has control characters');
  const pieces = text
    .split(/(\{[^{}]*\})/)
    .filter((part) => part !== '')
    .map((part) => (part.startsWith('{') && part.endsWith('}') ? toPlaceholder(part) : { text: part }));
  const stray = pieces.find((piece) => 'text' in piece && /[{}]/.test(piece.text));
  if (stray) throw new TemplateError('braces must enclose the name of a placeholder, as in {id}');
  return pieces;
}

function toPlaceholder(part: string): Piece {
  const name = part.slice(1, -1);
  if (Object.hasOwn(LONGEST, name) || name === 'filename' || METADATA.test(name))
    return { placeholder: name };
  throw new TemplateError(
    `${part} is not a placeholder; there are {filename}, {${Object.keys(LONGEST).join('}, {')}} and {metadata.<key>}`,
  );
}

/**
 * Reads the template of a key or path: segments with slashes between them.
 * @param prefixBytes UTF-8 bytes that will stand before it
 * @throws {TemplateError}
 */
export function parsePath(text: string, prefixBytes = 0): PathTemplate {
  if (text.includes('\\')) throw new TemplateError('it must not have backslashes');
  const segments = text.split('/').map(parseTemplate);
  if (segments.some((segment) => segment.length === 0)) {
    throw new TemplateError('it must have something between two slashes, and neither begin nor end with one');
  }
  if (text.split('/').some((segment) => /^\.\.?$/.test(segment))) {
    throw new TemplateError('it must not have the segments . and ..');
  }
  const has = (name: string) => segments.flat().some((piece) => isPlaceholder(piece, name));
  const path = { segments, isUnique: has('id'), mayCollide: !has('id') && !has('sha256') };
  const longest = segments.map((_, index) => longestSegment(path, index));
  const bytes = longest.reduce((sum, segment) => sum + segment + 1, prefixBytes - 1);
  if (bytes > MAX_KEY) {
    throw new TemplateError(`it could become ${bytes} bytes long; at most ${MAX_KEY} are possible`);
  }
  return path;
}

/**
 * The path of a file.
 * @param suffix is added to the name in the last segment, before its extension
 */
export function renderPath(path: PathTemplate, file: DeliveredFile, suffix?: string): string {
  const last = path.segments.length - 1;
  return path.segments
    .map((segment, index) => {
      const room = filenameRoom(path, index);
      const rendered = segment
        .map((piece) => ('text' in piece ? piece.text : segmentValue(piece.placeholder, file, room)))
        .join('');
      return index === last && suffix !== undefined ? withSuffix(rendered, suffix) : rendered;
    })
    .join('/');
}

/** A text with the values as they are, apart from control characters. */
export function renderText(template: Template, file: DeliveredFile): string {
  return template
    .map((piece) => ('text' in piece ? piece.text : plain(rawValue(piece.placeholder, file) ?? '')))
    .join('');
}

/** As many of the first characters as fit into this number of UTF-8 bytes. */
export function cutBytes(text: string, most: number): string {
  if (Buffer.byteLength(text) <= most) return text;
  let bytes = 0;
  let cut = '';
  for (const character of text) {
    bytes += Buffer.byteLength(character);
    if (bytes > most) break;
    cut += character;
  }
  return cut;
}

function isPlaceholder(piece: Piece, name: string): boolean {
  return 'placeholder' in piece && piece.placeholder === name;
}

/** UTF-8 bytes, at most. @throws {TemplateError} when no room is left for the names of files */
function longestSegment(path: PathTemplate, index: number): number {
  const hasName = path.segments[index]?.some((piece) => isPlaceholder(piece, 'filename'));
  const room = filenameRoom(path, index);
  if (hasName ? room >= MIN_FILENAME : room >= 0) return hasName ? MAX_SEGMENT : MAX_SEGMENT - room;
  throw new TemplateError(`a part between two slashes could become longer than ${MAX_SEGMENT} bytes`);
}

/** UTF-8 bytes that each `{filename}` of a segment may have; without one, those that are left over. */
function filenameRoom({ segments, isUnique }: PathTemplate, index: number): number {
  const segment = segments[index] ?? [];
  const names = segment.filter((piece) => isPlaceholder(piece, 'filename')).length;
  const fixed = segment.reduce((sum, piece) => {
    if ('text' in piece) return sum + Buffer.byteLength(piece.text);
    if (piece.placeholder === 'filename') return sum;
    return sum + (LONGEST[piece.placeholder] ?? LONGEST_METADATA);
  }, 0);
  // The id of the file and a hyphen.
  const suffix = !isUnique && index === segments.length - 1 ? 37 : 0;
  return Math.floor((MAX_SEGMENT - fixed - suffix) / Math.max(1, names));
}

function segmentValue(placeholder: string, file: DeliveredFile, filenameBytes: number): string {
  const value = toSegment(rawValue(placeholder, file) ?? '', placeholder === 'type' ? '-' : EMPTY);
  if (placeholder === 'filename') return cutFilename(value, filenameBytes);
  return cutBytes(value, LONGEST[placeholder] ?? LONGEST_METADATA);
}

/** @param slash stands for slashes */
function toSegment(value: string, slash: string): string {
  return plain(value).normalize('NFC').replace(/[/\\]/g, slash).trim().replace(/^\.+/, EMPTY) || EMPTY;
}

function plain(value: string): string {
  return value.toWellFormed().replace(ALL_UNUSABLE, '');
}

/** Keeps the extension. */
function cutFilename(name: string, most: number): string {
  const [extension = ''] = EXTENSION.exec(name) ?? [];
  return cutBytes(name.slice(0, name.length - extension.length), most - extension.length) + extension;
}

function withSuffix(name: string, suffix: string): string {
  const [extension = ''] = EXTENSION.exec(name) ?? [];
  return `${name.slice(0, name.length - extension.length)}-${suffix}${extension}`;
}

/** @returns undefined: this file has no such value */
function rawValue(placeholder: string, file: DeliveredFile): string | undefined {
  const [, key] = METADATA.exec(placeholder) ?? [];
  if (key !== undefined) return (Object.hasOwn(file.metadata, key) && file.metadata[key]) || undefined;
  const day = file.createdAt.toISOString();
  switch (placeholder) {
    case 'owner':
      return file.ownerId;
    case 'ext':
      return EXTENSION.exec(file.filename)?.[1]?.toLowerCase() ?? 'bin';
    case 'type':
      return file.type.split(';')[0]?.trim();
    case 'yyyy':
      return day.slice(0, 4);
    case 'mm':
      return day.slice(5, 7);
    case 'dd':
      return day.slice(8, 10);
    case 'id':
    case 'filename':
    case 'sha256':
      return file[placeholder];
    default:
      throw new Error(`no value for {${placeholder}}`);
  }
}
