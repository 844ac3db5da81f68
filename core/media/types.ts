import { readBoxes } from './boxes.js';
import { rawTypeOf } from './camera-raw.js';
import type { Bytes, Format } from './format.js';
import { readTracks } from './matroska.js';
import { countFrames } from './mpeg.js';
import { isBinary, latin1, readText, type Text } from './plain-text.js';
import { readZip } from './zip.js';

/*
 * Detects the type of a file by its bytes. The result of the package file-type (the witness) is one input. It goes by
 * signatures, and many signatures are letters that words begin with too ("BM", "MZ", "FORM", "ID3", "PAR1").
 *
 * Bytes that are text are of type text, or of a text-based format if they begin like one. Other bytes are of the
 * witness's type, if more than the signature supports it. Containers are read, because their entries, brands or tracks
 * decide the type.
 */

export interface Detected extends Format {
  /** Only for text. */
  charset?: string;
  /** Only for markup: the name of its first element, in lower case. */
  root?: string;
}

/** Bytes of the head of a file. */
export const HEAD = 64 * 1024;

/** Bytes of the end of a ZIP archive, which holds its directory. */
export const TAIL = 1024 ** 2;

/** A binary format has a byte that text never contains within this many bytes. */
const PROOF = 256;

const PDF: Format = { mime: 'application/pdf', ext: 'pdf' };
const TIFF: Format = { mime: 'image/tiff', ext: 'tif' };
const MP3: Format = { mime: 'audio/mpeg', ext: 'mp3' };

