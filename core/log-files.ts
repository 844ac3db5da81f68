import {
  closeSync,
  existsSync,
  fstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { ConfigError } from './config-error.js';
import type { WriteLines } from './log-lines.js';

/*
 * Log files that rotate. Lines go to NAME.log. Before it would grow beyond its size, it gets the time as a part of its
 * name, and a new one begins; of the older ones only the newest are kept.
 *
 * Several processes may write the same file: each write appends whole lines, and before each write a process looks
 * whether the file under the name is still the one that it has open. So it also goes on in a new file when another program
 * has moved or deleted the old one. Names of older files are never used twice, so no rotation overwrites lines.
 */

export interface LogFiles {
  dir: string;
  /** Bytes of one file. A single write may go beyond it, by less than 100 KiB. */
  maxBytes: number;
  /** How many files there are, with the current one. */
  count: number;
}

interface OpenFile {
  fd: number;
  inode: number;
  /** Whether it ends with half a line. */
  isTorn: boolean;
}

/**
 * Opens the file of the log `name`.
 * @param otherwise gets the lines that cannot be written to the file, because the disk is full for example
 * @throws {ConfigError} when the file cannot be opened
 */
export function openLogFile(
  { dir, maxBytes, count }: LogFiles,
  name: string,
  otherwise: WriteLines,
): WriteLines {
  const path = join(dir, `${name}.log`);
  let file: OpenFile | undefined;
  let isFailing = false;

  function open(): OpenFile {
    const fd = openSync(path, 'a', 0o640);
    return { fd, inode: fstatSync(fd).ino, isTorn: false };
  }

  function close(): void {
    if (file) closeSync(file.fd);
    file = undefined;
  }

  /** The file for the next `bytes`. */
  function current(bytes: number): OpenFile {
    const found = statSync(path, { throwIfNoEntry: false });
    if (file && found?.ino !== file.inode) close();
    if (found && found.size > 0 && found.size + bytes > maxBytes) {
      close();
      rotate();
    }
    file ??= open();
    return file;
  }

  function rotate(): void {
    try {
      renameSync(path, freeName());
      for (const old of listOld().slice(count - 1)) rmSync(join(dir, old), { force: true });
    } catch {
      // Another process has rotated it, or an old file cannot be deleted. The lines matter more.
    }
  }

  /** A path with the time and the process, which no older file has. */
  function freeName(): string {
    for (let now = Date.now(); ; now++) {
      const time = new Date(now).toISOString().replaceAll(/[-:.]/g, '');
      const free = join(dir, `${name}.${time}-${process.pid}.log`);
      if (!existsSync(free)) return free;
    }
  }

  /** Newest first. */
  function listOld(): string[] {
    const pattern = new RegExp(`^${name}\\.\\d{8}T\\d{9}Z-\\d+\\.log$`);
    return readdirSync(dir)
      .filter((found) => pattern.test(found))
      .sort()
      .reverse();
  }

  try {
    mkdirSync(dir, { recursive: true, mode: 0o750 });
    file = open();
  } catch (error) {
    throw new ConfigError(`LOG_DIR=${dir}: no log can be written there (${codeOf(error)})`, { cause: error });
  }
  return (lines) => {
    try {
      const open = current(Buffer.byteLength(lines));
      // Half a line, which a full disk has left, gets a line of its own.
      let rest: Buffer = Buffer.from(open.isTorn ? `\n${lines}` : lines);
      while (rest.length > 0) {
        rest = rest.subarray(writeSync(open.fd, rest));
        open.isTorn = rest.length > 0;
      }
      isFailing = false;
    } catch (error) {
      if (!isFailing) otherwise(lineOfTrouble(name, error));
      isFailing = true;
      otherwise(lines);
    }
  };
}

function lineOfTrouble(name: string, error: unknown): string {
  const msg = `LOG_DIR cannot be written (${codeOf(error)}): lines go to stdout until it can`;
  return `${JSON.stringify({ level: 50, time: new Date().toISOString(), name, msg })}\n`;
}

function codeOf(error: unknown): string {
  return (error as NodeJS.ErrnoException).code ?? 'unknown';
}
