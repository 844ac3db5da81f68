import { inflateRawSync } from 'node:zlib';
import type { Bytes, Format } from './format.js';
import { latin1 } from './plain-text.js';

/*
 * Detects the format of a ZIP archive by the names of its entries. The names are in the central directory at the end of
 * the archive (PKWARE APPNOTE 4.3). If the directory is longer than the sample, the names within the sample count.
 */

interface Entry {
  name: string;
  method: number;
  compressedSize: number;
  /** Position of its local header, from the start of the archive. */
  offset: number;
}

const END = 0x06054b50;
const END_LENGTH = 22;
const MAX_COMMENT = 0xffff;
const END_64 = 0x06064b50;
const CENTRAL = 0x02014b50;
const CENTRAL_MAGIC = Buffer.from('PK\x01\x02', 'latin1');
const CENTRAL_LENGTH = 46;
const LOCAL = 0x04034b50;
const LOCAL_LENGTH = 30;

/** Entries that reveal the type are smaller than this, in bytes. */
const MAX_TELLING = 1024 ** 2;

/** How many positions are tried when the start of the directory is not known. */
const MAX_TRIES = 100;

const OPEN_XML = 'application/vnd.openxmlformats-officedocument.';

/** Extensions of formats whose archives contain their media type, by that type without `.12`. */
const EXTENSIONS = new Map<string, string>(
  Object.entries({
    'application/epub+zip': 'epub',
    'application/vnd.oasis.opendocument.text': 'odt',
    'application/vnd.oasis.opendocument.text-template': 'ott',
    'application/vnd.oasis.opendocument.spreadsheet': 'ods',
    'application/vnd.oasis.opendocument.spreadsheet-template': 'ots',
    'application/vnd.oasis.opendocument.presentation': 'odp',
    'application/vnd.oasis.opendocument.presentation-template': 'otp',
    'application/vnd.oasis.opendocument.graphics': 'odg',
    'application/vnd.oasis.opendocument.graphics-template': 'otg',
    [`${OPEN_XML}wordprocessingml.document`]: 'docx',
    [`${OPEN_XML}wordprocessingml.template`]: 'dotx',
    [`${OPEN_XML}spreadsheetml.sheet`]: 'xlsx',
    [`${OPEN_XML}spreadsheetml.template`]: 'xltx',
    [`${OPEN_XML}presentationml.presentation`]: 'pptx',
    [`${OPEN_XML}presentationml.template`]: 'potx',
    [`${OPEN_XML}presentationml.slideshow`]: 'ppsx',
    'application/vnd.ms-word.document.macroenabled': 'docm',
    'application/vnd.ms-word.template.macroenabledtemplate': 'dotm',
    'application/vnd.ms-excel.sheet.macroenabled': 'xlsm',
    'application/vnd.ms-excel.template.macroenabled': 'xltm',
    'application/vnd.ms-powerpoint.presentation.macroenabled': 'pptm',
    'application/vnd.ms-powerpoint.template.macroenabled': 'potm',
    'application/vnd.ms-powerpoint.slideshow.macroenabled': 'ppsm',
    'application/vnd.ms-visio.drawing': 'vsdx',
  }),
);

/** Media types of Office Open XML, by the folder of the parts: without macros, and with macros. */
const OFFICE: Record<string, [plain: string, macros: string]> = {
  'word/': [`${OPEN_XML}wordprocessingml.document`, 'application/vnd.ms-word.document.macroenabled'],
  'xl/': [`${OPEN_XML}spreadsheetml.sheet`, 'application/vnd.ms-excel.sheet.macroenabled'],
  'ppt/': [
    `${OPEN_XML}presentationml.presentation`,
    'application/vnd.ms-powerpoint.presentation.macroenabled',
  ],
};

/** The format that the entries reveal; undefined: the directory was not found, or reveals no format. */
export function readZip(bytes: Bytes): Format | undefined {
  const entries = readDirectory(bytes);
  const names = new Set(entries.map(({ name }) => name));
  const has = (pattern: RegExp) => entries.some(({ name }) => pattern.test(name));
  const contentOf = (name: string) => {
    const entry = entries.find((one) => one.name === name);
    return entry && readEntry(bytes, entry);
  };

  const declared = formatOf(contentOf('mimetype')?.trim());
  if (declared) return declared;
  if (names.has('[Content_Types].xml')) {
    const [, main] =
      /ContentType\s*=\s*["']([^"']+)\.main\+xml["']/.exec(contentOf('[Content_Types].xml') ?? '') ?? [];
    const named = formatOf(main);
    if (named) return named;
    if (has(/^3D\/.*\.model$/i)) return { mime: 'model/3mf', ext: '3mf' };
    const folder = Object.keys(OFFICE).find((one) => entries.some(({ name }) => name.startsWith(one)));
    return formatOf(OFFICE[folder ?? '']?.[names.has(`${folder}vbaProject.bin`) ? 1 : 0]);
  }
  if (names.has('META-INF/mozilla.rsa')) return { mime: 'application/x-xpinstall', ext: 'xpi' };
  if (has(/^classes\d*\.dex$/)) return { mime: 'application/vnd.android.package-archive', ext: 'apk' };
  if (names.has('META-INF/MANIFEST.MF')) return { mime: 'application/java-archive', ext: 'jar' };
  return undefined;
}

