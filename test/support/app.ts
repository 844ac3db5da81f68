import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { loadConfig } from '../../core/config.js';
import { openDatabase } from '../../core/database/data-source.js';
import { openListener } from '../../core/database/listen.js';
import { createLogger } from '../../core/log.js';
import { openQueue } from '../../core/queue/queue.js';
import { openFileStorage } from '../../core/storage/file.js';
import type { UploadHooks } from '../../core/uploads/hooks.js';
import { openLeases } from '../../core/uploads/lease.js';
import { type AppDeps, buildApp } from '../../server/app.js';
import { deriveKeys } from '../../server/auth/keys.js';
import { createRefusals } from '../../server/auth/refusals.js';
import { createDrain } from '../../server/http/drain.js';
import { createLimits } from '../../server/limits/limits.js';
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
  const config = loadConfig(Object.fromEntries(off));
  const database = await openDatabase(test.url, 'app test');
  const storage = await openFileStorage(folder, config, log);
  await storage.marker.write('of the test');
  const listener = await openListener(test.url, log);
  const leases = await openLeases({ database, listener, log }, 'app');
  const queue = openQueue({
    databaseUrl: test.url,
    redisUrl: undefined,
    attempts: config.jobAttempts,
    backoffMs: config.jobBackoffMs,
    log,
  });
  const refusals = createRefusals({ database, log });
  const keys = deriveKeys('a secret of the test, which is long enough');
  const { rateLimits } = config;
  const limits = createLimits({
    rateLimits,
    shared: undefined,
    accountKey: keys.limitedAccount,
    refusals,
    log,
  });
  const deps: AppDeps = {
    ...config,
    database,
    storage,
    leases,
    queue,
    log,
    keys,
    verifyExternal: undefined,
    refusals,
    limits,
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
      leases.close();
      await listener.close();
      await queue.close();
      await database.destroy();
      await test.drop();
      await rm(folder, { recursive: true, force: true });
    },
  };
}
