import { constants } from 'node:fs';
import { access, type FileHandle, mkdir, open } from 'node:fs/promises';
import { dirname } from 'node:path';
import { syncFolder } from '../data-folder.js';
import { AppError, hasCode } from '../errors.js';
import { storageFull } from './disk-room.js';

/* How the file of an object (`<root>/ab/<key>`) is opened for writing, and what is told when that or a write fails. */

/** Opens it, creates it and its folder if they are missing, and leaves its content as it is. */
export async function createFile(path: string): Promise<FileHandle> {
  const flags = constants.O_WRONLY | constants.O_CREAT;
  try {
    return await open(path, flags, 0o600);
  } catch (error) {
    if (!hasCode(error, 'ENOENT')) throw error;
    const folder = dirname(path);
    // Not recursive: a root that is missing means that its disk is. Bytes in its place would vanish when it is back.
    await mkdir(folder).catch(ignoreExisting);
    await syncFolder(dirname(folder));
    return open(path, flags, 0o600);
  }
}

/**
 * Opens one that holds `offset` bytes already.
 * @throws {AppError} size_mismatch when they are not all there: what is written behind them would make zeros of them;
 * unavailable when the root is not there either
 */
export async function openGrown(path: string, offset: number): Promise<FileHandle> {
  const handle = await open(path, constants.O_WRONLY).catch(async (error: unknown) => {
    if (!hasCode(error, 'ENOENT')) throw storageError(error);
    await access(dirname(dirname(path))).catch(rethrowStorageError);
    throw lost(offset, 0);
  });
  const { size } = await handle.stat();
  if (size >= offset) return handle;
  await handle.close();
  throw lost(offset, size);
}

function lost(offset: number, left: number): AppError {
  const detail = `Of ${offset} acknowledged bytes ${left} are left: begin the upload anew`;
  return new AppError('size_mismatch', { detail });
}

/** What a call of the file system has failed with, as the storage tells it. */
export function storageError(error: unknown): AppError {
  if (error instanceof AppError) return error;
  if (hasCode(error, 'ENOSPC') || hasCode(error, 'EDQUOT')) return storageFull(error);
  const detail = 'The storage does not answer';
  return new AppError('unavailable', { detail, cause: error, retryable: true });
}

export function rethrowStorageError(error: unknown): never {
  throw storageError(error);
}

function ignoreExisting(error: unknown): undefined {
  if (!hasCode(error, 'EEXIST')) throw error;
}
