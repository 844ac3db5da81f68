import { Readable } from 'node:stream';
import { setTimeout as pause } from 'node:timers/promises';
import { AppError } from '../errors.js';
import type { BlobStore } from './storage.js';

/*
 * Reads of stored objects that survive broken connections. When the store resets a connection in the middle of a large
 * object, or ends it early, the reader asks the store for the rest. Keys are never used twice and objects never change,
 * so the rest belongs to the same object. The caller knows the lengths, so the reader recognises an early end.
 *
 * Several objects are read as if they were one: the reader always asks for the bytes from the one it has reached to the
 * end of the object that holds it.
 */

interface Patience {
  /** Consecutive tries without a byte before the read fails. */
  tries: number;
  /** Pause before the second try, in milliseconds; doubled each time. */
  pauseMs: number;
}

/** Together with the store's own tries this lasts about half a minute. */
const PATIENCE: Patience = { tries: 8, pauseMs: 100 };

/** First and last byte, from 0. */
export interface ByteRange {
  start: number;
  end: number;
}

interface StoredBytes {
  key: string;
  /** Bytes. */
  size: number;
}

/**
 * Opens objects one after the other, or a range of the bytes that they hold together. Nothing is read ahead of the
 * consumer, and destroying the stream ends the read.
 * @param objects at least one; a range lies within their bytes
 * @returns a stream of exactly the bytes that were asked for; it fails with an {AppError}: unavailable, or size_mismatch
 * when an object does not have as many as it should
 * @throws {AppError} unavailable when the first object cannot be opened at all
 */
export async function readObjects(
  store: Pick<BlobStore, 'read'>,
  objects: StoredBytes[],
  range?: ByteRange,
  { tries, pauseMs }: Patience = PATIENCE,
): Promise<Readable> {
  const size = objects.reduce((sum, object) => sum + object.size, 0);
  const last = range?.end ?? size - 1;
  let next = range?.start ?? 0;
  let source: Readable | undefined;
  let wanted = false;
  let opening = false;
  let fruitless = 0;
  let failure: unknown;
  const stopped = new AbortController();

  const reader = new Readable({
    read() {
      wanted = true;
      if (source) source.resume();
      else void goOn();
    },
    destroy(error, callback) {
      stopped.abort();
      source?.destroy();
      callback(error);
    },
  });

  /** @param end the byte after the last one that `opened` should bring */
  function attach(opened: Readable, end: number): void {
    source = opened.pause();
    failure = undefined;
    opened.on('data', (chunk: Uint8Array) => {
      if (reader.destroyed) return;
      if (next + chunk.byteLength > end) {
        reader.destroy(mismatch(`More than ${size} bytes are stored`));
        return;
      }
      next += chunk.byteLength;
      fruitless = 0;
      wanted = reader.push(chunk);
      if (!wanted) opened.pause();
    });
    opened.on('error', (error) => {
      failure = error;
    });
    opened.on('close', () => {
      source = undefined;
      if (reader.destroyed) return;
      if (next > last) reader.push(null);
      else {
        if (next < end) {
          fruitless++;
          failure ??= mismatch(`${next} bytes are stored; ${size} were sent`);
        }
        if (wanted) void goOn();
      }
    });
    if (wanted) opened.resume();
  }

  /** Opens the rest, or the next object. */
  async function goOn(): Promise<void> {
    if (opening) return;
    opening = true;
    while (!source && !reader.destroyed) {
      if (fruitless > tries) reader.destroy(unreadable(failure));
      else await open().catch(fail);
    }
    opening = false;
  }

  async function open(): Promise<void> {
    // After a read that brought bytes, ask again at once.
    if (fruitless > 1) {
      await pause(pauseMs * 2 ** (fruitless - 2), undefined, { signal: stopped.signal });
    }
    const { key, part, end } = locate(objects, next, last);
    const opened = await store.read(key, part);
    if (reader.destroyed) opened.destroy();
    else attach(opened, end);
  }

  function fail(error: unknown): void {
    fruitless++;
    failure = error;
    if (error instanceof AppError && !error.retryable) reader.destroy(error);
  }

  await open();
  return reader;
}

/**
 * Finds the object that holds byte `next`, and which of its bytes to read up to byte `last`.
 * @returns `part`: undefined for all bytes of the object; `end`: where the next read begins
 */
function locate(
  objects: StoredBytes[],
  next: number,
  last: number,
): { key: string; part: ByteRange | undefined; end: number } {
  let begin = 0;
  for (const { key, size } of objects) {
    const end = begin + size;
    // Without any bytes to read, the first object stands for all: whether it is there is asked nevertheless.
    if (next < end || last < next) {
      const part = { start: next - begin, end: Math.min(last, end - 1) - begin };
      const isWhole = part.start === 0 && part.end === size - 1;
      return { key, part: isWhole ? undefined : part, end: Math.min(last + 1, end) };
    }
    begin = end;
  }
  throw new Error(`byte ${next} lies in none of the ${objects.length} objects`);
}

function unreadable(error: unknown): AppError {
  if (error instanceof AppError) return error;
  const detail = 'The stored bytes cannot be read';
  return new AppError('unavailable', { detail, cause: error, retryable: true });
}

function mismatch(detail: string): AppError {
  return new AppError('size_mismatch', { detail });
}
