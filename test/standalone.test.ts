import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { type AddressInfo, createServer } from 'node:net';
import { join, resolve } from 'node:path';
import pg from 'pg';
import { lockFolder } from '../core/database/embedded/folder-lock.js';
import { coverageEnv } from './support/coverage.js';
import { scrape } from './support/metrics.js';
import { fastFolder } from './support/services/memory.js';
import { freePort } from './support/services/port.js';
import { until } from './support/until.js';

const SCRIPT = resolve('dist/server/standalone/supervisor.js');
const ACCOUNT = { email: 'ada@example.org', password: 'correct horse battery staple' };
const isRoot = process.getuid?.() === 0;

/** For cases that cannot be tried as this user, but as the other. */
const never = (_name: string, _test: () => Promise<void>) => {};

interface Started {
  process: ChildProcess;
  /** Of the page, without the final slash. */
  url: string;
  stdout: string;
}

interface Ended {
  code: number | null;
  stdout: string;
  stderr: string;
}

let folder: string;
let dataDir: string;
/** A folder whose data folder has seen its first start. Most tests go on with a copy, because that start takes long. */
let prepared: string;
const supervisors = new Set<ChildProcess>();

beforeAll(async () => {
  await makeFolder();
  await stop((await start()).process);
  prepared = folder;
});

afterAll(async () => {
  if (prepared) await rm(prepared, { recursive: true });
});

beforeEach(makeFolder);

async function makeFolder(): Promise<void> {
  folder = await mkdtemp(join(await fastFolder(), 'landfall-standalone-'));
  // As root PostgreSQL runs as another user, who must be able to pass.
  await chmod(folder, 0o711);
  dataDir = join(folder, 'data');
}

afterEach(async () => {
  await killAll();
  await rm(folder, { recursive: true, maxRetries: 10 });
});

async function killAll(): Promise<void> {
  for (const child of supervisors) child.kill('SIGKILL');
  supervisors.clear();
  for (const { pid } of ours()) kill(pid, 'SIGKILL');
  await until('every process has ended', () => ours().length === 0);
}

