import { execFile } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import type { DataSource } from 'typeorm';
import { loadConfig } from '../core/config.js';
import { ConfigError } from '../core/config-error.js';
import { openDatabase } from '../core/database/data-source.js';
import { claimStorage } from '../core/files/claim.js';
import { createLogger } from '../core/log.js';
import { openStorage } from '../core/storage/open.js';
import { MARKER, type Storage, type StoredObject } from '../core/storage/storage.js';
import { createDatabase, type TestDatabase } from './support/database.js';
import { createBucket, type TestBucket } from './support/s3.js';
import { startS3Proxy } from './support/s3-proxy.js';

/*
 * Which installation a storage belongs to: the first one that uses it marks it, and no other one starts on it or
 * deletes in it.
 */

interface Installation {
  test: TestDatabase;
  database: DataSource;
  id: string;
}

interface Ended {
  code: number;
  stderr: string;
}

const log = createLogger('silent', 'test');

async function newInstallation(): Promise<Installation> {
  const test = await createDatabase();
  // Databases of tests are copies of one.
  const { rows } = await test.query('UPDATE installation SET id = gen_random_uuid() RETURNING id');
  return { test, database: await openDatabase(test.url, 'test'), id: rows[0].id };
}

/** Runs one of the programs; one that works is ended when it says so. */
function run(script: string, args: string[], env: Record<string, string>): Promise<Ended> {
  return new Promise((done) => {
    const child = execFile(
      process.execPath,
      [resolve('dist', script), ...args],
      { cwd: tmpdir(), env },
      (error, _stdout, stderr) => done({ code: error ? Number(error.code) : 0, stderr }),
    );
    child.stdout?.on('data', (text: string) => {
      if (/listening|working/.test(text)) child.kill('SIGTERM');
    });
  });
}

