import { execFile } from 'node:child_process';
import { readdir, readFile, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { readOptional } from '../../data-folder.js';
import { hasCode } from '../../errors.js';
import type { Logger } from '../../log.js';

/**
 * Lines of postmaster.pid that matter here (PostgreSQL, src/include/utils/pidfile.h): 1 the pid, 4 the port, 8 the
 * status.
 */
export async function readPidFile(
  folder: string,
): Promise<{ pid: number; port: number; status: string } | undefined> {
  const lines = (await readOptional(join(folder, 'postmaster.pid')))?.split('\n');
  const pid = Number(lines?.[0]);
  return pid > 0 ? { pid, port: Number(lines?.[3]), status: lines?.[7]?.trim() ?? '' } : undefined;
}

/** Requests a fast shutdown, then an immediate one (with recovery at the next start), then kills the process. */
export async function endPostgres(
  kill: (signal: NodeJS.Signals) => void,
  exited: Promise<void>,
  graceMs: number,
): Promise<void> {
  const steps: [NodeJS.Signals, number][] = [
    ['SIGINT', graceMs],
    ['SIGQUIT', 1000],
    ['SIGKILL', 1000],
  ];
  for (const [signal, patienceMs] of steps) {
    kill(signal);
    const timer = new AbortController();
    const late = sleep(patienceMs, 'late', { signal: timer.signal }).catch(() => undefined);
    const outcome = await Promise.race([exited, late]);
    timer.abort();
    if (outcome !== 'late') return;
  }
}

/** Stops the processes of an earlier PostgreSQL on this data directory that did not shut down properly. */
export async function stopLeftOver(folder: string, log: Logger | undefined): Promise<void> {
  const pid = (await readPidFile(folder))?.pid;
  if (!pid) return;
  if (await isPostgresOf(pid, folder)) {
    log?.warn({ pid }, 'stopping a PostgreSQL that an earlier run left behind');
    await endAll([pid], folder, 10_000);
  } else if (sendSignal(pid, 0)) {
    // Another program has this pid now. PostgreSQL would mistake it for a running server and refuse to start. Removing
    // the file is safe: PostgreSQL also checks the folder's shared memory for processes of a former server.
    await rm(join(folder, 'postmaster.pid'), { force: true });
  }
  // A backend that is busy with a statement does not notice that its main process was killed, and blocks a new server.
  await endAll(await listPostgresOf(folder), folder, 500);
}

async function endAll(pids: number[], folder: string, graceMs: number): Promise<void> {
  const waiting = new AbortController();
  const exited = Promise.all(pids.map((pid) => waitUntilGone(pid, folder, waiting.signal)));
  const kill = (signal: NodeJS.Signals) => {
    for (const pid of pids) sendSignal(pid, signal);
  };
  await endPostgres(
    kill,
    exited.then(() => undefined),
    graceMs,
  );
  waiting.abort();
}

async function waitUntilGone(pid: number, folder: string, signal: AbortSignal): Promise<void> {
  while (!signal.aborted && (await isPostgresOf(pid, folder))) await sleep(10);
}

/** Answers whether there is such a process. */
function sendSignal(pid: number, signal: NodeJS.Signals | 0): boolean {
  try {
    return process.kill(pid, signal);
  } catch (error) {
    return hasCode(error, 'EPERM');
  }
}

/** Whether this is a process of PostgreSQL on this folder: the folder is its working directory. A zombie is not. */
async function isPostgresOf(pid: number, folder: string): Promise<boolean> {
  if (process.platform !== 'linux') return (await listPostgresOf(folder)).includes(pid);
  const name = await readFile(`/proc/${pid}/comm`, 'utf8').catch(() => '');
  if (name.trim() !== 'postgres') return false;
  const [there, here] = await Promise.all([stat(`/proc/${pid}/cwd`).catch(() => undefined), stat(folder)]);
  return there?.ino === here.ino && there.dev === here.dev;
}

/** Without /proc it finds only the main process, which has the folder in its arguments. */
async function listPostgresOf(folder: string): Promise<number[]> {
  if (process.platform === 'linux') {
    const found: number[] = [];
    for (const pid of (await readdir('/proc')).map(Number)) {
      if (pid > 0 && (await isPostgresOf(pid, folder))) found.push(pid);
    }
    return found;
  }
  const { stdout } = await promisify(execFile)('ps', ['-ww', '-A', '-o', 'pid=,args=']);
  const lines = stdout.split('\n').filter((line) => line.includes(`postgres -D ${folder} `));
  return lines.map((line) => Number.parseInt(line, 10));
}
