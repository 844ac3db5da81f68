import { useSignal } from '@preact/signals';
import type { RefObject } from 'preact';
import { useEffect } from 'preact/hooks';

/* Only the rows that can be seen are in the document, so that a list of 100,000 files is as quick as one of ten. */

/** Height of a row, in pixels; style.css sets it too. */
const ROW = 64;
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

/** The rows of a list that are to be in the document now. */
export function useWindow(list: RefObject<HTMLElement>, count: number): RowWindow {
  const seen = useSignal({ top: 0, height: window.innerHeight });
  useEffect(() => {
    const stop = new AbortController();
    const look = () => {
      const top = -(list.current?.getBoundingClientRect().top ?? 0);
      const before = seen.value;
      const isFar = Math.abs(top - before.top) >= ROW || before.height !== window.innerHeight;
      if (isFar) seen.value = { top, height: window.innerHeight };
    };
    window.addEventListener('scroll', look, { passive: true, signal: stop.signal });
    window.addEventListener('resize', look, { signal: stop.signal });
    look();
    return () => stop.abort();
  }, []);
  return rowWindow(seen.value.top, seen.value.height, count);
}
