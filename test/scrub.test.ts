import { readFile, rename, truncate, writeFile } from 'node:fs/promises';
import { createLogger } from '../core/log.js';
import { createMetrics } from '../core/metrics/metrics.js';
import { type Storage, StoreAway } from '../core/storage/storage.js';
import { createScrub } from '../worker/passes/scrub.js';
import { timeline } from './support/aftermath.js';
import { type FileJson, registerUser, type TestUser } from './support/client.js';
import { openLedger, type TestLedger } from './support/ledger.js';
import { scrape } from './support/metrics.js';
import { filePathOf } from './support/objects.js';
import { type Processes, startProcesses } from './support/processes.js';
import { freePort } from './support/services/port.js';
import { storeFiles } from './support/stored-files.js';
import { until } from './support/until.js';

/* The check of stored bytes against their SHA-256. */

const ENV = { SCRUB_RATE: '100MiB', SCRUB_INTERVAL_DAYS: '0' };

describe('stored bytes', () => {
  let processes: Processes;
  let user: TestUser;
  let port: number;

  beforeAll(async () => {
    port = await freePort();
    processes = await startProcesses();
    user = await registerUser(() => processes.url);
  });

  afterAll(() => processes?.close());

  const newFile = async (text: string): Promise<FileJson> =>
    user.settled(await user.upload(Buffer.from(text)));
  const look = (id: string): Promise<FileJson> => user.get(`/api/files/${id}`);
  const contentOf = async (id: string) => {
    const answer = await user.fetch(`/api/files/${id}/content`);
    return answer.ok ? answer.text() : [answer.status, (await answer.json()).code];
  };
  const healthWarnings = async () => (await user.get('/health/detailed')).warnings;
  /** A whole round, which begins when the worker has started. */
  const scrub = async () => {
    await processes.stop('worker');
    await processes.database.query('UPDATE scrub SET position = NULL, began_at = NULL, ended_at = NULL');
    await processes.start('worker', { ...ENV, METRICS_PORT: String(port) });
    await until('a round', async () => {
      const { rows } = await processes.database.query('SELECT FROM scrub WHERE ended_at IS NOT NULL');
      return rows.length > 0;
    });
  };

  it('that have changed are reported and refused, until they are right again', async () => {
    const [intact, first, second, short] = [
      await newFile('intact'),
      await newFile('twins'),
      await newFile('twins'),
      await newFile('cut off'),
    ];
    expect(second.duplicateOf).toBe(first.id);
    await scrub();
    for (const { id } of [intact, first, second, short]) expect((await look(id)).warnings).toEqual([]);
    expect(await healthWarnings()).toEqual([]);

    const path = await filePathOf(processes, first.id);
    const right = await readFile(path);
    await writeFile(path, 'Twins');
    await truncate(await filePathOf(processes, short.id), 3);
    await scrub();
    for (const { id } of [first, second, short]) {
      const file = await look(id);
      expect(file).toMatchObject({ status: 'completed', links: { content: null, thumbnails: null } });
      expect(file.warnings).toMatchObject([{ step: 'scrub', code: 'corrupted' }]);
      expect(await timeline(processes, id)).toContain('file.corrupted');
      expect(await contentOf(id)).toEqual([500, 'corrupted']);
    }
    expect(await contentOf(intact.id)).toBe('intact');
    expect(await healthWarnings()).toEqual(['files_corrupted']);
    const metrics = await scrape(`http://127.0.0.1:${port}`);
    expect(metrics.sum('landfall_scrubbed_blobs_total', { outcome: 'corrupted' })).toBe(2);
    expect(metrics.sum('landfall_scrubbed_blobs_total', { outcome: 'intact' })).toBe(1);
    expect(metrics.sum('landfall_scrubbed_bytes_total')).toBeGreaterThan(0);

    // A second round says nothing new.
    await scrub();
    expect((await timeline(processes, first.id)).filter((type) => type === 'file.corrupted')).toHaveLength(1);

    await writeFile(path, right);
    await scrub();
    for (const { id } of [first, second]) {
      expect((await look(id)).warnings).toEqual([]);
      expect(await contentOf(id)).toBe('twins');
    }
  });

  it('that have changed do not pass for the right ones when the file is processed again', async () => {
    const file = await newFile('once');
    const path = await filePathOf(processes, file.id);
    await writeFile(path, 'Once');
    expect((await user.fetch(`/api/files/${file.id}/process`, { method: 'POST' })).status).toBe(200);
    expect(await user.settled(file.id)).toMatchObject({
      status: 'failed',
      error: { step: 'verify', code: 'corrupted' },
      sha256: file.sha256,
    });
    await writeFile(path, 'once');
    await user.fetch(`/api/files/${file.id}/process`, { method: 'POST' });
    expect((await user.settled(file.id)).status).toBe('completed');
  });

  it('that cannot be read are not called changed', async () => {
    const file = await newFile('away');
    const path = await filePathOf(processes, file.id);
    await rename(path, `${path}.away`);
    await scrub();
    expect((await look(file.id)).warnings).toEqual([]);
    const metrics = await scrape(`http://127.0.0.1:${port}`);
    expect(metrics.sum('landfall_scrubbed_blobs_total', { outcome: 'unreadable' })).toBe(1);
    await rename(`${path}.away`, path);
    expect(await contentOf(file.id)).toBe('away');
  });
});

