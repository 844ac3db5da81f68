import { randomBytes } from 'node:crypto';
import { expectBlobsInOrder, timeline } from '../support/aftermath.js';
import { idOf, registerUser, type TestUser } from '../support/client.js';
import { concatenate } from '../support/concatenated-upload.js';
import { letRetry, purge, restore, terminate, trash } from '../support/deletions.js';
import { expectInOrder, type Installation, install } from '../support/installation.js';
import { groupPoints, type KillPoint } from '../support/kill.js';
import { listBlobs } from '../support/objects.js';
import { runPasses } from '../support/passes.js';
import { post, sha256 } from '../support/plain-client.js';
import { type PostgresProxy, type Statement, startPostgresProxy } from '../support/postgres-proxy.js';
import type { Part } from '../support/processes.js';
import { Random } from '../support/random.js';
import { until } from '../support/until.js';

/* Duplicates share their bytes, and these go with the last of them, at whatever moment a process dies. */

/** A lost job is noticed after some time; then it still has to run. */
const TAKEOVER_SECONDS = 120;

const UNLIMITED = Object.fromEntries(
  ['UPLOADS', 'STATUS', 'PROCESSING', 'DOWNLOADS', 'GLOBAL'].map((bucket) => [`RATE_LIMIT_${bucket}`, '0']),
);

describe('the worker is killed', () => {
  /** How many files stand still at a time: fewer than the worker has connections. */
  const ABREAST = 6;

  let installation: Installation;
  let postgres: PostgresProxy;

  beforeAll(async () => {
    postgres = await startPostgresProxy();
    const env = { ...UNLIMITED, WORKER_CONCURRENCY: '16' };
    installation = await install({ env, reach: postgres.reach });
  });
  afterAll(async () => {
    await installation?.close();
    await postgres?.close();
  });

  /** A predicate that picks the statements of the transactions that record the reading of a file. It has to see all. */
  function recordsReading(id: string): (statement: Statement) => boolean {
    const transactions = new Set<number>();
    return ({ application, connection, text, parameters }) => {
      if (application !== 'landfall worker') return false;
      const isAbout = parameters.includes(id) && parameters.some((value) => value?.includes('"verify":'));
      if (isAbout && text.startsWith('UPDATE files')) transactions.add(connection);
      const belongs = transactions.has(connection);
      if (/^(COMMIT|ROLLBACK)/.test(text)) transactions.delete(connection);
      return belongs;
    };
  }

  /** Uploads these bytes, which the user has already. @param begin called before the worker gets them */
  async function sendAgain(content: Buffer, begin: (id: string) => void): Promise<string> {
    const path = await installation.user.create(content.length);
    begin(idOf(path));
    const headers = { 'Upload-Offset': '0' };
    expect((await installation.user.tus('PATCH', path, headers, content as BodyInit)).status).toBe(204);
    return idOf(path);
  }

  test('before and after each statement by which a file comes to share its bytes', async () => {
    const { user, processes, bucket } = installation;
    const complete = async (id: string) =>
      expect(await user.settled(id, TAKEOVER_SECONDS)).toMatchObject({ status: 'completed', error: null });

    const content = randomBytes(1000);
    const first = await user.upload(content);
    await complete(first);
    const before = postgres.statements.length;
    const second = await sendAgain(content, () => {});
    await complete(second);
    const statements = postgres.statements.slice(before).filter(recordsReading(second));
    // The older bytes are read between two transactions.
    expect(statements.filter(({ text }) => /^(COMMIT|ROLLBACK)/.test(text))).toHaveLength(2);

    const groups = groupPoints(statements.length, ABREAST);
    const twins: { original: string; duplicate: string; content: Buffer }[] = [];
    for (const points of groups) {
      const contents = points.map(() => randomBytes(1000));
      const originals = await Promise.all(contents.map((bytes) => user.upload(bytes)));
      for (const id of originals) await complete(id);
      const targets = await Promise.all(points.map((point, n) => aimAt(point, contents[n] as Buffer)));
      for (const { reached } of targets) await reached;
      await processes.kill('worker');
      for (const { cut } of targets) cut();
      await processes.start('worker');
      for (const [n, { duplicate }] of targets.entries()) {
        twins.push({ original: originals[n] ?? '', duplicate, content: contents[n] as Buffer });
      }
    }
    for (const { original, duplicate, content } of twins) {
      await complete(duplicate);
      const file = await user.get(`/api/files/${duplicate}`);
      expect(file).toMatchObject({ duplicateOf: original, sha256: sha256(content) });
      const events = await timeline(processes, duplicate);
      for (const once of ['verify', 'file.deduplicated', 'file.completed']) {
        expect([once, events.filter((event) => event === once)]).toEqual([once, [once]]);
      }
      expect(await purge(user, original)).toBe(204);
    }
    await expectBlobsInOrder(processes, bucket);
    for (const { duplicate, content } of twins) {
      const answer = await user.fetch(`/api/files/${duplicate}/content`);
      expect(sha256(Buffer.from(await answer.arrayBuffer()))).toBe(sha256(content));
      expect(await purge(user, duplicate)).toBe(204);
    }
    expect([await purge(user, second), await purge(user, first)]).toEqual([204, 204]);
    await runPasses(processes, async () => (await bucket.listKeys()).length === 0);
    await expectBlobsInOrder(processes, bucket);
  });

  async function aimAt({ number, place }: KillPoint, content: Buffer) {
    let pause: ReturnType<PostgresProxy['pauseAt']> | undefined;
    const duplicate = await sendAgain(content, (id) => {
      const matches = recordsReading(id);
      let statements = 0;
      pause = postgres.pauseAt((statement) => {
        if (!matches(statement)) return false;
        statements++;
        return statements === number;
      }, place);
    });
    return { duplicate, reached: pause?.reached, cut: () => pause?.cut() };
  }
});

