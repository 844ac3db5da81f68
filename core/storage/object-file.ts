import { constants } from 'node:fs';
import { access, type FileHandle, mkdir, open } from 'node:fs/promises';
import { dirname } from 'node:path';
import { syncFolder } from '../data-folder.js';
import { AppError, hasCode } from '../errors.js';
import { storageFull } from './disk-room.js';

/* Opens the file of an object (`<root>/ab/<key>`) for writing, and turns errors of the file system into AppErrors. */

/** Opens the file and keeps its content; creates the file and its folder if they are missing. */
export async function createFile(path: string): Promise<FileHandle> {
  const flags = constants.O_WRONLY | constants.O_CREAT;
  try {
    return await open(path, flags, 0o600);
  } catch (error) {
    if (!hasCode(error, 'ENOENT')) throw error;
    const folder = dirname(path);
    // Not recursive: if the root is missing, its disk is not mounted. A new root would be hidden when the disk is back.
    await mkdir(folder).catch(ignoreExisting);
    await syncFolder(dirname(folder));
    return open(path, flags, 0o600);
  }
}

/**
 * Opens a file that already holds `offset` bytes.
 * @throws {AppError} size_mismatch when it holds fewer: a write at `offset` would fill the gap with zeros; unavailable
 * when the root is missing too
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

/** Turns an error of the file system into the storage's AppError. */
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
