import { durationText, percent, printable, sizeText } from './text.js';

/** A transfer that is under way, as it is shown. */
export interface Transfer {
  name: string;
  /** Bytes of the whole file. */
  size: number;
  /** Bytes that are on the other side. */
  done: number;
  /** Bytes that were there before this process began. */
  before: number;
  /** Milliseconds since 1970. */
  startedAt: number;
  /** Such as `processing: scan`; instead of the speed. */
  note?: string | undefined;
}

const BAR_WIDTH = 20;

/** Columns for everything but the name: percent, bar, size, speed, time. */
const FIXED_WIDTH = 66;

const MIN_NAME_WIDTH = 10;

/** One line for each transfer. @param now milliseconds since 1970 */
export function drawBars(transfers: Transfer[], columns: number, now: number): string {
  const width = Math.max(MIN_NAME_WIDTH, columns - FIXED_WIDTH);
  return transfers.map((transfer) => drawBar(transfer, width, now)).join('\n');
}

function drawBar(transfer: Transfer, nameWidth: number, now: number): string {
  const { size, done, note } = transfer;
  const filled = Math.round((BAR_WIDTH * percent(done, size)) / 100);
  const bar = '█'.repeat(filled) + '░'.repeat(BAR_WIDTH - filled);
  const name = shorten(printable(transfer.name), nameWidth).padEnd(nameWidth);
  const share = `${percent(done, size)} %`.padStart(5);
  return `${name} ${share} ${bar} ${sizeText(size).padStart(10)}  ${note ?? paceText(transfer, now)}`.trimEnd();
}

/** Speed and time left, once a second has been measured. */
function paceText({ size, done, before, startedAt }: Transfer, now: number): string {
  const seconds = (now - startedAt) / 1000;
  const speed = (done - before) / seconds;
  if (seconds < 1 || speed <= 0) return '';
  return `${sizeText(Math.round(speed))}/s  ${durationText((size - done) / speed)}`;
}

/** Leaves out the middle of a long name, because its end tells the type. */
function shorten(name: string, width: number): string {
  const characters = [...name];
  if (characters.length <= width) return name;
  const end = Math.floor((width - 1) / 2);
  return [...characters.slice(0, width - 1 - end), '…', ...characters.slice(-end)].join('');
}
