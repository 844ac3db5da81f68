import { execFile } from 'node:child_process';
import { randomBytes, randomUUID } from 'node:crypto';
import { resolve } from 'node:path';
import { PutObjectCommand } from '@aws-sdk/client-s3';
import { loadConfig } from '../core/config.js';
import { openDatabase } from '../core/database/data-source.js';
import { migrate } from '../core/database/migrate.js';
import { createLogger } from '../core/log.js';
import { migrateQueue } from '../core/queue/queue.js';
import { openStorage } from '../core/storage/open.js';
import type { Storage, StoredObject } from '../core/storage/storage.js';
import { sweep } from '../core/uploads/sweep.js';
import { registerUser, type TestUser } from './support/client.js';
import { createDatabase } from './support/database.js';
import { makeJpeg } from './support/fixtures.js';
import { type Processes, startProcesses } from './support/processes.js';
import { createBucket, type TestBucket } from './support/s3.js';
import { startSystem } from './support/system.js';

const MIB = 1024 ** 2;

interface Ended {
  code: number;
  stdout: string;
  stderr: string;
}

function run(env: Record<string, string>, args: string[], cwd: string): Promise<Ended> {
  const command = [resolve('dist/core/commands/sweep.js'), ...args];
  return new Promise((done) => {
    execFile(process.execPath, command, { cwd, env }, (error, stdout, stderr) => {
      done({ code: error ? Number(error.code) : 0, stdout, stderr });
    });
  });
}

