import { randomBytes } from 'node:crypto';
import type { RequestListener, Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { hostname } from 'node:os';
import { setTimeout as pause } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { DataSource } from 'typeorm';
import { within } from '../core/concurrency.js';
import { type Config, loadConfig, readEnvironment, requireConnected } from '../core/config.js';
import { ConfigError } from '../core/config-error.js';
import { REQUEST_LIMITS } from '../core/database/client.js';
import { openErrorReports } from '../core/error-reports.js';
import { hasCode } from '../core/errors.js';
import { openHooks } from '../core/hooks/open.js';
import { announceReady, failStart, onShutdown } from '../core/lifecycle.js';
import { createLogger, type Logger } from '../core/log.js';
import type { TaskSource } from '../core/media/parser-task.js';
import { type Parsers, startParsers } from '../core/media/parsers.js';
import type { Detected } from '../core/media/types.js';
import { observeInstallation } from '../core/metrics/gauges.js';
import { openMetricsPort } from '../core/metrics/listener.js';
import { createMetrics, type Metrics } from '../core/metrics/metrics.js';
import { createClamd } from '../core/scanning/clamd.js';
import { openServices } from '../core/services.js';
import { findOrCreateOwner } from './accounts/hook-accounts.js';
import { openLocalAccount } from './accounts/local-account.js';
import { buildApp } from './app.js';
import { createVerifyExternal } from './auth/external.js';
import { deriveKeys } from './auth/keys.js';
import { type AdmitLocal, createAdmitLocal } from './auth/local.js';
import { createRefusals } from './auth/refusals.js';
import { type Check, createChecks, inspect } from './health/checks.js';
import { createDrain } from './http/drain.js';
import { createHttpServer, createHttpsServer } from './http/server.js';
import { followCertificate, readCertificate } from './http/tls.js';
import { openSharedCounts } from './limits/counts.js';
import { createLimits } from './limits/limits.js';
import { openStreams } from './live/streams.js';

/** How long requests may continue after the signal to stop. Then uploads must stop at their offset. */
const FINISH_MS = 2_000;

/** How long those uploads have to stop and to answer before their connections are cut. */
const PARK_MS = 1_500;

/** Shorter than the time that the supervisor and containers wait before they kill the process. */
const SHUTDOWN_MS = 7_000;

/** How long an upload waits for the detected type. After that only the worker detects it. */
const TYPE_MS = 20_000;

/** How often idle connections are closed, because they keep the server from closing. */
const HANG_UP_EVERY_MS = 20;

async function start(config: Readonly<Config>): Promise<void> {
  const { jwtSecret } = requireConnected(config);
  const reports = config.sentryDsn ? openErrorReports(config.sentryDsn) : undefined;
  const log = createLogger(config.logLevel, 'server', config.logFiles, reports);
  warnOfOpenDoors(config, log);
  const holder = config.instanceId ?? `${hostname()}:${process.pid}:${randomBytes(4).toString('hex')}`;
  const metrics = createMetrics(log);
  const services = await openServices(config, log, {
    part: 'server',
    limits: REQUEST_LIMITS,
    holder,
    metrics,
  });
  const checks = createChecks({ ...services, scanner: config.clamav && createClamd(config.clamav) });
  observeInstallation(metrics, services);
  observeDependencies(metrics, checks);
  const { database, leases, listener } = services;

  const drain = createDrain();
  const refusals = createRefusals({ database, log });
  const keys = deriveKeys(jwtSecret);
  const limits = createLimits({
    rateLimits: config.rateLimits,
    shared: config.redisUrl ? await openSharedCounts(config.redisUrl, log) : undefined,
    accountKey: keys.limitedAccount,
    refusals,
    metrics,
    log,
  });
  const streams = await openStreams({ database, listener, log });
  const types = startTypeParser(config, log);
  const { identityProvider } = config;
  const resolveOwner = (name: string) => findOrCreateOwner(database, name);
  const hooks = await openHooks({
    delivery: config.delivery,
    config: config.hook,
    database,
    metrics,
    log,
    ...(config.hookAuth ? { resolveOwner } : {}),
  });
  const app = buildApp({
    ...config,
    ...services,
    log,
    keys,
    verifyExternal: identityProvider && createVerifyExternal(identityProvider, database),
    admitLocal: await openLocally(config, database),
    refusals,
    limits,
    streams,
    hooksOf: hooks?.of,
    tryHook: hooks?.try,
    checks,
    pageDir: fileURLToPath(new URL('../web', import.meta.url)),
    drain,
    detectType: types.detect,
  });
  const http = await openHttp(config, app, log);
  const metricsPort = await openMetricsPort(metrics, config, log);
  onShutdown(log, SHUTDOWN_MS, async (orphaned) => {
    drain.begin();
    streams.drain();
    // The process that replaces an orphan needs its port.
    if (!orphaned) await Promise.race([drain.whenIdle(), pause(FINISH_MS)]);
    leases.askAll();
    hooks?.stop();
    await closeHttp(http, orphaned ? 0 : PARK_MS);
    await drain.whenIdle();
    types.close();
    metricsPort?.close();
    await refusals.flush();
    await hooks?.flush();
    await limits.close();
    await streams.close();
    await Promise.all([services.close(), reports?.close()]);
  });

  const url = await listen(http, config);
  log.info({ url }, 'listening');
  announceReady(url);
}

/** With AUTH=off, what stands for all authentication. */
async function openLocally(config: Readonly<Config>, database: DataSource): Promise<AdmitLocal | undefined> {
  const { authOff, publicUrl, corsOrigins } = config;
  if (!authOff) return undefined;
  const { id: userId } = await openLocalAccount(database);
  return createAdmitLocal({ authOff, userId, publicUrl, corsOrigins });
}

/** With TLS_CERT_FILE the server speaks HTTPS, and follows the changes of the files. */
async function openHttp({ tls }: Readonly<Config>, app: RequestListener, log: Logger): Promise<Server> {
  if (!tls) return createHttpServer(app);
  const certificate = await readCertificate(tls);
  const https = createHttpsServer(app, certificate);
  followCertificate(https, tls, certificate, log);
  return https;
}

/** Adds whether each service answers that this server depends on. */
function observeDependencies(metrics: Metrics, checks: Check[]): void {
  metrics.observe(
    {
      landfall_dependency_up: { help: 'Whether a service answers this server: 1 or 0', label: 'dependency' },
    },
    async () => {
      const found = await inspect(checks);
      const states = found.map(({ name, state }) => [name, state === 'up' ? 1 : 0] as const);
      return { landfall_dependency_up: Object.fromEntries(states) };
    },
  );
}

/** Detects types in a parser process. The first call starts the process. */
function startTypeParser(config: Readonly<Config>, log: Logger) {
  let parsers: Parsers | undefined;
  const closed = new AbortController();
  return {
    detect(bytes: TaskSource): Promise<Detected | null> {
      parsers ??= startParsers({
        count: 1,
        timeoutSeconds: config.parserTimeoutSeconds,
        maxImagePixels: config.maxImagePixels,
        memory: config.parserMemory,
        log,
      });
      return within(TYPE_MS, parsers.run('type', bytes, closed.signal), 'type');
    },
    close(): void {
      closed.abort();
      parsers?.close();
    },
  };
}

/** Warns of settings that may be intended but are dangerous otherwise. */
function warnOfOpenDoors(config: Readonly<Config>, log: Logger): void {
  const { trustProxy, identityProvider, authOff } = config;
  if (authOff) {
    const who =
      authOff === 'anywhere' ? 'ANYBODY WHO CAN REACH THIS SERVER' : 'every program on this machine';
    log.warn(`AUTH=off: ${who} can read, change and delete everything, as an admin, without signing in`);
  }
  if (trustProxy === true) {
    log.warn('TRUST_PROXY=true: anyone who reaches this server directly can pretend to be at any address');
  }
  if (config.tls && config.publicUrl?.startsWith('http:')) {
    log.warn(
      'PUBLIC_URL is not HTTPS, but TLS_CERT_FILE makes this server speak HTTPS: clients get wrong addresses',
    );
  }
  if (identityProvider && !identityProvider.audience) {
    log.warn(
      'JWT_AUDIENCE is not set: tokens that the identity provider made for other applications are taken',
    );
  }
}

function listen(http: Server, config: Readonly<Config>): Promise<string> {
  return new Promise((resolve, reject) => {
    http.once('error', (error) => {
      const taken = hasCode(error, 'EADDRINUSE');
      reject(taken ? new ConfigError(`PORT=${config.port}: another process listens there`) : error);
    });
    http.listen(config.port, config.host, () => {
      const { port } = http.address() as AddressInfo;
      const local = ['127.0.0.1', '::1', '0.0.0.0', '::', 'localhost'].includes(config.host);
      resolve(`${config.tls ? 'https' : 'http'}://${local ? 'localhost' : config.host}:${port}`);
    });
  });
}

/** Stops listening and waits until all connections have ended; after `graceMs` it cuts the rest. */
async function closeHttp(http: Server, graceMs: number): Promise<void> {
  const closed = new Promise<void>((resolve) => http.close(() => resolve()));
  const hangUp = setInterval(() => http.closeIdleConnections(), HANG_UP_EVERY_MS);
  const cut = setTimeout(() => http.closeAllConnections(), graceMs);
  await closed;
  clearInterval(hangUp);
  clearTimeout(cut);
}

try {
  await start(loadConfig(readEnvironment()));
} catch (error) {
  failStart(error);
}
