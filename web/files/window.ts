import { useSignal } from '@preact/signals';
import type { RefObject } from 'preact';
import { useEffect } from 'preact/hooks';
import { ROW, type RowWindow, rowWindow } from './row-window.js';

/* Only the rows that can be seen are in the document, so that a list of 100,000 files is as quick as one of ten. */

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
