import { createHash, randomUUID } from 'node:crypto';
import { mkdir, open, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { homedir } from 'node:os';
import { dirname, isAbsolute, join } from 'node:path';
import { lock } from 'proper-lockfile';
import { EXIT, Failure } from './failure.js';

/* Small files that only their owner may read. Several processes may use them at the same time. */

/** XDG Base Directory Specification: "All paths … must be absolute. If … relative … ignore it." */
function folderOf(variable: string, fallback: string): string {
  const named = process.env[variable];
  return join(named && isAbsolute(named) ? named : join(homedir(), fallback), 'landfall');
}

export const configFolder = () => folderOf('XDG_CONFIG_HOME', '.config');

const stateFolder = () => folderOf('XDG_STATE_HOME', '.local/state');

/** @returns undefined if there is no such file, or nothing readable in it */
export async function readJson<T>(path: string): Promise<T | undefined> {
  try {
    return JSON.parse(await readFile(path, 'utf8'));
  } catch (error) {
    const { code, name } = error as { code?: string; name?: string };
    if (code === 'ENOENT' || name === 'SyntaxError') return undefined;
    throw error;
  }
}

/** Replaces a file as a whole. After a crash it has the old content or the new one. */
export async function writeJson(path: string, value: unknown): Promise<void> {
  await mkdir(dirname(path), { recursive: true, mode: 0o700 });
  const temporary = `${path}.${randomUUID()}.tmp`;
  try {
    const handle = await open(temporary, 'wx', 0o600);
    try {
      await handle.writeFile(JSON.stringify(value, null, 2));
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}

/** Milliseconds after which the lock of a process that was killed counts no more. */
const STALE_MS = 5000;

/** Longer than STALE_MS, so that the lock of a killed process is taken over. */
const PATIENCE = { retries: 60, factor: 1.2, minTimeout: 20, maxTimeout: 200 };

/**
 * Runs `work` while no other process runs work under the same lock.
 * @param path the lock is a folder beside it; the file itself need not exist
 * @param busy what to tell the user if another process holds the lock for longer than some ten seconds
 * @throws {Failure} when the lock cannot be had
 */
export async function withLock<T>(path: string, busy: string, work: () => Promise<T>): Promise<T> {
  await mkdir(dirname(path), { recursive: true, mode: 0o700 });
  const release = await lock(path, {
    realpath: false,
    stale: STALE_MS,
    update: STALE_MS / 4,
    retries: PATIENCE,
    // This process stood still for so long that another took over. The lease of the upload, or the session, belongs to
    // that process now; the server refuses what comes too late.
    onCompromised: () => {},
  }).catch((error: NodeJS.ErrnoException) => {
    throw error.code === 'ELOCKED' ? new Failure(EXIT.failed, busy) : error;
  });
  try {
    return await work();
  } finally {
    await release().catch(() => {});
  }
}

/** Remembers transfers that are under way: one file for each, so that processes do not wait for each other. */
export interface Memory<T> {
  /** Where the note of this key is. */
  path(key: string): string;
  find(key: string): Promise<T | undefined>;
  save(key: string, note: T): Promise<void>;
  forget(key: string): Promise<void>;
}

/** A note that is older has no use: the server has forgotten the upload long ago. */
const KEPT_MS = 30 * 86_400_000;

/** @param kind the name of the folder: `uploads`, `downloads` */
export function openMemory<T>(kind: string): Memory<T> {
  const folder = join(stateFolder(), kind);
  const path = (key: string) => join(folder, `${key}.json`);
  return {
    path,
    find: (key) => readJson(path(key)),
    save: (key, note) => writeJson(path(key), note),
    forget: (key) => rm(path(key), { force: true }),
  };
}

/** Removes old notes. */
export async function tidyMemory(kind: string): Promise<void> {
  const folder = join(stateFolder(), kind);
  for (const name of await readdir(folder).catch(() => [])) {
    const path = join(folder, name);
    const found = await stat(path).catch(() => undefined);
    if (found?.isFile() && found.mtimeMs < Date.now() - KEPT_MS) await rm(path, { force: true });
  }
}

/** The key of a note, from what distinguishes it. */
export function keyOf(...parts: (string | number)[]): string {
  return createHash('sha256').update(JSON.stringify(parts)).digest('hex').slice(0, 40);
}
