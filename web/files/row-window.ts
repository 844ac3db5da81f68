/* Which rows of a long list can be seen. */

/** Height of a row, in pixels; style.css sets it too. */
export const ROW = 64;
/** How many rows beyond the window are there, so that a quick scroll shows no gap. */
const BEYOND = 10;

export interface RowWindow {
  /** The rows from `start` to before `end` are in the document. */
  start: number;
  end: number;
  /** Pixels of the rows that are not, above and below. */
  above: number;
  below: number;
}

export function rowWindow(top: number, height: number, count: number): RowWindow {
  const start = Math.min(Math.max(0, Math.floor(top / ROW) - BEYOND), Math.max(0, count - 1));
  const end = Math.min(count, Math.max(start, Math.ceil((top + height) / ROW) + BEYOND));
  return { start, end, above: start * ROW, below: (count - end) * ROW };
}