describe('few contents under random uploads, deletions and kills', () => {
  const SECONDS = 45;
  const CLIENTS = 6;
  const KILLS: Part[] = ['worker', 'server', 'worker-2', 'worker', 'worker-2', 'server'];

  let installation: Installation;

  beforeAll(async () => {
    installation = await install({ parts: ['server', 'worker', 'worker-2'], env: UNLIMITED });
  });
  afterAll(() => installation?.close());

  const seed = Number(process.env.TEST_SEED ?? Date.now() % 1_000_000);

  test(`all that is left has its bytes, stored once, and no more is stored (seed ${seed})`, async () => {
    const { processes, bucket } = installation;
    const users = [installation.user, await registerUser(() => processes.url)];
    const contents = [0, 1, 20_000, 300_000, 6 * 1024 ** 2].map((size) => randomBytes(size));
    const digests = new Set(contents.map(sha256));
    const ids = new Map<TestUser, string[]>(users.map((user) => [user, []]));

    const upload = async (user: TestUser, random: Random) => {
      const content = random.pick(contents);
      if (random.chance(0.3)) {
        const answer = await post(user, content);
        return answer.status === 201 ? (await answer.json()).files[0].id : undefined;
      }
      if (random.chance(0.2)) {
        const path = await user.create(content.length, { 'Upload-Concat': 'partial' });
        await user.tus('PATCH', path, { 'Upload-Offset': '0' }, content as BodyInit);
        return concatenate(user, [path]);
      }
      return user.upload(content);
    };
    const act = async (user: TestUser, random: Random): Promise<void> => {
      const known = ids.get(user) ?? [];
      if (known.length < 5 || random.chance(0.4)) {
        known.push((await upload(user, random)) ?? '');
        return;
      }
      // Mostly among the newest, which are still being processed.
      const id = known.at(-random.whole(1, Math.min(known.length, random.chance(0.7) ? 8 : 200))) ?? '';
      const verb = random.pick(['cancel', 'retry', 'pause', 'resume', 'process']);
      const acts = [trash, restore, purge, purge, terminate];
      if (random.chance(0.3)) await user.fetch(`/api/files/${id}/${verb}`, { method: 'POST' });
      else await random.pick(acts)(user, id);
    };

    const end = Date.now() + SECONDS * 1000;
    const clients = Array.from({ length: CLIENTS }, async (_, n) => {
      const random = new Random(seed + n);
      // A request that a kill has cut off may have been carried out or not.
      while (Date.now() < end) await act(users[n % 2] as TestUser, random).catch(() => undefined);
    });
    const random = new Random(seed + CLIENTS);
    for (const part of KILLS) {
      const moment = Date.now() + random.whole(1000, 5000);
      await until('the next kill', () => Date.now() > moment);
      await processes.kill(part);
      await processes.start(part);
    }
    await Promise.all(clients);
    const { rows: shared } = await processes.database.query(
      `SELECT FROM all_events WHERE type = 'file.deduplicated'`,
    );
    expect(shared.length).toBeGreaterThan(10);

    for (const user of users) await finishAll(user);
    for (const user of users) {
      const files = await listAll(user);
      expect(files.filter((file) => file.status !== 'completed')).toEqual([]);
      for (const { id, sha256: told } of files) {
        const answer = await user.fetch(`/api/files/${id}/content`);
        const digest = sha256(Buffer.from(await answer.arrayBuffer()));
        expect([id, digest]).toEqual([id, told]);
        expect(digests).toContain(digest);
      }
      expect(await countBlobs(user)).toBe(new Set(files.map((file) => file.sha256)).size);
    }
    await expectInOrder(installation);
    for (const user of users) {
      for (const { id } of await listAll(user)) expect(await purge(user, id)).toBe(204);
      expect((await user.get('/api/stats')).savedBytes).toBe(0);
    }
    // Uploads whose request was cut off, and partial uploads, would expire some time.
    const { rows } = await processes.database.query(
      `SELECT id FROM uploads WHERE status = 'uploading' OR (kind = 'partial' AND status = 'finished')`,
    );
    for (const { id } of rows) for (const user of users) await terminate(user, id);
    await runPasses(processes, async () => {
      await letRetry(processes.database);
      const left = [await listBlobs(processes), await bucket.listKeys(), await bucket.listMultipartUploads()];
      return left.every(({ length }) => length === 0);
    });
    await expectBlobsInOrder(processes, bucket);
  });

  interface Known {
    id: string;
    status: string;
    sha256: string;
  }

  async function listAll(user: TestUser): Promise<Known[]> {
    const { rows } = await installation.processes.database.query(
      'SELECT id, status, sha256 FROM files WHERE owner_id = $1',
      [user.id],
    );
    return rows;
  }

  async function countBlobs(user: TestUser): Promise<number> {
    const { rows } = await installation.processes.database.query(
      'SELECT count(DISTINCT blob_id)::int AS count FROM files WHERE owner_id = $1',
      [user.id],
    );
    return rows[0].count;
  }

  /** Takes all files out of the trash, and has them processed to the end, whatever was done to them before. */
  async function finishAll(user: TestUser): Promise<void> {
    for (const { id } of await listAll(user)) await restore(user, id);
    const goOn = async (id: string, status: string) => {
      const verb = { paused: 'resume', canceled: 'process', failed: 'process' }[status];
      if (verb) await user.fetch(`/api/files/${id}/${verb}`, { method: 'POST' });
    };
    await until(
      'all files to be completed',
      async () => {
        const open = (await listAll(user)).filter(({ status }) => status !== 'completed');
        for (const { id, status } of open) await goOn(id, status);
        return open.length === 0;
      },
      TAKEOVER_SECONDS,
    );
  }
});