/** Turns the media type within an archive into IANA's: macro-enabled types end in `.12`. */
function formatOf(type: string | undefined): Format | undefined {
  const name = type?.toLowerCase() ?? '';
  const ext = EXTENSIONS.get(name);
  if (!ext) return undefined;
  if (ext === 'vsdx') return { mime: 'application/vnd.visio', ext };
  return { mime: name.includes('macroenabled') ? `${MACRO[ext] ?? name}.12` : name, ext };
}

const MACRO: Record<string, string> = { dotm: 'application/vnd.ms-word.template.macroenabled' };

function readDirectory({ tail }: Bytes): Entry[] {
  const view = viewOf(tail);
  const end = findEnd(view);
  if (end === undefined) return [];
  // The directory ends right before its end record. Ignore the record's offset: other bytes may precede the archive.
  const start = end - view.getUint32(end + 12, true);
  if (start >= 0 && isAt(view, start, CENTRAL)) return readEntries(tail, start).entries;
  // The start is outside the sample, or the archive is larger than 4 GiB. Try each position that looks like an entry:
  // only a real one leads to the end record.
  const kept = Buffer.from(tail.buffer, tail.byteOffset, end);
  let at = kept.indexOf(CENTRAL_MAGIC);
  for (let tries = 0; at >= 0 && tries < MAX_TRIES; tries++) {
    const { entries, next } = readEntries(tail, at);
    if (next === end || isAt(view, next, END_64)) return entries;
    at = kept.indexOf(CENTRAL_MAGIC, at + 1);
  }
  return [];
}

/** @returns the entries from `start` on, and the position after the last one */
function readEntries(tail: Uint8Array, start: number): { entries: Entry[]; next: number } {
  const view = viewOf(tail);
  const entries: Entry[] = [];
  let at = start;
  while (isAt(view, at, CENTRAL) && at + CENTRAL_LENGTH <= tail.length) {
    const name = at + CENTRAL_LENGTH;
    const nameEnd = name + view.getUint16(at + 28, true);
    entries.push({
      name: latin1(tail.subarray(name, nameEnd)),
      method: view.getUint16(at + 10, true),
      compressedSize: view.getUint32(at + 20, true),
      offset: view.getUint32(at + 42, true),
    });
    at = nameEnd + view.getUint16(at + 30, true) + view.getUint16(at + 32, true);
  }
  return { entries, next: at };
}

function findEnd(view: DataView): number | undefined {
  const first = Math.max(0, view.byteLength - END_LENGTH - MAX_COMMENT);
  for (let at = view.byteLength - END_LENGTH; at >= first; at--) {
    if (view.getUint32(at, true) === END) return at;
  }
  return undefined;
}

const isAt = (view: DataView, at: number, signature: number) =>
  at + 4 <= view.byteLength && view.getUint32(at, true) === signature;

/** The content of an entry as text; undefined: it is outside the sample, or cannot be read. */
function readEntry({ head, tail, size }: Bytes, entry: Entry): string | undefined {
  const { offset, method, compressedSize } = entry;
  if (compressedSize > MAX_TELLING) return undefined;
  const inTail = offset >= size - tail.length;
  const kept = inTail ? tail : head;
  const at = inTail ? offset - (size - tail.length) : offset;
  if (at + LOCAL_LENGTH > kept.length) return undefined;
  const view = viewOf(kept);
  if (!isAt(view, at, LOCAL)) return undefined;
  const start = at + LOCAL_LENGTH + view.getUint16(at + 26, true) + view.getUint16(at + 28, true);
  if (start + compressedSize > kept.length) return undefined;
  const content = kept.subarray(start, start + compressedSize);
  try {
    const bytes = method === 8 ? inflateRawSync(content, { maxOutputLength: MAX_TELLING }) : content;
    return new TextDecoder().decode(bytes);
  } catch {
    return undefined;
  }
}

const viewOf = ({ buffer, byteOffset, length }: Uint8Array) => new DataView(buffer, byteOffset, length);
