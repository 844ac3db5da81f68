import { constants } from 'node:fs';
import { open, readdir } from 'node:fs/promises';
import { join, parse } from 'node:path';
import { Readable } from 'node:stream';
import { DERIVATIVE_NAME } from '../../core/database/entities/derivative.js';
import { AppError } from '../../core/errors.js';
import type { Parsers } from '../../core/media/parsers.js';
import {
  cleanLine,
  derivedName,
  MAX_DERIVED,
  type Made,
  requireDistinct,
} from '../../core/own-steps/answer.js';

/*
 * What a program has written into its output folder. The program may have been led astray by the file that it read: no link
 * is followed, and names and types are checked.
 */

interface Output {
  step: string;
  /** Types that the operator has declared, by the name of the file without its extension. */
  contentTypes: Readonly<Record<string, string>>;
  parsers: Pick<Parsers, 'run'>;
  signal: AbortSignal;
}

/** @throws {AppError} step_failed, when there is something that cannot be kept; the signal's reason */
export async function readOutput(
  folder: string,
  { step, contentTypes, parsers, signal }: Output,
): Promise<Made[]> {
  const entries = await readdir(folder, { withFileTypes: true });
  if (entries.length > MAX_DERIVED) throw refused(`The program wrote more than ${MAX_DERIVED} files`);
  const made: Made[] = [];
  for (const entry of entries.sort((one, other) => (one.name < other.name ? -1 : 1))) {
    const { name } = parse(entry.name);
    if (!entry.isFile()) throw refused(`${entry.name} is no regular file`);
    if (!DERIVATIVE_NAME.test(name) || name.length > 60) {
      throw refused(
        `A file may not be named ${entry.name}: use lower-case letters, digits and single hyphens`,
      );
    }
    const bytes = await readRegular(join(folder, entry.name));
    const contentType = contentTypes[name] ?? (await typeOf(bytes, parsers, signal));
    const size = contentType.startsWith('image/') ? await sizeOf(bytes, parsers, signal) : NO_SIZE;
    made.push({ name: derivedName(step, name), bytes, contentType, ...size });
  }
  requireDistinct(made);
  return made;
}

async function readRegular(path: string): Promise<Buffer> {
  // Not a link that has taken the place of the file.
  const handle = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW);
  try {
    return await handle.readFile();
  } finally {
    await handle.close();
  }
}

const NO_SIZE = { width: null, height: null };

const sourceOf = (bytes: Buffer) => ({
  size: bytes.length,
  read: async (count: number) => Readable.from([bytes.subarray(0, count)]),
});

async function typeOf(bytes: Buffer, parsers: Output['parsers'], signal: AbortSignal): Promise<string> {
  const found = bytes.length > 0 ? await orNull(parsers.run('type', sourceOf(bytes), signal)) : null;
  return found?.mime ?? 'application/octet-stream';
}

async function sizeOf(
  bytes: Buffer,
  parsers: Output['parsers'],
  signal: AbortSignal,
): Promise<Pick<Made, 'width' | 'height'>> {
  const found = await orNull(parsers.run('metadata', sourceOf(bytes), signal));
  const { width, height } = (found?.image ?? {}) as { width?: number; height?: number };
  return width && height ? { width, height } : NO_SIZE;
}

/** What cannot be parsed has no known type and no known size. */
async function orNull<T>(parsing: Promise<T>): Promise<T | null> {
  return parsing.catch((error: unknown) => {
    if (error instanceof AppError && !error.retryable) return null;
    throw error;
  });
}

function refused(detail: string): AppError {
  return new AppError('step_failed', { detail: cleanLine(detail) });
}
