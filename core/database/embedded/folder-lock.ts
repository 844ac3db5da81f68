/**
 * A lock that lets only one Landfall use a data folder. The lock is a symbolic link `lock.<n>` whose target names its
 * holder. Creating a link is atomic: only one process succeeds, and the link is complete at once. The link with the
 * highest number counts, and it is never removed before a higher one exists. A holder that died, even by SIGKILL or a
 * power cut, no longer holds the lock: a process is identified by its pid and its start time, because pids are reused.
 */
import { execFile } from 'node:child_process';
import { readdir, readFile, readlink, rm, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { ConfigError } from '../../config-error.js';
import { hasCode } from '../../errors.js';

const RELEASED = 'released';

export interface FolderLock {
  /** The previous holder ended without releasing the lock: processes that it started may still be ending. */
  takenOver: boolean;
  release(): Promise<void>;
}

/** A running process holds the lock. */
export class FolderInUse extends ConfigError {
  constructor(dataDir: string, pid: number) {
    super(`DATA_DIR=${dataDir}: another Landfall (process ${pid}) is using this folder`);
  }
}

/** @throws {FolderInUse} naming DATA_DIR */
export async function lockFolder(dataDir: string): Promise<FolderLock> {
  const path = (number: number) => join(dataDir, `lock.${number}`);
  const self = (await identify(process.pid)) ?? String(process.pid);
  for (;;) {
    const numbers = await listLocks(dataDir);
    const last = numbers.at(-1) ?? 0;
    const holder = last === 0 ? RELEASED : await readlink(path(last)).catch(() => undefined);
    if (holder === undefined) continue; // replaced meanwhile
    if (await isRunning(holder)) throw new FolderInUse(dataDir, Number.parseInt(holder, 10));
    const own = last + 1;
    if (!(await createLink(self, path(own)))) continue;
    // If our list of locks was out of date, we may have created a number that others have already gone beyond.
    if ((await listLocks(dataDir)).at(-1) !== own) {
      await rm(path(own), { force: true });
      continue;
    }
    for (const old of numbers) await rm(path(old), { force: true });
    const release = async () => {
      if (await createLink(RELEASED, path(own + 1))) await rm(path(own), { force: true });
    };
    return { takenOver: holder !== RELEASED, release };
  }
}

async function listLocks(dataDir: string): Promise<number[]> {
  const numbers = (await readdir(dataDir)).map((name) => Number(/^lock\.(\d+)$/.exec(name)?.[1]));
  return numbers.filter((number) => number > 0).sort((a, b) => a - b);
}

/** Answers false when the link exists already. */
async function createLink(target: string, path: string): Promise<boolean> {
  return symlink(target, path).then(
    () => true,
    (error: unknown) => {
      if (hasCode(error, 'EEXIST')) return false;
      throw error;
    },
  );
}

async function isRunning(holder: string): Promise<boolean> {
  const pid = Number.parseInt(holder, 10);
  return pid > 0 && (await identify(pid)) === holder;
}

/** A unique name of a process, `<pid>@<start time>`; undefined when there is no such process. */
async function identify(pid: number): Promise<string | undefined> {
  if (process.platform === 'linux') {
    const text = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => undefined);
    // proc(5): the name in parentheses may hold anything; field 3 is the state, 22 the start in ticks since boot.
    const fields = text?.slice(text.lastIndexOf(')') + 2).split(' ') ?? [];
    if (!fields[0] || 'ZX'.includes(fields[0])) return undefined;
    const boot = await readFile('/proc/sys/kernel/random/boot_id', 'utf8').catch(() => '');
    return `${pid}@${fields[19]}.${boot.trim()}`;
  }
  const ps = promisify(execFile)('ps', ['-o', 'lstart=', '-p', String(pid)]);
  const { stdout } = await ps.catch(() => ({ stdout: '' }));
  return stdout.trim() ? `${pid}@${stdout.trim().replaceAll(/\s+/g, '-')}` : undefined;
}
