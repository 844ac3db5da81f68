import { Readable } from 'node:stream';
import { setTimeout as pause } from 'node:timers/promises';
import { AppError } from '../errors.js';
import type { BlobStore } from './storage.js';

/*
 * Reads of stored objects that survive broken connections. When the store resets a connection in the middle of a large
 * object, or ends it early, the reader asks the store for the rest. Keys are never used twice and objects never change,
 * so the rest belongs to the same object. The blob's row has the length, so the reader recognises an early end.
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
interface Range {
  start: number;
  end: number;
}

/**
 * Opens an object, or a range of it. Nothing is read ahead of the consumer, and destroying the stream ends the read.
 * @returns a stream of exactly the bytes that were asked for; it fails with an {AppError}: unavailable, or size_mismatch
 * when the object does not have that many
 * @throws {AppError} unavailable when it cannot be opened at all
 */
export async function readBlob(
  blobs: Pick<BlobStore, 'read'>,
  { key, size }: { key: string; size: number },
  range?: Range,
  { tries, pauseMs }: Patience = PATIENCE,
): Promise<Readable> {
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

  function attach(opened: Readable): void {
    source = opened.pause();
    failure = undefined;
    opened.on('data', (chunk: Uint8Array) => {
      if (reader.destroyed) return;
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
      if (next === last + 1) reader.push(null);
      else if (next > last) reader.destroy(mismatch(`More than ${size} bytes are stored`));
      else {
        fruitless++;
        failure ??= mismatch(`${next} bytes are stored; ${size} were sent`);
        if (wanted) void goOn();
      }
    });
    if (wanted) opened.resume();
  }

  /** Opens the rest. */
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
    const opened = await blobs.read(key, { start: next, end: last });
    if (reader.destroyed) opened.destroy();
    else attach(opened);
  }

  function fail(error: unknown): void {
    fruitless++;
    failure = error;
    if (error instanceof AppError && !error.retryable) reader.destroy(error);
  }

  attach(await blobs.read(key, range));
  return reader;
}

function unreadable(error: unknown): AppError {
  if (error instanceof AppError) return error;
  const detail = 'The stored bytes cannot be read';
  return new AppError('unavailable', { detail, cause: error, retryable: true });
}

function mismatch(detail: string): AppError {
  return new AppError('size_mismatch', { detail });
}