describe.each(['files', 'S3'])('a storage of %s', (kind) => {
  let bucket: TestBucket | undefined;
  let folder: string;
  let first: Installation;
  let second: Installation;
  let storage: Storage;

  beforeAll(async () => {
    [first, second] = await Promise.all([newInstallation(), newInstallation()]);
  });

  afterAll(async () => {
    for (const { database, test } of [first, second]) {
      await database?.destroy();
      await test?.drop();
    }
  });

  beforeEach(async () => {
    // Each test has a storage of its own.
    for (const { test } of [first, second]) await test.query('DELETE FROM blobs');
    folder = await mkdtemp(join(tmpdir(), 'landfall-claim-'));
    bucket = kind === 'S3' ? await createBucket() : undefined;
    storage = await open();
  });

  afterEach(async () => {
    await bucket?.drop();
    await rm(folder, { recursive: true });
  });

  const envOf = ({ test }: Installation): Record<string, string> => ({
    DATABASE_URL: test.url,
    DATA_DIR: folder,
    DATA_DIR_SHARED: 'true',
    JWT_SECRET: 'only-for-tests-only-for-tests-only',
    HOST: '127.0.0.1',
    PORT: '0',
    LOG_LEVEL: 'info',
    ...bucket?.env,
  });
  const open = (env: Record<string, string> = {}) =>
    openStorage(loadConfig({ DATA_DIR: folder, ...bucket?.env, ...env }), log);
  const claim = ({ database }: Installation) => claimStorage({ database, storage });
  const sweep = (installation: Installation, ...args: string[]) =>
    run('core/commands/sweep.js', ['--older-than-hours', '0', ...args], envOf(installation));

  /** Stores an object as an earlier version did, which knew no marker. */
  async function put(key: string, bytes: Uint8Array): Promise<void> {
    if (!bucket) await mkdir(join(folder, 'blobs', key.slice(0, 2)), { recursive: true });
    await storage.blobs.write(key, bytes);
  }

  /** Bytes that the database names. */
  async function store({ test }: Installation): Promise<string> {
    const key = randomUUID();
    await test.query('INSERT INTO blobs (id, key, size, refs) VALUES (gen_random_uuid(), $1, 4, 1)', [key]);
    await put(key, Buffer.from('blob'));
    return key;
  }

  async function listStored(): Promise<StoredObject[]> {
    const found: StoredObject[] = [];
    for await (const object of storage.list()) found.push(object);
    return found;
  }

  it('belongs to the installation that used it first, however many processes start together, and lists no marker', async () => {
    await Promise.all(Array.from({ length: 5 }, () => claim(first)));
    expect(await storage.marker.read()).toMatch(first.id);
    expect(await listStored()).toEqual([]);
    await claim(first);
    await expect(claim(second)).rejects.toThrow(ConfigError);
    expect(await storage.marker.read()).toMatch(first.id);
  });

  it('of another installation stops server and worker at their start, with one line that says what to do', async () => {
    await claim(first);
    for (const script of ['server/main.js', 'worker/main.js']) {
      const { code, stderr } = await run(script, [], envOf(second));
      expect(code).toBe(1);
      expect(stderr.trim().split('\n')).toHaveLength(1);
      for (const part of [
        bucket ? `S3_BUCKET=${bucket.bucket}` : folder,
        first.id,
        'S3_PREFIX',
        '--take-over',
      ]) {
        expect(stderr).toContain(part);
      }
    }
    expect(await run('server/main.js', [], envOf(first))).toMatchObject({ code: 0 });
  });

  it('is taken over on purpose by a command, which names its previous installation', async () => {
    await claim(first);
    const { code, stderr } = await sweep(second, '--take-over');
    expect(code).toBe(0);
    expect(stderr).toContain(first.id);
    await claim(second);
    await expect(claim(first)).rejects.toThrow(ConfigError);
    expect(await sweep(second, '--take-over', '--delete')).toMatchObject({ code: 1 });
  });

  it('is swept neither without a marker nor with that of another installation', async () => {
    const known = await store(first);
    await store(second);
    expect(await sweep(first)).toMatchObject({ code: 0, stderr: expect.stringMatching('1 orphans') });
    const unmarked = await sweep(first, '--delete');
    expect(unmarked).toMatchObject({ code: 1, stderr: expect.stringMatching('Nothing was deleted') });
    await claim(first);
    expect(await sweep(second, '--delete')).toMatchObject({ code: 1 });
    expect(await listStored()).toHaveLength(2);
    expect(await sweep(first, '--delete')).toMatchObject({ code: 0 });
    expect((await listStored()).map(({ key }) => key)).toEqual([known]);
  });

  describe('without a marker, from an earlier version', () => {
    it('is marked when the database names the newest object', async () => {
      await put(randomUUID(), Buffer.from('orphan'));
      await store(first);
      await claim(first);
    });

    it('is marked when the database names another object', async () => {
      await store(first);
      await first.test.query(
        `INSERT INTO blobs (id, key, size, refs) VALUES ('ffffffff-ffff-7fff-bfff-ffffffffffff', 'lost', 1, 1)`,
      );
      await claim(first);
    });

    it('is marked when it holds an upload that the database knows', async () => {
      const { rows } = await first.test.query(
        `WITH owner AS (
           INSERT INTO users (id, email, role) VALUES (gen_random_uuid(), gen_random_uuid(), 'user') RETURNING id
         )
         INSERT INTO uploads (id, owner_id, status, storage_key, expires_at)
         SELECT gen_random_uuid(), id, 'uploading', gen_random_uuid(), now() FROM owner RETURNING storage_key`,
      );
      await put(`${rows[0].storage_key}.${'0'.repeat(24)}`, Buffer.from('segment'));
      await claim(first);
    });

    it('is refused when the database knows none of the objects that Landfall has stored there', async () => {
      await put(randomUUID(), Buffer.from('of somebody'));
      await expect(claim(second)).rejects.toThrow('--take-over');
      expect(await storage.marker.read()).toBeUndefined();
      expect(await sweep(second, '--take-over')).toMatchObject({ code: 0 });
      await claim(second);
    });

    it('is refused when it is empty although the database names blobs: its disk is not mounted, or its name is wrong', async () => {
      await first.test.query(
        'INSERT INTO blobs (id, key, size, refs) VALUES (gen_random_uuid(), gen_random_uuid(), 4, 1)',
      );
      await expect(claim(first)).rejects.toThrow('--take-over');
      expect(await storage.marker.read()).toBeUndefined();
      expect(await sweep(first, '--take-over')).toMatchObject({ code: 0 });
      await claim(first);
    });

    it('is marked when it holds things of other programs only', async () => {
      await put('notes.txt', Buffer.from('notes'));
      await claim(second);
    });
  });

  it('whose marker names no installation is refused', async () => {
    await storage.marker.write('mine\n');
    await expect(claim(first)).rejects.toThrow(MARKER);
  });

  it('whose marker cannot be written or read is refused with an explanation', async () => {
    if (!bucket) {
      await mkdir(join(folder, 'blobs', MARKER));
      await expect(claim(first)).rejects.toThrow(`${MARKER} cannot be read`);
      return;
    }
    const proxy = await startS3Proxy(bucket.env.S3_ENDPOINT);
    try {
      storage = await open({ S3_ENDPOINT: proxy.url });
      const writable = proxy.rule('PutObject', { fail: 403 });
      await expect(claim(first)).rejects.toThrow(/could not be written.*write access/);
      writable();
      await claim(first);
      proxy.rule('GetObject', { fail: 403 });
      await expect(claim(first)).rejects.toThrow('cannot be read');
    } finally {
      await proxy.close();
    }
  });
});

it('S3: a start costs one request besides the look at the bucket', async () => {
  const [installation, bucket] = await Promise.all([newInstallation(), createBucket()]);
  const proxy = await startS3Proxy(bucket.env.S3_ENDPOINT);
  try {
    const { database } = installation;
    const open = () => openStorage(loadConfig({ ...bucket.env, S3_ENDPOINT: proxy.url }), log);
    await claimStorage({ database, storage: await open() });
    const before = proxy.requests.length;
    await claimStorage({ database, storage: await open() });
    expect(proxy.requests.slice(before).map(({ operation }) => operation)).toEqual([
      'HeadBucket',
      'GetObject',
    ]);
  } finally {
    await proxy.close();
    await installation.database.destroy();
    await Promise.all([bucket.drop(), installation.test.drop()]);
  }
});