describe('the position', () => {
  let ledger: TestLedger;

  beforeEach(async () => {
    ledger = await openLedger();
    await storeFiles(ledger, ledger.ownerId, [{}, {}, {}]);
    await ledger.query('UPDATE files SET sha256 = $1', ['0'.repeat(64)]);
  });
  afterEach(() => ledger.close());

  /** A pass over a store that fails. @returns which objects it read */
  async function run(
    read: (key: string, count: number) => void,
    check: () => Promise<void>,
    stopped = new AbortController(),
  ) {
    const keys: string[] = [];
    const storage: Storage = {
      ...ledger.storage,
      check,
      blobs: {
        ...ledger.storage.blobs,
        async read(key) {
          keys.push(key);
          read(key, keys.length);
          throw new StoreAway(new Error('of the test'));
        },
      },
    };
    const log = createLogger('silent', 'test');
    const deps = {
      ...ledger,
      storage,
      log,
      metrics: createMetrics(log),
      scrubRate: 1e9,
      scrubIntervalDays: 1,
    };
    const outcome = await createScrub(deps, stopped.signal)().catch((error: unknown) => error);
    return { keys, outcome };
  }

  it('stays where it is while the store is away', async () => {
    const { keys, outcome } = await run(
      () => {},
      async () => {
        throw new Error('the store is away');
      },
    );
    expect(outcome).toMatchObject({ message: 'the store is away' });
    expect(new Set(keys).size).toBe(1);
    expect(await ledger.query('SELECT position, ended_at FROM scrub')).toEqual([
      { position: null, ended_at: null },
    ]);
    expect(await ledger.query('SELECT FROM files WHERE corrupted_at IS NOT NULL')).toEqual([]);
  });

  it('is that of the last blob after a stop, and the next round waits for its time', async () => {
    const blobs = (await ledger.query('SELECT key FROM blobs ORDER BY id')).map(({ key }) => key);
    const stopped = new AbortController();
    const first = await run(
      (key) => key === blobs[1] && stopped.abort(),
      async () => {},
      stopped,
    );
    expect(first.keys.at(-1)).toBe(blobs[1]);
    const second = await run(
      () => {},
      async () => {},
    );
    expect([...new Set(second.keys)]).toEqual(blobs.slice(1));
    expect(second.outcome).toBe(2);
    expect(
      await run(
        () => {},
        async () => {},
      ),
    ).toEqual({ keys: [], outcome: 0 });
    await ledger.query(`UPDATE scrub SET began_at = now() - interval '25 hours'`);
    expect(
      (
        await run(
          () => {},
          async () => {},
        )
      ).outcome,
    ).toBe(3);
  });
});
