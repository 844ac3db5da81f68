import { createHash } from 'node:crypto';
import { z } from 'zod';
import { AppError } from '../../core/errors.js';
import type { FileList, FileOrderKey, FilePosition } from '../../core/files/list.js';

/*
 * Cursors of lists of files: Base64URL of `[list, key, id]`. `list` is a hash of all that makes the list: under another
 * filter or in another order the position would mean something else, and the pages would silently miss files.
 */

/** A page of files is asked for with a cursor of at most this length: that of the longest name. */
export const MAX_CURSOR = 14_000;

const CONTENT = z.tuple([z.string(), z.string(), z.uuid()]);

/** Microseconds or bytes, with as many digits as PostgreSQL can read as either. */
const NUMBER = /^\d{1,17}$/;

const KEYS: Record<FileOrderKey, RegExp> = {
  createdAt: NUMBER,
  deletedAt: NUMBER,
  size: NUMBER,
  filename: /^\P{Cc}*$/u,
};

/** Makes the cursor of the page after a position. */
export function writeCursor(list: FileList, { key, id }: FilePosition): string {
  return Buffer.from(JSON.stringify([hashOf(list), key, id])).toString('base64url');
}

/**
 * Reads a cursor that a page of this list has given.
 * @throws {AppError} invalid_request when it is no cursor, or one of another list
 */
export function readCursor(list: FileList, cursor: string): FilePosition {
  const content = CONTENT.safeParse(decode(cursor));
  if (!content.success) throw refused('must be the nextCursor of a page before');
  const [hash, key, id] = content.data;
  if (hash !== hashOf(list)) {
    throw refused('is of a list with other filters or another order: leave it out to begin this list');
  }
  // Only a forged cursor gets here with another key.
  if (!KEYS[list.order.by].test(key)) throw refused('must be the nextCursor of a page before');
  return { key, id };
}

/** Undefined if it is not Base64URL of JSON. */
function decode(cursor: string): unknown {
  try {
    return JSON.parse(Buffer.from(cursor, 'base64url').toString());
  } catch {
    return undefined;
  }
}

function refused(reason: string): AppError {
  return new AppError('invalid_request', { detail: `cursor in the query: ${reason}` });
}

function hashOf(list: FileList): string {
  return createHash('sha256').update(JSON.stringify(list)).digest('base64url').slice(0, 16);
}
