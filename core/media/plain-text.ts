/*
 * Whether bytes are text, in whatever encoding. A mark at the start says so (WHATWG MIME Sniffing 7.1). Without one, bytes
 * are text in a 7-bit or 8-bit encoding (UTF-8, Latin-1, Windows-125x, KOI8, Shift_JIS, EUC, GB18030, Big5, ISO-2022) if
 * they hold no control character that text does not use, and text in UTF-16 or UTF-32 if their characters make sense
 * together.
 */

export interface Text {
  /** A charset as IANA registers them; `unknown-8bit` (RFC 1428) where the bytes do not tell which one. */
  charset: string;
  /** The beginning, without its mark. In an unknown encoding only the ASCII characters are correct. */
  start: string;
}

const MARKS = [
  { charset: 'utf-32le', bytes: [0xff, 0xfe, 0, 0] },
  { charset: 'utf-32be', bytes: [0, 0, 0xfe, 0xff] },
  { charset: 'utf-8', bytes: [0xef, 0xbb, 0xbf] },
  { charset: 'utf-16le', bytes: [0xff, 0xfe] },
  { charset: 'utf-16be', bytes: [0xfe, 0xff] },
];

/** ISO 2022-KR begins with this, and then shifts with two control characters (RFC 1557). */
const KOREAN_SHIFTS = '\x1b$)C';

/** The last byte of texts of CP/M and DOS. */
const END_OF_FILE = 0x1a;

/** Characters that no text holds: control characters except tab and line breaks, and code points without a meaning. */
const SENSELESS = /(?![\t\n\f\r])[\p{Cc}\p{Cn}\p{Co}\p{Cs}\ufffd]/u;

/** Characters that are common in real text: blanks, ASCII, and East Asian punctuation, kana and full-width forms. */
const ANCHORS = /[\t\n\r -~\u3000-\u30ff\uff00-\uffef]/g;

/** Scripts of texts. Latin may occur in any text; the scripts of East Asia occur together. */
const SCRIPTS = 'Latin Greek Cyrillic Hebrew Arabic Thai Devanagari Bengali Tamil Telugu Armenian Georgian';
const EAST_ASIA = ['Han', 'Hiragana', 'Katakana', 'Hangul', 'Bopomofo'];
const WRITINGS = [...SCRIPTS.split(' ').map((script) => [script]), EAST_ASIA].map((scripts) => {
  const letters = scripts.map((script) => `\\p{Script=${script}}`).join('');
  return new RegExp(`[\\p{Script=Common}\\p{Script=Inherited}\\p{Script=Latin}${letters}]`, 'gu');
});

/** Whether a byte is a control character that text does not hold. */
export function isBinary(byte: number): boolean {
  return byte < 0x20 && !(byte >= 0x07 && byte <= 0x0d) && byte !== 0x1b;
}

/**
 * Reads bytes as text; undefined: they are not text.
 * @param head the first bytes @param isWhole whether these are all bytes
 */
export function readText(head: Uint8Array, isWhole: boolean): Text | undefined {
  if (head.length === 0) return undefined;
  const mark = MARKS.find(({ bytes }) => bytes.every((byte, index) => byte === head[index]));
  if (mark) return { charset: mark.charset, start: decode(mark.charset, head.subarray(mark.bytes.length)) };
  return read8(head, isWhole) ?? read16(head, isWhole) ?? read32(head, isWhole);
}

function read8(head: Uint8Array, isWhole: boolean): Text | undefined {
  const isShifting = latin1(head.subarray(0, KOREAN_SHIFTS.length)) === KOREAN_SHIFTS;
  const last = isWhole && head.at(-1) === END_OF_FILE ? head.length - 1 : head.length;
  for (let i = 0; i < last; i++) {
    const byte = head[i] ?? 0;
    if (isBinary(byte) && !(isShifting && (byte === 0x0e || byte === 0x0f))) return undefined;
  }
  try {
    // The head may end in the middle of a character.
    const start = new TextDecoder('utf-8', { fatal: true }).decode(head, { stream: !isWhole });
    return { charset: 'utf-8', start };
  } catch {
    return { charset: 'unknown-8bit', start: latin1(head) };
  }
}

/** Most texts make some sense in the wrong byte order too. The order with more ANCHORS is the right one. */
function read16(head: Uint8Array, isWhole: boolean): Text | undefined {
  if (head.length < 4 || (isWhole && head.length % 2 !== 0)) return undefined;
  const readings = ['utf-16le', 'utf-16be']
    .map((charset) => ({ charset, start: decode(charset, head) }))
    .filter(({ start }) => !SENSELESS.test(start))
    .map((text) => ({ ...text, anchors: count(text.start, ANCHORS) }))
    .filter(({ start, anchors }) => makesSense(start, anchors));
  const [best] = readings.sort((a, b) => b.anchors - a.anchors);
  return best && { charset: best.charset, start: best.start };
}

/** Whether half of the text are ANCHORS, or it has some ANCHORS and nearly all of it is in one script. */
function makesSense(text: string, anchors: number): boolean {
  if (anchors * 2 >= text.length) return true;
  if (anchors * 16 < text.length) return false;
  return WRITINGS.some((writing) => count(text, writing) >= text.length * 0.9);
}

const count = (text: string, pattern: RegExp) => text.match(pattern)?.length ?? 0;

/** Few 32-bit numbers are characters, so valid characters are proof enough. */
function read32(head: Uint8Array, isWhole: boolean): Text | undefined {
  if (head.length < 8 || (isWhole && head.length % 4 !== 0)) return undefined;
  return ['utf-32le', 'utf-32be']
    .map((charset) => ({ charset, start: decode(charset, head) }))
    .find(({ start }) => !SENSELESS.test(start));
}

/** Byte by byte: ISO 8859-1. */
export function latin1(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('latin1');
}

function decode(charset: string, bytes: Uint8Array): string {
  if (charset.startsWith('utf-32')) return decode32(bytes, charset === 'utf-32le');
  return new TextDecoder(charset).decode(bytes, { stream: true });
}

function decode32(bytes: Uint8Array, isLittle: boolean): string {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  let text = '';
  for (let at = 0; at + 4 <= bytes.length; at += 4) {
    const code = view.getUint32(at, isLittle);
    if (code > 0x10ffff) return `${text}\ufffd`;
    text += String.fromCodePoint(code);
  }
  return text;
}