/** Text-based formats, by their beginning. */
const WRITTEN: [RegExp, Format][] = [
  [/^\s*<\?xml\s/, { mime: 'application/xml', ext: 'xml' }],
  [/^\{\\rtf/, { mime: 'application/rtf', ext: 'rtf' }],
  [/^%!PS-Adobe-\S+ EPSF-/, { mime: 'application/eps', ext: 'eps' }],
  [/^%!PS(-|\s)/, { mime: 'application/postscript', ext: 'ps' }],
  [/^BEGIN:VCARD\b/i, { mime: 'text/vcard', ext: 'vcf' }],
  [/^BEGIN:VCALENDAR\b/i, { mime: 'text/calendar', ext: 'ics' }],
  // https://www.w3.org/TR/webvtt1/#file-structure
  [/^WEBVTT([\t\n\r ]|$)/, { mime: 'text/vtt', ext: 'vtt' }],
  [
    /^(REGEDIT4|Windows Registry Editor Version 5\.00)\r?\n/,
    { mime: 'application/x-ms-regedit', ext: 'reg' },
  ],
  [/^-----BEGIN PGP MESSAGE-----/, { mime: 'application/pgp-encrypted', ext: 'pgp' }],
  [/^solid\b[^\n]*\n\s*(facet\s+normal|endsolid)\b/, { mime: 'model/stl', ext: 'stl' }],
  // ISO 32000-1, annex H.3, 13: "Acrobat viewers require only that the header appear somewhere within the first 1024 bytes
  // of the file". Behind words it counts if the first object follows: words may be about PDF.
  [/^[\s\0]{0,1019}%PDF-/, PDF],
  [/^.{0,1019}?%PDF-\d\.\d\s+(%[^\r\n]*[\r\n]\s*)*\d+ \d+ obj\b/s, PDF],
];

/** The first element, after a declaration, comments and a document type. */
const ROOT =
  /^(?:\s*(?:<\?[^>]*>|<!--(?:(?!-->).)*-->|<!DOCTYPE(?:[^>[]|\[[^\]]*\])*>))*\s*<(?:[\w.-]+:)?([a-z][\w.-]*)[\s/>]/is;

/**
 * Detects the type of a file. @param witness the result of file-type
 * @returns null: the type is not known here
 */
export function judge(bytes: Bytes, witness: Format | undefined): Detected | null {
  const { head, size } = bytes;
  const text = isSketch(head) ? undefined : readText(head, size <= head.length);
  if (text && !(text.charset === 'utf-16le' && countFrames(head) > 2)) return judgeText(text);
  const believed = witness && isProven(witness, head) ? witness : undefined;
  if (believed && isZip(believed)) return readZip(bytes) ?? believed;
  if (believed?.mime === TIFF.mime) return rawTypeOf(head) ?? believed;
  return readBoxes(head) ?? readTracks(head) ?? believed ?? writtenAs(latin1(head)) ?? readStart(head);
}

function judgeText({ charset, start }: Text): Detected {
  const [, root] = ROOT.exec(start) ?? [];
  return {
    ...(writtenAs(start) ?? { mime: 'text/plain', ext: 'txt' }),
    charset,
    ...(root === undefined ? {} : { root: root.toLowerCase() }),
  };
}

/** Also used for bytes that are not text throughout: some of these formats may contain any bytes. */
const writtenAs = (start: string) => WRITTEN.find(([beginning]) => beginning.test(start))?.[1];

/** SketchUp's format is the only binary format that begins with a byte order mark: its name follows in UTF-16. */
const isSketch = (head: Uint8Array) => latin1(head.subarray(0, 6)) === '\xff\xfe\xff\x0eS\0';

const isZip = ({ ext, mime }: Format) =>
  mime === 'application/zip' || ZIP_FORMATS.has(ext) || /openxmlformats|opendocument|macroenabled/.test(mime);
const ZIP_FORMATS = new Set(['jar', 'apk', 'xpi', 'epub', '3mf', 'vsdx']);

/** Whether the bytes support the witness's type beyond a signature that words could begin with too. */
function isProven({ mime, ext }: Format, head: Uint8Array): boolean {
  if (latin1(head.subarray(0, 3)) === 'ID3') return isId3(head);
  if (mime === 'audio/mpeg' || mime === 'audio/aac') return countFrames(head) > 0;
  if (mime === 'image/bmp') return isBitmap(head);
  if (ext === 'mts') return isTransportStream(head);
  return head.subarray(0, PROOF).some(isBinary);
}

/** https://id3.org/id3v2.4.0-structure: "4.0": the version is below 0xFF, the size has four bytes of seven bits. */
function isId3(head: Uint8Array): boolean {
  const [major = 0, revision = 0, , ...length] = head.subarray(3, 10);
  return major <= 4 && revision < 0xff && length.length === 4 && length.every((byte) => byte < 0x80);
}

/** The second header begins after 14 bytes; its length identifies its version. */
function isBitmap(head: Uint8Array): boolean {
  const [length = 0, ...rest] = head.subarray(14, 18);
  return [12, 16, 40, 52, 56, 64, 108, 124].includes(length) && rest.every((byte) => byte === 0);
}

/** Packets of 188 bytes, or of 192 with a timestamp before each; every packet begins with the byte 0x47. */
function isTransportStream(head: Uint8Array): boolean {
  return [188, 192].some((length) => {
    const starts = Array.from({ length: 5 }, (_, index) => length - 188 + index * length);
    return starts.filter((at) => at < head.length).every((at) => head[at] === 0x47);
  });
}

/**
 * Formats that the witness misses when their data is beyond the head: a TIFF's directory, or MP3 sound after a tag; and
 * raw files of cameras whose first directory has another length than it expects.
 */
function readStart(head: Uint8Array): Format | null {
  const start = latin1(head.subarray(0, 4));
  if (start === 'II*\0' || start === 'MM\0*') return TIFF;
  if (['IIRO', 'IIRS', 'MMOR'].includes(start)) return { mime: 'image/x-olympus-orf', ext: 'orf' };
  if (start === 'IIU\0') return { mime: 'image/x-panasonic-rw2', ext: 'rw2' };
  return start.startsWith('ID3') && isId3(head) ? MP3 : null;
}
