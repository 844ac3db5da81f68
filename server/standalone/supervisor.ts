/**
 * `npm start`: everything on one machine without configuration. Locks the data folder, starts a PostgreSQL in
 * it (unless DATABASE_URL is set), and runs server and worker as child processes. They are the same programs
 * as in the connected form, and they migrate the database themselves. They end by themselves if this process
 * dies for any reason.
 */
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Config, loadConfig, readEnvironment } from '../../core/config.js';
import { ConfigError } from '../../core/config-error.js';
import { ensureDataFolder, keepSecret } from '../../core/data-folder.js';
import { connectOnce } from '../../core/database/connect.js';
import { lockFolder } from '../../core/database/embedded/folder-lock.js';
import { hasCode } from '../../core/errors.js';
import { createLogger } from '../../core/log.js';
import { keepRunning } from './child.js';
import { keepPostgres } from './postgres.js';

/** Everything ends within 10 s of the signal: processes that still run after this time are killed. */
const GRACE_MS = 9000;
/** Part of that time reserved for PostgreSQL, after server and worker have finished. */
const POSTGRES_SHARE_MS = 1000;
/** How long the children of a killed supervisor may still hold the port. */
const TAKEOVER_MS = 5000;
/** Ctrl-C reaches this process from the terminal and again from npm: within this time it counts once. */
const SAME_SIGNAL_MS = 500;

/** Stops a started part, by force after `graceMs`. */
type Stop = (graceMs: number) => Promise<unknown>;

/**
 * Starts everything in order and prints its URL. Adds to `stops` the parts to be stopped, in reverse order.
 * @throws {ConfigError} names the variable to change
 */
async function start(stops: Stop[], signal: AbortSignal): Promise<void> {
  const env = readEnvironment();
  const config = loadConfig(env);
  const { dataDir, host, port } = config;
  const logLevel = env.LOG_LEVEL || 'warn';
  const log = createLogger(logLevel, 'standalone', config.logFiles);

  await ensureDataFolder(dataDir);
  const lock = await lockFolder(dataDir);
  stops.push(lock.release);
  await checkAddress(host, port, lock.takenOver ? TAKEOVER_MS : 0);

  const postgres = config.databaseUrl ? undefined : await keepPostgres(dataDir, log, signal);
  if (postgres) stops.push((graceMs) => postgres.stop(graceMs));
  const databaseUrl = postgres?.url ?? config.databaseUrl ?? '';
  // Check this before the children start: each of them would report the problem again.
  if (!postgres) await connectOnce(databaseUrl).then((client) => client.end());

  const childEnv = {
    ...env,
    // See Dockerfile.server.
    MALLOC_ARENA_MAX: env.MALLOC_ARENA_MAX ?? '2',
    MALLOC_TRIM_THRESHOLD_: env.MALLOC_TRIM_THRESHOLD_ ?? '33554432',
    UV_THREADPOOL_SIZE: env.UV_THREADPOOL_SIZE || '16',
    HOST: host,
    DATA_DIR: dataDir,
    DATA_DIR_SHARED: 'true',
    DATABASE_URL: databaseUrl,
    // With the embedded PostgreSQL the lock of the folder allows only one instance.
    INSTANCE_ID: env.INSTANCE_ID || (postgres ? 'standalone' : `standalone:${randomUUID()}`),
    JWT_SECRET: config.jwtSecret ?? (await keepSecret(join(dataDir, 'secret'))),
    LOG_LEVEL: logLevel,
  };
  signal.throwIfAborted();
  const serverEnv: NodeJS.ProcessEnv = { ...childEnv };
  const server = keepRunning({
    name: 'server',
    script: new URL('../main.js', import.meta.url),
    options: ['--max-semi-space-size=4'],
    env: serverEnv,
    log,
  });
  const workerScript = new URL('../../worker/main.js', import.meta.url);
  const workerEnv = { ...childEnv, ...workerMetrics(config) };
  const worker = keepRunning({ name: 'worker', script: workerScript, env: workerEnv, log });
  const children = [server, worker];
  process.on('SIGUSR2', () => {
    for (const child of children) child.signal('SIGUSR2');
  });
  stops.push((graceMs) =>
    Promise.all(children.map((child) => child.stop(Math.max(0, graceMs - POSTGRES_SHARE_MS)))),
  );
  const aborted = once(signal, 'abort').then(() => Promise.reject(signal.reason));
  const [url] = await Promise.race([Promise.all([server.ready, worker.ready]), aborted]);

  // A restarted server keeps the port that clients know.
  if (url) serverEnv.PORT = new URL(url).port || String(port);
  printWelcome(config, url, postgres?.location);
}

