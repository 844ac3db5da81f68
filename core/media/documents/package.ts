import { XMLParser } from 'fast-xml-parser';
import { AppError } from '../../errors.js';
import { toPlainJson } from '../plain-json.js';
import { type TaskInput, tooLarge } from '../task-input.js';
import { makeThumbnails } from '../thumbnails.js';
import { type Entry, readDirectory, readEntry } from '../zip-directory.js';
import type { Description } from './description.js';

/* Documents that are ZIP archives of XML and images. */

/** Bytes of one entry, before and after it is decompressed. */
const MAX_ENTRY = 4 * 1024 ** 2;

/** An element: its text is `#text`, its attributes begin with `@`. Elements and attributes are without their prefixes. */
export type Xml = string | { [name: string]: Xml | undefined } | Xml[];

export interface Package {
  has(name: string): boolean;
  /** Parses an entry. @returns undefined if there is no such entry, or it is damaged, too large or no XML */
  parse(name: string): Xml | undefined;
  /** Describes the document, and draws one of its entries if there is such an image. */
  describe(facts: Record<string, unknown>, image: string | undefined): Promise<Description>;
}

/** @throws {AppError} unreadable, too_much_memory */
export function openPackage(input: TaskInput): Package {
  const { bytes, size } = input;
  if (bytes.length < size) throw tooLarge(size, bytes.length);
  const directory = readDirectory({ tail: bytes });
  if (!directory) throw new AppError('unreadable', { detail: 'The document is damaged or cut off' });
  const entries = new Map<string, Entry>(directory.entries.map((entry) => [entry.name, entry]));
  /** Names of entries that are there and cannot be read. */
  const unread: string[] = [];
  const readWith = <T>(name: string, make: (content: Buffer) => T) => {
    const entry = entries.get(name);
    if (!entry) return undefined;
    const content = readEntry({ head: bytes, tail: bytes, size }, entry, MAX_ENTRY);
    const made = content && make(content);
    if (made === undefined) unread.push(name);
    return made;
  };
  return {
    has: (name) => entries.has(name),
    parse: (name) => readWith(name, parseXml),
    async describe(facts, image) {
      const drawn = await drawImage(
        input,
        readWith(image ?? '', (content) => content),
      );
      const detail = `These parts of the document are damaged, or too large: ${unread.join(', ').slice(0, 500)}`;
      const warnings = unread.length > 0 ? [{ code: 'damaged', detail }, ...drawn.warnings] : drawn.warnings;
      return { facts: toPlainJson(facts), thumbnails: drawn.thumbnails, warnings };
    },
  };
}

const parser = new XMLParser({
  ignoreAttributes: false,
  attributeNamePrefix: '@',
  removeNSPrefix: true,
  parseTagValue: false,
  parseAttributeValue: false,
});

/** Documents need no DOCTYPE, with which entities could multiply. */
function parseXml(content: Buffer): Xml | undefined {
  const isWide = content[0] === 0xff && content[1] === 0xfe;
  const text = new TextDecoder(isWide ? 'utf-16le' : 'utf-8').decode(content);
  if (/<!DOCTYPE/i.test(text)) return undefined;
  try {
    return parser.parse(text);
  } catch {
    return undefined;
  }
}

/** Elements on a path from an element; of several with the same name, all. */
export function find(xml: Xml | undefined, ...path: string[]): Xml[] {
  return path.reduce<Xml[]>(
    (found, name) =>
      found.flatMap((one) => {
        if (typeof one !== 'object' || Array.isArray(one)) return [];
        const next = Object.hasOwn(one, name) ? one[name] : undefined;
        return next === undefined ? [] : Array.isArray(next) ? next : [next];
      }),
    xml === undefined ? [] : [xml],
  );
}

/** The text of the first element on a path that has one. */
export function textAt(xml: Xml | undefined, ...path: string[]): string | undefined {
  return find(xml, ...path)
    .map((one) => (typeof one === 'string' ? one : String(find(one, '#text')[0] ?? '')).trim())
    .find((text) => text !== '');
}

/** @returns undefined if it is no whole number */
export function toCount(text: string | undefined): number | undefined {
  return text !== undefined && /^\d{1,15}$/.test(text) ? Number(text) : undefined;
}

/** A date and time of XML Schema, without parts of a second. @returns undefined if there is no such date */
export function toDate(text: string | undefined): string | undefined {
  const date = text?.replace(/(:\d\d)\.\d+/, '$1') ?? '';
  return /^\d{4}(-\d\d){0,2}(T|$)/.test(date) && !Number.isNaN(Date.parse(date)) ? date : undefined;
}

/** Makes thumbnails of an image in the document. Without one, or if it cannot be decoded, there are none. */
async function drawImage(
  { limits }: TaskInput,
  image: Buffer | undefined,
): Promise<Pick<Description, 'thumbnails' | 'warnings'>> {
  if (!image) return { thumbnails: [], warnings: [] };
  try {
    const { thumbnails } = await makeThumbnails({ bytes: image, size: image.length, limits });
    return { thumbnails, warnings: [] };
  } catch (error) {
    if (!(error instanceof AppError)) throw error;
    return { thumbnails: [], warnings: [{ code: error.code, detail: error.message }] };
  }
}
