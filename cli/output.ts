import { createLogUpdate } from 'log-update';
import { drawBars, type Transfer } from './bars.js';
import type { Failure } from './failure.js';

/*
 * What a command writes. Results go to stdout, everything else to stderr. Bars are drawn only if stderr is a terminal.
 */

export interface OutputOptions {
  /** One line of JSON for each result, for scripts. */
  json?: boolean;
  /** Only results in their shortest form, and errors. */
  quiet?: boolean;
}

/** The forms of one result: for people, for scripts, and with --quiet. */
interface Result {
  text: string;
  json: object;
  brief: string;
}

export interface Output {
  result(result: Result): void;
  /** A remark for people. */
  note(text: string): void;
  /** @param about what failed, if that is one of several: for people, and for scripts */
  error(failure: Failure, about?: { text: string; json: object }): void;
  /** Shows a transfer until it is ended. The caller changes its fields; the display follows. */
  show(transfer: Transfer): { end(): void };
  /** Removes the bars and shows the cursor again. */
  close(): void;
}

const REDRAW_MS = 100;

export function openOutput({ json = false, quiet = false }: OutputOptions): Output {
  const bars = process.stderr.isTTY && !json && !quiet ? openBars() : undefined;
  const write = (stream: NodeJS.WriteStream, line: string) => {
    bars?.clear();
    stream.write(`${line}\n`);
    bars?.draw();
  };
  return {
    result({ text, json: data, brief }) {
      write(process.stdout, json ? JSON.stringify(data) : quiet ? brief : text);
    },
    note(text) {
      if (!quiet) write(process.stderr, text);
    },
    error(failure, about) {
      const subject = about ? `${about.text}: ` : '';
      write(process.stderr, `landfall: ${subject}${failure.toText()}`);
      if (json) write(process.stdout, JSON.stringify({ ...about?.json, error: failure.toJson() }));
    },
    show(transfer) {
      bars?.add(transfer);
      return { end: () => bars?.remove(transfer) };
    },
    close() {
      bars?.close();
    },
  };
}

function openBars() {
  const log = createLogUpdate(process.stderr);
  const shown = new Set<Transfer>();
  let timer: NodeJS.Timeout | undefined;
  const draw = () => {
    if (shown.size > 0) log(drawBars([...shown], process.stderr.columns || 80, Date.now()));
  };
  return {
    draw,
    clear: () => log.clear(),
    add(transfer: Transfer) {
      shown.add(transfer);
      timer ??= setInterval(draw, REDRAW_MS);
    },
    remove(transfer: Transfer) {
      shown.delete(transfer);
      if (shown.size > 0) return;
      clearInterval(timer);
      timer = undefined;
      log.clear();
    },
    close() {
      clearInterval(timer);
      log.clear();
      log.done();
    },
  };
}
