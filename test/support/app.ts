import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { loadConfig, requireConnected } from '../../core/config.js';
import { createLogger } from '../../core/log.js';
import { createMetrics } from '../../core/metrics/metrics.js';
import { openServices } from '../../core/services.js';
import type { UploadHooks } from '../../core/uploads/hooks.js';
import { type AppDeps, buildApp } from '../../server/app.js';
import { deriveKeys } from '../../server/auth/keys.js';
import { createRefusals } from '../../server/auth/refusals.js';
import { createChecks } from '../../server/health/checks.js';
import { createDrain } from '../../server/http/drain.js';
import { openImages } from '../../server/images/images.js';
import { createLimits } from '../../server/limits/limits.js';
import { openStreams } from '../../server/live/streams.js';
import { createDatabase, type TestDatabase } from './database.js';

export interface TestApp {
  url: string;
  deps: AppDeps;
  database: TestDatabase;
  close(): Promise<void>;
}

/** The HTTP application in this process, on a database and a folder of its own, without worker. */
export async function startApp(hooks: UploadHooks): Promise<TestApp> {
  const test = await createDatabase();
  const folder = await mkdtemp(join(tmpdir(), 'landfall-app-'));
  const log = createLogger('silent', 'test');
  const off = ['UPLOADS', 'STATUS', 'GLOBAL', 'AUTH'].map((bucket) => [`RATE_LIMIT_${bucket}`, '0']);
  const config = loadConfig({
    DATABASE_URL: test.url,
    DATA_DIR: folder,
    DATA_DIR_SHARED: 'true',
    JWT_SECRET: 'a secret of the test, which is long enough',
    ...Object.fromEntries(off),
  });
  const services = await openServices(config, log, {
    part: 'server',
    limits: {},
    holder: 'app',
    metrics: createMetrics(log),
  });
  const { database } = services;
  const refusals = createRefusals({ database, log });
  const keys = deriveKeys(requireConnected(config).jwtSecret);
  const { rateLimits } = config;
  const limits = createLimits({
    rateLimits,
    shared: undefined,
    accountKey: keys.limitedAccount,
    refusals,
    log,
  });
  const streams = await openStreams({ ...services, log });
  const images = openImages(
    { ...services, log },
    { count: 1, timeoutSeconds: 60, maxImagePixels: config.maxImagePixels, memory: config.parserMemory },
  );
  const deps: AppDeps = {
    ...config,
    ...services,
    log,
    keys,
    verifyExternal: undefined,
    admitLocal: undefined,
    refusals,
    limits,
    streams,
    images,
    checks: createChecks(services),
    hooks,
    pageDir: join(folder, 'no page'),
    drain: createDrain(),
    detectType: async () => null,
  };
  const http = createServer(buildApp(deps));
  await new Promise<void>((resolve) => http.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${(http.address() as AddressInfo).port}`,
    deps,
    database: test,
    async close() {
      http.closeAllConnections();
      await new Promise((resolve) => http.close(resolve));
      await refusals.flush();
      await limits.close();
      await streams.close();
      await images.close();
      await services.close();
      await test.drop();
      await rm(folder, { recursive: true, force: true });
    },
  };
}
