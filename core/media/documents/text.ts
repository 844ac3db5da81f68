import { AppError } from '../../errors.js';
import { toPlainJson } from '../plain-json.js';
import { readText } from '../plain-text.js';
import type { TaskInput } from '../task-input.js';
import { HEAD, judge } from '../types.js';
import type { Description } from './description.js';
import { drawSvg } from './svg.js';

/* Reads text and source: its encoding, the number of its lines, and its first lines. An SVG is also drawn. */

/** Lines of the beginning that are kept, and the characters of all of them. */
const MAX_LINES = 20;
const MAX_START = 1000;

const LF = 0x0a;
const CR = 0x0d;

/** Bytes of a code unit, by the charset; one in all others. */
const UNITS = new Map([
  ['utf-16le', 2],
  ['utf-16be', 2],
  ['utf-32le', 4],
  ['utf-32be', 4],
]);

/** @throws {AppError} unreadable */
export async function describeText(input: TaskInput): Promise<Description> {
  const { bytes, size } = input;
  const head = bytes.subarray(0, HEAD);
  const text = readText(head, size <= head.length);
  if (!text) throw new AppError('unreadable', { detail: 'The content is not text throughout' });
  const facts = toPlainJson({
    charset: text.charset,
    // Of a part of a text only the least number of lines would be known.
    lines: bytes.length === size ? countLines(bytes, text.charset) : undefined,
    excerpt: startOf(text.start),
  });
  const isSvg = judge({ head, tail: head, size }, undefined)?.root === 'svg';
  return { facts, ...(isSvg ? await drawSvg(input) : { thumbnails: [], warnings: [] }) };
}

/** Without control characters, which a terminal would obey. */
function startOf(text: string): string {
  const lines = text
    .slice(0, 2 * MAX_START)
    .split(/\r\n|\r|\n/)
    .slice(0, MAX_LINES);
  return lines
    .join('\n')
    .replaceAll(/(?![\t\n])\p{Cc}/gu, '')
    .slice(0, MAX_START)
    .trimEnd();
}

/** The number of lines, also of a last one without an end. A line ends with LF or CR LF, or with CR if no LF follows anywhere. */
export function countLines(bytes: Buffer, charset: string): number {
  const unit = UNITS.get(charset) ?? 1;
  const isLittle = charset.endsWith('le');
  const ends = countUnits(bytes, LF, unit, isLittle);
  const end = ends > 0 ? LF : CR;
  const isEnded = bytes.length >= unit && isUnit(bytes, bytes.length - unit, end, unit, isLittle);
  return (ends || countUnits(bytes, CR, unit, isLittle)) + (bytes.length === 0 || isEnded ? 0 : 1);
}

function countUnits(bytes: Buffer, value: number, unit: number, isLittle: boolean): number {
  let count = 0;
  // The byte that differs from zero is the first or the last one of a unit.
  const place = isLittle ? 0 : unit - 1;
  for (let at = bytes.indexOf(value); at >= 0; at = bytes.indexOf(value, at + 1)) {
    if (isUnit(bytes, at - place, value, unit, isLittle)) count++;
  }
  return count;
}

function isUnit(bytes: Buffer, at: number, value: number, unit: number, isLittle: boolean): boolean {
  if (unit === 1) return bytes[at] === value;
  if (at < 0 || at % unit !== 0 || at + unit > bytes.length) return false;
  return bytes.readUIntBE(at, unit) === (isLittle ? value * 2 ** (8 * (unit - 1)) : value);
}