function launch(variables: Record<string, string> = {}): {
  process: ChildProcess;
  output: Ended;
  ended: Promise<Ended>;
} {
  const { PATH = '', HOME = '' } = process.env;
  const child = spawn(process.execPath, [SCRIPT], {
    cwd: folder,
    env: { PATH, HOME, DATA_DIR: dataDir, PORT: '0', ...coverageEnv, ...variables },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  supervisors.add(child);
  const output: Ended = { code: null, stdout: '', stderr: '' };
  child.stdout?.on('data', (chunk) => {
    output.stdout += chunk;
  });
  child.stderr?.on('data', (chunk) => {
    output.stderr += chunk;
  });
  const ended = once(child, 'close').then(([code]) => Object.assign(output, { code }));
  return { process: child, output, ended };
}

/**
 * Ends a first start by `signal` in its middle. On a busy machine the start may succeed before: then it is
 * tried anew.
 * @param begun whether it is time for the signal
 * @param caught called after the end: whether the signal was in time
 */
async function catchStart(
  begun: () => Promise<boolean>,
  signal: NodeJS.Signals,
  caught: (output: Ended) => Promise<boolean>,
): Promise<ReturnType<typeof launch>> {
  for (;;) {
    const launched = launch();
    const isUp = () => launched.output.stdout.includes('Ctrl-C');
    await until('it has begun', async () => (await begun()) || isUp(), 90);
    await stop(launched.process, signal);
    if (await caught(launched.output)) return launched;
    await killAll();
    await rm(dataDir, { recursive: true, maxRetries: 10 });
  }
}

async function start(variables: Record<string, string> = {}): Promise<Started> {
  const { process, output } = launch(variables);
  const isRunning = () => {
    if (process.exitCode !== null) throw new Error(`ended with ${process.exitCode}: ${output.stderr}`);
    return output.stdout.includes('Ctrl-C');
  };
  await until('it is running', isRunning, 90);
  const url = /Page +(\S+)/.exec(output.stdout)?.[1] ?? '';
  return { process, url, stdout: output.stdout };
}

/** Every file keeps its owner and its mode. */
function copyPrepared(): void {
  execFileSync('cp', ['-a', join(prepared, 'data'), dataDir]);
}

/** Starts on a copy of the prepared data folder. */
function startPrepared(variables: Record<string, string> = {}): Promise<Started> {
  copyPrepared();
  return start(variables);
}

async function stop(child: ChildProcess, signal: NodeJS.Signals = 'SIGTERM'): Promise<number | null> {
  child.kill(signal);
  if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
  return child.exitCode;
}

async function post(url: string, body: object): Promise<number> {
  const headers = { 'content-type': 'application/json' };
  const answer = await fetch(url, { method: 'POST', headers, body: JSON.stringify(body) });
  await answer.arrayBuffer();
  return answer.status;
}

const register = ({ url }: Started) => post(`${url}/api/auth/register`, ACCOUNT);
const logIn = ({ url }: Started) => post(`${url}/api/auth/login`, ACCOUNT).catch(() => undefined);

interface Process {
  pid: number;
  command: string;
}

/** Every process that works for this test's data folder: they name it in their command or their environment. */
function ours(): Process[] {
  if (process.platform !== 'linux') {
    const lines = execFileSync('ps', ['eww', '-A', '-o', 'pid=,command='], { encoding: 'utf8' }).split('\n');
    return lines
      .filter((line) => line.includes(dataDir))
      .map((line) => ({ pid: Number.parseInt(line, 10), command: line }));
  }
  const pids = readdirSync('/proc').map(Number).filter(Boolean);
  return pids.flatMap((pid) => {
    try {
      const command = readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ');
      const environment = readFileSync(`/proc/${pid}/environ`, 'utf8').split('\0');
      const mine = command.includes(`-D ${dataDir}/postgres `) || environment.includes(`DATA_DIR=${dataDir}`);
      return mine ? [{ pid, command }] : [];
    } catch {
      return []; // ended meanwhile
    }
  });
}

/** A process that was killed at the last moment may take some more milliseconds to end. */
const nothingIsLeft = () => until('no process is left', () => ours().length === 0);

/** The pid of the one process whose command matches. A child that it starts has its command, too, for a moment. */
function find(command: RegExp): Promise<number> {
  return until(`one process of ${command}`, () => {
    const pids = ours().filter((process) => command.test(process.command));
    return pids.length === 1 && pids[0]?.pid;
  });
}

function kill(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch {
    // ended meanwhile
  }
}

async function listen(port = 0): Promise<{ port: number; close(): Promise<void> }> {
  const server = createServer().listen(port, '127.0.0.1');
  await once(server, 'listening');
  const close = async () => {
    server.close();
    await once(server, 'close');
  };
  return { port: (server.address() as AddressInfo).port, close };
}

describe('start and stop', () => {
  test('prints its address, keeps the data that it was given, and leaves no process behind', async () => {
    const port = await freePort();
    const first = await start({ PORT: String(port) });
    expect(first.stdout).toMatch(/^\n {2}Landfall is running\n {4}Page {4}http:\/\/localhost:\d+\n/);
    expect(first.stdout).toContain(`\n    Data    ${dataDir}\n`);
    expect(await register(first)).toBe(201);
    expect(await stop(first.process)).toBe(0);
    await nothingIsLeft();
    await (await listen(port)).close();

    expect(await logIn(await start())).toBe(200);
  });

  test('tells the metrics of server and worker on two ports, one behind the other', async () => {
    const port = await freePort();
    await startPrepared({ METRICS_PORT: String(port) });
    const server = await scrape(`http://127.0.0.1:${port}`);
    expect(server.series.some((one) => one.startsWith('landfall_queue_jobs'))).toBe(true);
    const worker = await scrape(`http://127.0.0.1:${port + 1}`);
    expect(worker.sum('landfall_worker_slots')).toBeGreaterThan(0);
  });

  test('keeps secrets for its owner only', async () => {
    await start();
    for (const name of ['secret', 'postgres-password']) {
      expect((await stat(join(dataDir, name))).mode & 0o777).toBe(0o600);
    }
    expect((await stat(join(dataDir, 'postgres'))).mode & 0o777).toBe(0o700);
  });

  test.each(['SIGINT', 'SIGHUP'] as const)('ends in good order at %s', async (signal) => {
    const { process } = await startPrepared();
    expect(await stop(process, signal)).toBe(0);
    await nothingIsLeft();
  });

  test('ends in good order while it is still starting', async () => {
    const begun = async () => existsSync(join(dataDir, 'postgres.log'));
    const { output, ended } = await catchStart(begun, 'SIGTERM', async ({ stdout }) => stdout === '');
    await ended;
    expect(output).toEqual({ code: 0, stdout: '', stderr: '' });
    await nothingIsLeft();
  });

  test('takes the same Ctrl-C from terminal and npm as one', async () => {
    const { process } = await startPrepared();
    process.kill('SIGINT');
    expect(await stop(process, 'SIGINT')).toBe(0);
  });

  (isRoot ? test : never)(
    'as root below a private folder keeps the database elsewhere, and finds it again',
    async () => {
      await chmod(folder, 0o700);
      const first = await start();
      const location = /Database +(\S+)/.exec(first.stdout)?.[1] ?? '';
      try {
        expect(await readdir(location)).toContain('postgres');
        expect(await register(first)).toBe(201);
        await stop(first.process);
        const second = await start();
        expect(second.stdout).toContain(location);
        expect(await logIn(second)).toBe(200);
        await stop(second.process);
      } finally {
        await rm(location, { recursive: true });
      }
    },
  );
});

describe('accidents', () => {
  test('starts again at once after its own sudden death', async () => {
    const port = String(await freePort());
    const first = await startPrepared({ PORT: port });
    await register(first);
    await stop(first.process, 'SIGKILL');
    const second = await start({ PORT: port });
    expect(await logIn(second)).toBe(200);
    await stop(second.process);
    await until('the first one’s children have ended', () => ours().length === 0);
  });

  test('starts after a death amid the very first start', async () => {
    const unfinished = async () =>
      (await readdir(dataDir).catch(() => [])).some((name) => name.startsWith('postgres-new'));
    await catchStart(unfinished, 'SIGKILL', unfinished);
    await register(await start());
    expect((await readdir(dataDir)).filter((name) => name.includes('new'))).toEqual([]);
  });

  test.each([
    ['server', /server\/main\.js/],
    ['worker', /worker\/main\.js/],
  ])('brings a killed %s back', async (_name, command) => {
    const started = await startPrepared({ LOG_LEVEL: 'silent', PORT: String(await freePort()) });
    await register(started);
    const pid = await find(command);
    kill(pid, 'SIGKILL');
    await until('another one runs', () =>
      ours().some((process) => command.test(process.command) && process.pid !== pid),
    );
    await until('it answers at the same address', async () => (await logIn(started)) === 200);
    expect(started.process.exitCode).toBeNull();
  });

  test('replaces a server and a worker that stand still', async () => {
    const started = await startPrepared({ LOG_LEVEL: 'silent', PORT: String(await freePort()) });
    await register(started);
    const commands = [/server\/main\.js/, /worker\/main\.js/];
    const pids = await Promise.all(commands.map(find));
    for (const pid of pids) kill(pid, 'SIGSTOP');
    for (const [index, command] of commands.entries()) {
      await until('another one runs', () =>
        ours().some((process) => command.test(process.command) && process.pid !== pids[index]),
      );
    }
    await until('it answers at the same address', async () => (await logIn(started)) === 200);
    expect(started.process.exitCode).toBeNull();
  });

  test('brings a killed PostgreSQL back, even while a statement is running', async () => {
    const started = await startPrepared({ LOG_LEVEL: 'silent', PORT: String(await freePort()) });
    await register(started);
    const [pid = '', , , port] = (await readFile(join(dataDir, 'postgres/postmaster.pid'), 'utf8')).split(
      '\n',
    );
    const password = (await readFile(join(dataDir, 'postgres-password'), 'utf8')).trim();
    const client = new pg.Client(`postgres://landfall:${password}@127.0.0.1:${port}/landfall`);
    client.on('error', () => {});
    await client.connect();
    // The backend notices only after the statement that the main process is gone.
    const long = client.query('SELECT count(*) FROM generate_series(1, 100000000000)').catch(() => {});
    kill(Number(pid), 'SIGKILL');
    await until('it answers again', async () => (await logIn(started)) === 200, 90);
    await long;
    expect(await stop(started.process)).toBe(0);
    await nothingIsLeft();
  });

  test('is not misled by the pid of a former PostgreSQL, which belongs to another program now', async () => {
    const first = await startPrepared();
    const pidFile = join(dataDir, 'postgres/postmaster.pid');
    const text = await readFile(pidFile, 'utf8');
    await stop(first.process);
    await writeFile(pidFile, text.replace(/^\d+/, String(process.pid)));
    await start();
  });
});

describe('a start that cannot succeed says why in one line', () => {
  async function failure(variables: Record<string, string>): Promise<string> {
    const { code, stdout, stderr } = await launch(variables).ended;
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
    expect(stderr).toMatch(/^landfall: [^\n]+\n$/);
    await nothingIsLeft();
    return stderr;
  }

  test('a taken port', async () => {
    const { port, close } = await listen();
    expect(await failure({ PORT: String(port) })).toContain(`PORT=${port}`);
    expect(existsSync(join(dataDir, 'postgres'))).toBe(false);
    await close();
  });

  test('a file in place of the data folder', async () => {
    await writeFile(dataDir, '');
    expect(await failure({})).toContain(`DATA_DIR=${dataDir}`);
    expect(await failure({ DATA_DIR: join(dataDir, 'below') })).toContain('DATA_DIR');
  });

  // Root can write everywhere, so this test needs another user.
  (isRoot ? never : test)('a data folder that cannot be written', async () => {
    await mkdir(dataDir, { mode: 0o500 });
    expect(await failure({})).toContain(`DATA_DIR=${dataDir}`);
  });

  test('a bad variable', async () => {
    expect(await failure({ PORT: 'abc' })).toContain('PORT=abc');
  });

  test('a database that cannot be reached', async () => {
    const connected = { DATABASE_URL: 'postgres://u:p@127.0.0.1:1/d', JWT_SECRET: 'x'.repeat(32) };
    const line = await failure({ ...connected, DATA_DIR_SHARED: 'true' });
    expect(line).toContain('DATABASE_URL: connect ECONNREFUSED 127.0.0.1:1');
  });

  test('an address of another machine', async () => {
    expect(await failure({ HOST: '192.0.2.1' })).toContain('HOST=192.0.2.1');
  });

  test('a database that has lost its password', async () => {
    copyPrepared();
    await rm(join(dataDir, 'postgres-password'));
    expect(await failure({})).toContain('postgres-password');
  });

  test('a data folder in use', async () => {
    const first = await startPrepared();
    const { code, stderr } = await launch().ended;
    expect(code).toBe(1);
    expect(stderr).toMatch(/^landfall: DATA_DIR=[^\n]+another Landfall[^\n]+\n$/);
    expect(await register(first)).toBe(201);
  });
});

describe('the lock of the data folder', () => {
  beforeEach(() => mkdir(dataDir));

  test('goes to one only, even when many find a dead holder at the same time', async () => {
    await symlink('999999999@1.dead', join(dataDir, 'lock.3'));
    const attempts = await Promise.allSettled(Array.from({ length: 20 }, () => lockFolder(dataDir)));
    const locks = attempts.flatMap((attempt) => (attempt.status === 'fulfilled' ? [attempt.value] : []));
    expect(locks).toHaveLength(1);
    expect(locks[0]?.takenOver).toBe(true);
  });

  test('is not held by another process that got the pid of a dead holder', async () => {
    await symlink(`${process.pid}@1.dead`, join(dataDir, 'lock.3'));
    expect((await lockFolder(dataDir)).takenOver).toBe(true);
  });

  test('is free after its release', async () => {
    const first = await lockFolder(dataDir);
    await expect(lockFolder(dataDir)).rejects.toThrow(`process ${process.pid}`);
    await first.release();
    expect((await lockFolder(dataDir)).takenOver).toBe(false);
  });
});
