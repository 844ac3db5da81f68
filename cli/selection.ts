import { readdir, stat } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import { EXIT, Failure } from './failure.js';
import { printable } from './text.js';

/** A file on this machine that is to be uploaded, as it was when the command began. */
export interface LocalFile {
  /** Absolute. */
  path: string;
  /** As the user sees it: below a named folder with the path from there. */
  label: string;
  name: string;
  size: number;
  /** Milliseconds since 1970, with fractions. */
  mtimeMs: number;
}

/**
 * The files that the arguments of a command name, each once. A folder stands for all regular files in it, at any depth, in the
 * order of their paths. Links inside of folders are left out, because they may lead anywhere.
 * @throws {Failure} when an argument names nothing, or something that is neither a file nor a folder
 */
export async function selectFiles(paths: string[]): Promise<LocalFile[]> {
  const found = new Map<string, LocalFile>();
  for (const path of paths) {
    for (const file of await filesAt(path)) {
      if (!found.has(file.path)) found.set(file.path, file);
    }
  }
  return [...found.values()];
}

async function filesAt(path: string): Promise<LocalFile[]> {
  const found = await stat(path).catch((error: NodeJS.ErrnoException) => {
    throw new Failure(EXIT.usage, `${printable(path)} cannot be read (${error.code})`);
  });
  if (found.isFile()) return [await describe(path, path)];
  if (!found.isDirectory()) {
    throw new Failure(EXIT.usage, `${printable(path)} is neither a file nor a folder`);
  }
  const entries = await readdir(path, { recursive: true, withFileTypes: true });
  const inside = entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
  return Promise.all(inside.sort().map((file) => describe(file, file)));
}

async function describe(path: string, label: string): Promise<LocalFile> {
  const { size, mtimeMs } = await stat(path);
  return { path: resolve(path), label, name: basename(path), size, mtimeMs };
}
