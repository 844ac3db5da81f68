import { constants } from 'node:fs';
import { copyFile, type FileHandle, link, mkdir, open } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { readOptional, syncFolder } from '../data-folder.js';
import { AppError, hasCode } from '../errors.js';
import { StorageFull } from './disk-room.js';
import { BytesLost, MARKER, StoreAway } from './storage.js';

/* Opens the file of an object (`<root>/ab/<key>`) for writing, and turns errors of the file system into AppErrors. */

/** Opens the file and keeps its content; creates the file and its folder if they are missing. */
export async function createFile(path: string): Promise<FileHandle> {
  return withFolder(path, () => open(path, constants.O_WRONLY | constants.O_CREAT, 0o600));
}

/** Makes a file with the content of another one, and its folder if that is missing. The content is durable, the name not yet. */
export async function copyContent(source: string, target: string): Promise<void> {
  await withFolder(target, () =>
    // A second name costs no room, but not all file systems have such names.
    link(source, target).catch(async (error: unknown) => {
      if (hasCode(error, 'ENOENT')) throw error;
      await copyFile(source, target);
      const handle = await open(target, 'r');
      await handle.sync().finally(() => handle.close());
    }),
  );
}

/** Does something with a path. If it fails because the folder of the path is missing, creates that and tries again. */
async function withFolder<T>(path: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!hasCode(error, 'ENOENT')) throw error;
    const folder = dirname(path);
    // A root without its marker means that its disk is away. Bytes in its place would vanish when it is back.
    const known = await nameOutage(dirname(folder), error);
    if (!hasCode(known, 'ENOENT')) throw known;
    await mkdir(folder).catch(ignoreExisting);
    await syncFolder(dirname(folder));
    return work();
  }
}

/**
 * Opens a file that holds `offset` bytes already.
 * @throws {BytesLost} when they are not all there: bytes that are written behind them would turn the gap into zeros;
 * {AppError} unavailable, caused by StoreAway, when the marker is missing too
 */
export async function openGrown(path: string, offset: number): Promise<FileHandle> {
  const handle = await open(path, constants.O_WRONLY).catch(async (error: unknown) => {
    const known = await nameOutage(dirname(dirname(path)), error);
    throw hasCode(known, 'ENOENT') ? lost(offset, 0) : storageError(known);
  });
  try {
    const { size } = await handle.stat();
    if (size < offset) throw lost(offset, size);
    return handle;
  } catch (error) {
    await handle.close();
    throw storageError(error);
  }
}

function lost(offset: number, left: number): BytesLost {
  return new BytesLost(`Of ${offset} acknowledged bytes ${left} are left: begin the upload anew`);
}

/**
 * Tells an outage of the store from an error that concerns one object. A disk that is not mounted leaves an empty folder
 * in its place, or none: objects are missing there, but so is the marker.
 * @returns StoreAway, or the error itself
 */
export async function nameOutage(root: string, error: unknown): Promise<unknown> {
  const marker = await readOptional(join(root, MARKER)).catch(() => undefined);
  return marker === undefined ? new StoreAway(error) : error;
}

/** The error of a call of the file system, as the storage tells it. */
export function storageError(error: unknown): AppError {
  if (error instanceof AppError) return error;
  if (hasCode(error, 'ENOSPC') || hasCode(error, 'EDQUOT')) return new StorageFull(error);
  const detail = 'The storage does not answer';
  return new AppError('unavailable', { detail, cause: error, retryable: true });
}

function ignoreExisting(error: unknown): undefined {
  if (!hasCode(error, 'EEXIST')) throw error;
}