/** Both processes tell their metrics, and cannot share a port: the worker takes the next one. */
function workerMetrics({ metricsPort }: Config): NodeJS.ProcessEnv {
  return metricsPort ? { METRICS_PORT: String(metricsPort + 1) } : {};
}

/** Checks that the server will be able to listen there. @throws {ConfigError} names PORT or HOST */
async function checkAddress(host: string, port: number, patienceMs: number): Promise<void> {
  const giveUp = Date.now() + patienceMs;
  for (;;) {
    const probe = createServer().listen(port, host);
    try {
      await once(probe, 'listening');
      probe.close();
      return;
    } catch (error) {
      if (hasCode(error, 'EADDRINUSE') && Date.now() < giveUp) await sleep(50);
      else if (hasCode(error, 'EADDRINUSE')) {
        throw new ConfigError(
          `PORT=${port}: another program is using it: stop that one, or choose another port`,
        );
      } else if (hasCode(error, 'EACCES')) {
        throw new ConfigError(`PORT=${port}: this user may not use it: choose one from 1024 on`);
      } else throw new ConfigError(`HOST=${host}: not an address of this machine`, { cause: error });
    }
  }
}

function printWelcome(
  config: Config,
  served: string | undefined,
  postgresLocation: string | undefined,
): void {
  const url = new URL(config.publicUrl ?? served ?? `http://${config.host}:${config.port}`);
  if (/^(127\.|0\.0\.0\.0$|\[::1?\]$)/.test(url.hostname)) url.hostname = 'localhost';
  const lines = [
    ['Page', url.href.replace(/\/$/, '')],
    ['Data', config.dataDir],
    ...(postgresLocation && postgresLocation !== config.dataDir ? [['Database', postgresLocation]] : []),
    ...(config.authOff ? [['Sign-in', 'none (AUTH=off): every request acts as an admin']] : []),
    ['Stop', 'Ctrl-C'],
  ];
  const width = Math.max(...lines.map(([name = '']) => name.length));
  const block = lines.map(([name = '', value]) => `    ${name.padEnd(width)}    ${value}`).join('\n');
  console.log(`\n  Landfall is running\n${block}\n`);
}

/** Calls `first` at the first signal to stop, and `again` at a later one. */
function onStopSignals(first: () => void, again: () => void): void {
  let since: number | undefined;
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(name, () => {
      if (since === undefined) {
        since = Date.now();
        first();
      } else if (Date.now() - since > SAME_SIGNAL_MS) again();
    });
  }
}

async function stopAll(stops: Stop[], graceMs: number): Promise<void> {
  const deadline = Date.now() + graceMs;
  for (const stop of stops.toReversed()) {
    await stop(Math.max(0, deadline - Date.now())).catch(reportFailure);
  }
}

function reportFailure(error: unknown): void {
  const message = error instanceof Error ? error.message : String(error);
  console.error(`landfall: ${message.replaceAll(/\s*\n\s*/g, ' ')}`);
}

const stops: Stop[] = [];
const stopping = new AbortController();
onStopSignals(
  () => stopping.abort(),
  () => void stopAll(stops, 0).finally(() => process.exit(1)),
);
const stopped = once(stopping.signal, 'abort');
let exitCode = 0;
try {
  await start(stops, stopping.signal);
  await stopped;
} catch (error) {
  if (!stopping.signal.aborted) {
    reportFailure(error);
    exitCode = 1;
  }
}
await stopAll(stops, GRACE_MS);
process.exit(exitCode);
