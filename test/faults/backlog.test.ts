import { createHash, randomBytes } from 'node:crypto';
import { setTimeout as pause } from 'node:timers/promises';
import { forEachOf } from '../../core/concurrency.js';
import { makeJpeg } from '../support/fixtures.js';
import { expectInOrder, type Installation, install } from '../support/installation.js';
import { fileKeyOf } from '../support/objects.js';
import { type PostgresProxy, startPostgresProxy } from '../support/postgres-proxy.js';
import { openRedis, type TestRedis } from '../support/redis.js';
import { until } from '../support/until.js';

/* S3, then PostgreSQL, is away for longer than all attempts of a file take, while hundreds of files wait. */

/** A file without a store to read from uses up its attempts in about two seconds. */
const ATTEMPTS = { JOB_ATTEMPTS: '3', JOB_BACKOFF_MS: '10' };
const AWAY_MS = 5_000;

/**
 * How many reads of objects go through before the rest are held. By then some files are done, some half done.
 */
const READS = 30;

const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');

describe.each([
  ['Redis', 500],
  ['PostgreSQL', 100],
])('with the queue in %s', (kind, count) => {
  let redis: TestRedis | undefined;
  let wire: PostgresProxy;
  let installation: Installation;

  beforeAll(async () => {
    redis = kind === 'Redis' ? await openRedis() : undefined;
    wire = await startPostgresProxy();
    installation = await install({
      reach: wire.reach,
      env: {
        ...ATTEMPTS,
        ...(redis ? { REDIS_URL: redis.url } : {}),
        WORKER_CONCURRENCY: '16',
        LOG_LEVEL: 'info',
        RATE_LIMIT_UPLOADS: '0',
      },
    });
  });
  afterAll(async () => {
    await installation?.close();
    await wire?.close();
    await redis?.close();
  });

  /** Uploads texts and some images. Returns their checksums by id. */
  async function uploadAll(): Promise<Map<string, string>> {
    const sums = new Map<string, string>();
    const image = await makeJpeg({ width: 300, height: 200 });
    const numbers = Array.from({ length: count }, (_, index) => index);
    await forEachOf(numbers, 10, async (number) => {
      const content =
        number % 10 === 0 ? Buffer.concat([image, randomBytes(20)]) : Buffer.from(`text ${number}`);
      sums.set(await installation.user.upload(content), sha256(content));
    });
    return sums;
  }

  /** The messages of the worker's log that match. */
  function linesOf(messages: RegExp): string[] {
    const lines = installation.processes.logOf('worker').split('\n').filter(Boolean);
    return lines.map((line) => JSON.parse(line).msg).filter((message) => messages.test(message));
  }

  async function countFiles(status: string): Promise<number> {
    const { rows } = await installation.processes.database.query(
      'SELECT count(*)::int AS count FROM files WHERE status = $1',
      [status],
    );
    return rows[0].count;
  }

  /**
   * Lets READS more reads of objects through and holds the others, so that some files wait and some are half
   * done.
   */
  function holdReads() {
    let reads = 0;
    const release = installation.s3.rule(({ operation }) => operation === 'GetObject' && ++reads > READS, {
      hold: 'before',
    });
    return { held: () => reads > READS, release };
  }

  test('after an outage of the store, and then of the database, all files are completed', async () => {
    const { s3, processes, user } = installation;
    let reads = holdReads();
    const sums = await uploadAll();
    for (const [index, dependency] of [s3, wire].entries()) {
      await until('reads to be held', reads.held);
      await dependency.away();
      reads.release();
      await until('the worker to notice', () => linesOf(/no jobs are taken/).length > index);
      await pause(AWAY_MS);
      expect(await countFiles('failed')).toBe(0);
      expect(await countFiles('completed')).toBeLessThan(count);
      reads = holdReads();
      await dependency.back();
    }
    reads.release();
    await until('all to be done', async () => (await countFiles('completed')) === count, 120);
    expect(linesOf(/no jobs are taken/)).toHaveLength(2);
    expect(linesOf(/answer again/)).toHaveLength(2);

    const { rows } = await processes.database.query(
      `SELECT id, sha256, detected_type, warnings,
         (SELECT count(*)::int FROM derivatives WHERE file_id = files.id) AS thumbnails
       FROM files`,
    );
    expect(rows).toHaveLength(count);
    for (const row of rows) {
      const thumbnails = row.detected_type === 'image/jpeg' ? 3 : 0;
      expect(row).toMatchObject({ sha256: sums.get(row.id), warnings: [], thumbnails });
    }
    // A file may lose an attempt at the moment of an outage, before the worker notices it, but never all of
    // them.
    for (const { id, attempts } of (await user.get('/api/files')).items) {
      expect({ id, isFew: attempts < 3 }).toEqual({ id, isFew: true });
    }
  });

  test('an object that the store refuses for good fails only its own file', async () => {
    const { s3, user, processes } = installation;
    await processes.stop('worker');
    const [refused, other] = [
      await user.upload(Buffer.from('refused')),
      await user.upload(Buffer.from('other')),
    ];
    const refusedKey = await fileKeyOf(processes, refused);
    const lines = linesOf(/no jobs are taken/).length;
    const heal = s3.rule(({ key }) => key.endsWith(refusedKey), { fail: 403 });
    await processes.start('worker');
    expect(await user.settled(refused)).toMatchObject({
      status: 'failed',
      attempts: 3,
      error: { step: 'verify', code: 'unavailable' },
    });
    heal();
    expect(await user.settled(other)).toMatchObject({ status: 'completed', attempts: 1 });
    expect(linesOf(/no jobs are taken/)).toHaveLength(lines);
  });

  test('nothing is left over', () => expectInOrder(installation));
});