describe.each(['files', 'S3'])('orphans among %s', (kind) => {
  let bucket: TestBucket | undefined;
  let processes: Processes;
  let storage: Storage;
  let user: TestUser;
  let env: Record<string, string>;

  beforeAll(async () => {
    if (kind === 'S3') bucket = await createBucket();
    const s3 = bucket ? { ...bucket.env, S3_PREFIX: 'landfall' } : undefined;
    processes = await startProcesses(s3);
    user = await registerUser(() => processes.url);
    env = {
      DATABASE_URL: processes.database.url,
      DATA_DIR: processes.dataDir,
      DATA_DIR_SHARED: 'true',
      JWT_SECRET: 'only-for-tests-only-for-tests-only',
      LOG_LEVEL: 'silent',
      ...s3,
    };
    storage = await openStorage(loadConfig(env), createLogger('silent', 'test'));
  });

  afterAll(async () => {
    await processes?.close();
    await bucket?.drop();
  });

  const command = (...args: string[]) => run(env, args, processes.dataDir);

  async function listStored(): Promise<string[]> {
    const found: string[] = [];
    for await (const { key, multipartId = '' } of storage.list()) found.push(`${key} ${multipartId}`);
    return found.sort();
  }

  /** Stores objects that no row refers to. */
  async function makeOrphans(): Promise<string[]> {
    const whole = randomUUID();
    const segment = `${randomUUID()}.${randomBytes(12).toString('hex')}`;
    await storage.blobs.write(whole, Buffer.alloc(100));
    await storage.blobs.write(segment, Buffer.alloc(11));
    if (!storage.direct) return [whole, segment];
    const multipart = randomUUID();
    await storage.direct.begin(multipart);
    return [whole, segment, multipart];
  }

  it('are found and deleted, and no other object is', async () => {
    const image = await user.settled(await user.upload(await makeJpeg({ width: 300, height: 200 })));
    const trashed = await user.settled(await user.upload(randomBytes(10)));
    await user.fetch(`/api/files/${trashed.id}`, { method: 'DELETE' });
    // On S3 this upload has a part and a segment.
    const half = await user.create(30 * MIB);
    const bytes = randomBytes(30 * MIB);
    const send = (from: number, to: number) =>
      user.tus('PATCH', half, { 'Upload-Offset': String(from) }, bytes.subarray(from, to) as BodyInit);
    expect((await send(0, 20 * MIB)).status).toBe(204);
    if (storage.direct) {
      const body = JSON.stringify({ size: 10 });
      const headers = { 'Content-Type': 'application/json' };
      expect((await user.fetch('/api/uploads/presign', { method: 'POST', headers, body })).status).toBe(200);
    }
    const wanted = await listStored();
    await bucket?.client.send(
      new PutObjectCommand({ Bucket: bucket.bucket, Key: 'landfall/notes.txt', Body: 'not ours' }),
    );
    const foreign = bucket ? ['notes.txt '] : [];
    const orphans = await makeOrphans();
    const all = await listStored();

    const young = await command();
    expect(young).toMatchObject({ code: 0, stdout: '' });
    expect(young.stderr).toMatch(`${all.length} objects listed, 0 orphans`);

    const dry = await command('--older-than-hours', '0');
    expect(dry.code).toBe(0);
    expect(
      dry.stdout
        .trim()
        .split('\n')
        .map((line) => line.split(' ')[0])
        .sort(),
    ).toEqual(orphans.sort());
    expect(dry.stderr).toMatch(`${orphans.length} orphans of 111 bytes found`);
    expect(dry.stderr).toMatch('Nothing was deleted');
    expect(await listStored()).toEqual(all);

    const deleted = await command('--older-than-hours', '0', '--delete');
    expect(deleted.code).toBe(0);
    expect(deleted.stderr).toMatch(`${orphans.length} orphans of 111 bytes deleted`);
    expect(await listStored()).toEqual([...wanted, ...foreign].sort());

    expect((await send(20 * MIB, 30 * MIB)).status).toBe(204);
    expect(await user.settled(half.split('/').at(-1) ?? '')).toMatchObject({ status: 'completed' });
    expect((await user.fetch(image.links.thumbnails?.small ?? '')).status).toBe(200);
  });

  it('are not deleted by the database of another installation', async () => {
    const other = await createDatabase();
    try {
      await migrate(other.url, [migrateQueue]);
      const before = await listStored();
      env = { ...env, DATABASE_URL: other.url };
      const empty = await command('--older-than-hours', '0', '--delete');
      expect(empty.code).toBe(1);
      expect(empty.stderr).toMatch('names no object at all');
      await other.query(
        `INSERT INTO blobs (id, key, size, refs) VALUES (gen_random_uuid(), gen_random_uuid(), 1, 1)`,
      );
      const wrong = await command('--older-than-hours', '0', '--delete');
      expect(wrong.code).toBe(1);
      expect(wrong.stderr).toMatch('do they belong together');
      expect(await listStored()).toEqual(before);
    } finally {
      env = { ...env, DATABASE_URL: processes.database.url };
      await other.drop();
    }
  });

  it('are looked up in batches, and none is lost', async () => {
    const keys = Array.from({ length: 2500 }, () => randomUUID());
    const database = await openDatabase(processes.database.url, 'test');
    const removed: string[] = [];
    const many: Storage = {
      ...storage,
      async *list() {
        for (const key of keys) yield { key, size: 2, modified: new Date(0) };
        yield* storage.list();
      },
      async remove({ key }: StoredObject) {
        removed.push(key);
      },
    };
    try {
      const progress: number[] = [];
      const count = await sweep(
        { database, storage: many },
        {
          before: new Date(Date.now() - 3_600_000),
          remove: true,
          onOrphan: () => {},
          onProgress: ({ listed }) => progress.push(listed),
        },
      );
      expect(count).toMatchObject({ found: 2500, bytes: 5000 });
      expect(removed.sort()).toEqual(keys.sort());
      expect(progress.length).toBeGreaterThan(2);
    } finally {
      await database.destroy();
    }
  });
});

describe('the command', () => {
  it('finds the database and the files of npm start', async () => {
    const system = await startSystem();
    try {
      const user = await registerUser(() => system.url);
      await user.settled(await user.upload(randomBytes(10)));
      const env = { PATH: process.env.PATH ?? '', DATA_DIR: system.dataDir };
      const { code, stderr } = await run(env, ['--older-than-hours', '0'], '/');
      expect({ code, stderr }).toEqual({
        code: 0,
        stderr: expect.stringMatching(/^1 objects listed, 0 orphans/),
      });
    } finally {
      await system.stop();
    }
  });

  it.each([
    [['--older-than-hours', 'soon'], 'must be a number'],
    [['--remove'], '--remove'],
    [[], 'there is no database in this folder'],
  ])('says what is wrong with %j', async (args, message) => {
    const { code, stderr } = await run({}, args, '/');
    expect(code).toBe(1);
    expect(stderr).toMatch(message);
    expect(stderr.trim().split('\n')).toHaveLength(1);
  });
});
