import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { coverageEnv } from './coverage.js';
import { createDatabase, type TestDatabase } from './database.js';
import { freePort } from './services/port.js';

type Program = 'server' | 'worker';

/** `server`, `server-2`, …: further ones of the same program. */
export type Part = Program | `${Program}-${number}`;

export interface Processes {
  /** Where the server listens; the same after a restart. */
  url: string;
  /** The same for a further server. */
  urlOf(part: Part): string;
  database: TestDatabase;
  dataDir: string;
  /** @param more environment of this start only */
  start(part: Part, more?: Record<string, string>): Promise<void>;
  /** SIGKILL, at once. */
  kill(part: Part): Promise<void>;
  /** SIGTERM; waits for the end and returns the exit code. */
  stop(part: Part): Promise<number | null>;
  pid(part: Part): number;
  /** The output of the process so far, over all its starts. */
  logOf(part: Part): string;
  /** Stops everything and removes database and folder. */
  close(): Promise<void>;
}

/** Lets a server check each of its answers against the declaration of its route. */
const CHECKED = ['--import', pathToFileURL(resolve('test/support/check-answers.js')).href];

/** Starts servers and workers from dist/ on a database and a folder of their own, as in the connected form. */
export async function startProcesses(
  env: Record<string, string> = {},
  parts: Part[] = ['server', 'worker'],
  /** The address at which they find the database. */
  reach: (databaseUrl: string) => Promise<string> = async (url) => url,
): Promise<Processes> {
  const database = await createDatabase();
  const databaseUrl = await reach(database.url);
  const dataDir = await mkdtemp(join(tmpdir(), 'landfall-test-'));
  const children = new Map<Part, ChildProcess>();
  const urls = new Map<Part, string>();
  const logs = new Map<Part, string>();

  const processes: Processes = {
    get url() {
      return processes.urlOf('server');
    },
    urlOf: (part) => urls.get(part) ?? '',
    database,
    dataDir,
    async start(part, more = {}) {
      // Not one that the system chooses: another program might get it while the server is down.
      const port = urls.has(part) ? new URL(processes.urlOf(part)).port : await freePort();
      const child = fork(resolve(`dist/${part.replace(/-.*/, '')}/main.js`), {
        // A developer's .env may lie in the project's folder, so the process runs in another one.
        cwd: dataDir,
        execArgv: [...process.execArgv, ...(part.startsWith('server') ? CHECKED : [])],
        env: {
          PATH: process.env.PATH ?? '',
          ...coverageEnv,
          DATABASE_URL: databaseUrl,
          DATA_DIR: dataDir,
          DATA_DIR_SHARED: 'true',
          JWT_SECRET: 'only-for-tests-only-for-tests-only',
          HOST: '127.0.0.1',
          PORT: String(port),
          INSTANCE_ID: part,
          // On a busy machine even a small picture may take a minute.
          PARSER_TIMEOUT_SECONDS: '600',
          LOG_LEVEL: process.env.TEST_LOG_LEVEL ?? 'silent',
          JOB_BACKOFF_MS: '50',
          // One suite registers more users from one address than the real limit allows.
          RATE_LIMIT_AUTH: '0',
          ...env,
          ...more,
        },
        stdio: ['inherit', 'pipe', 'inherit', 'ipc'],
      });
      children.set(part, child);
      child.stdout?.on('data', (chunk) => {
        logs.set(part, processes.logOf(part) + chunk);
        if (process.env.TEST_LOG_LEVEL) process.stdout.write(chunk);
      });
      const ended = once(child, 'exit').then(([code]) =>
        Promise.reject(new Error(`${part} ended with ${code}`)),
      );
      const [message] = await Promise.race([once(child, 'message'), ended]);
      ended.catch(() => {});
      if (message.url) urls.set(part, message.url.replace('localhost', '127.0.0.1'));
    },
    async kill(part) {
      await end(part, 'SIGKILL');
    },
    stop: (part) => end(part, 'SIGTERM'),
    pid: (part) => children.get(part)?.pid ?? 0,
    logOf: (part) => logs.get(part) ?? '',
    async close() {
      // A test that failed may have left a process that stands still.
      for (const child of children.values()) child.kill('SIGCONT');
      await Promise.all([...children.keys()].map((part) => end(part, 'SIGTERM')));
      await database.drop();
      await rm(dataDir, { recursive: true, force: true });
    },
  };

  async function end(part: Part, signal: NodeJS.Signals): Promise<number | null> {
    const child = children.get(part);
    if (!child || child.exitCode !== null || child.signalCode !== null) return child?.exitCode ?? null;
    const ended = once(child, 'exit');
    child.kill(signal);
    const [code] = await ended;
    return code;
  }

  try {
    await Promise.all(parts.map((part) => processes.start(part)));
  } catch (error) {
    await processes.close();
    throw error;
  }
  return processes;
}

/** Ids of the processes that a process has started. */
export function childrenOf(pid: number): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((name) => {
      try {
        const stat = readFileSync(`/proc/${name}/stat`, 'utf8');
        return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1]) === pid;
      } catch {
        return false;
      }
    })
    .map(Number);
}
