import { randomBytes } from 'node:crypto';
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../../core/database/embedded/postgres.js';
import { expectCompletedOnce } from '../support/aftermath.js';
import { expectInOrder, type Installation, install } from '../support/installation.js';
import { beginUpload, MIB, UNEVEN } from '../support/piecewise-upload.js';
import { until } from '../support/until.js';

/* PostgreSQL, one of this suite's own, is restarted in the middle of uploads. */

const AWAY_MS = 3_000;

let folder: string;
let postgres: EmbeddedPostgres;
let installation: Installation;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'landfall-postgres-'));
  // As root PostgreSQL runs as another user, who must be able to pass.
  await chmod(folder, 0o711);
  postgres = await startEmbeddedPostgres({ dataDir: folder });
  // The processes migrate it.
  process.env.TEST_DATABASE_URL = postgres.url;
  process.env.TEST_TEMPLATE_DATABASE = 'template1';
  installation = await install();
});
afterAll(async () => {
  await installation?.close();
  await postgres?.stop();
  await rm(postgres?.location ?? folder, { recursive: true, force: true });
  await rm(folder, { recursive: true, force: true });
});

/** @param graceMs 0: it is killed, and has to repair itself */
async function restart(graceMs: number): Promise<void> {
  const { port } = postgres;
  await postgres.stop(graceMs);
  await pause(AWAY_MS);
  postgres = await startEmbeddedPostgres({ dataDir: folder, port });
}

test('uploads go on where they were acknowledged to be when PostgreSQL is restarted, and when it is killed', async () => {
  const { user, s3, processes } = installation;
  const slow = s3.rule(({ method }) => method === 'PUT', { delay: 200 });
  const contents = Array.from({ length: 6 }, () => randomBytes(24 * MIB));
  const uploads = await Promise.all(contents.map((content) => beginUpload(user, content, UNEVEN)));
  const finished = Promise.all(uploads.map((upload) => upload.finish()));
  finished.catch(() => {});
  const acknowledged = () =>
    uploads.reduce((sum, { acknowledged: offsets }) => sum + (offsets.at(-1) ?? 0), 0);
  for (const graceMs of [5_000, 0]) {
    const from = acknowledged();
    await until('some more bytes to be acknowledged', () => acknowledged() > from + 8 * MIB);
    await restart(graceMs);
  }
  slow();
  await finished;
  for (const [index, { id }] of uploads.entries()) {
    await expectCompletedOnce(processes, user, id, contents[index] ?? Buffer.alloc(0), 90);
  }
  await expectInOrder(installation);
});
