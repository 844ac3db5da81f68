import { randomBytes, randomUUID } from 'node:crypto';
import { loadConfig } from '../core/config.js';
import { openDatabase } from '../core/database/data-source.js';
import { createLogger } from '../core/log.js';
import { openStorage } from '../core/storage/open.js';
import type { Storage } from '../core/storage/storage.js';
import { sweep } from '../core/uploads/sweep.js';
import { expectCompletedOnce } from './support/aftermath.js';
import { registerUser, type TestUser } from './support/client.js';
import { makeJpeg } from './support/fixtures.js';
import { sha256 } from './support/plain-client.js';
import { type Processes, startProcesses } from './support/processes.js';
import { createBucket, type TestBucket } from './support/s3.js';
import { type S3Proxy, startS3Proxy } from './support/s3-proxy.js';
import { until } from './support/until.js';

/* A file whose bytes are three objects. No client can see that it is not one. */

describe.each(['files', 'S3', 'S3 with redirects'])('a blob of three objects in %s', (kind) => {
  let bucket: TestBucket | undefined;
  let s3: S3Proxy | undefined;
  let processes: Processes;
  let storage: Storage;
  let user: TestUser;
  let content: Buffer;
  let borders: [number, number];
  let keys: string[];
  let id: string;

  beforeAll(async () => {
    bucket = kind === 'files' ? undefined : await createBucket();
    s3 = bucket && (await startS3Proxy(bucket.env.S3_ENDPOINT));
    const redirects = kind === 'S3 with redirects' ? { S3_REDIRECT: 'true' } : {};
    const env = { ...bucket?.env, ...(s3 ? { S3_ENDPOINT: s3.url } : {}), ...redirects };
    processes = await startProcesses(env, ['server']);
    user = await registerUser(() => processes.url);
    storage = await openStorage(
      loadConfig({ DATA_DIR: processes.dataDir, ...bucket?.env }),
      createLogger('silent', 'test'),
    );
    content = Buffer.concat([await makeJpeg({ width: 1400, height: 900 }), randomBytes(1024 ** 2)]);
    borders = [1000, content.length - 500_000];
    id = await user.upload(content, {
      filename: 'photo.jpg',
      filetype: 'image/jpeg',
      sha256: sha256(content),
    });
    keys = await splitObject();
    await processes.start('worker');
  });

  afterAll(async () => {
    await processes?.close();
    await s3?.close();
    await bucket?.drop();
  });

  /** Puts three objects in the place of the one that holds the file. */
  async function splitObject(): Promise<string[]> {
    const pieces = [
      content.subarray(0, borders[0]),
      content.subarray(borders[0], borders[1]),
      content.subarray(borders[1]),
    ].map((bytes) => ({ key: randomUUID() as string, bytes }));
    for (const { key, bytes } of pieces) await storage.blobs.write(key, bytes);
    const { rows } = await processes.database.query(
      `UPDATE blobs SET objects = $2, key = NULL
       FROM files, blobs AS before WHERE files.id = $1 AND blobs.id = files.blob_id AND before.id = blobs.id
       RETURNING before.key`,
      [id, JSON.stringify(pieces.map(({ key, bytes }) => ({ key, size: bytes.length })))],
    );
    await storage.blobs.delete(rows[0].key);
    return pieces.map(({ key }) => key);
  }

  const get = (headers: Record<string, string> = {}, method = 'GET') =>
    user.fetch(`/api/files/${id}/content`, { method, headers, redirect: 'manual' });
  const bytesOf = async (answer: Response) => Buffer.from(await answer.arrayBuffer());

  async function listStored(): Promise<string[]> {
    const stored: string[] = [];
    for await (const { key } of storage.list()) stored.push(key);
    return stored;
  }

  it('is hashed, scanned and given thumbnails', async () => {
    const file = await expectCompletedOnce(processes, user, id, content);
    expect(file).toMatchObject({ size: content.length, sha256: sha256(content), detectedType: 'image/jpeg' });
    expect(file.metadata.image).toMatchObject({ width: 1400, height: 900 });
  });

  it('comes whole', async () => {
    const answer = await get();
    expect(answer.status).toBe(200);
    expect(answer.headers.get('content-length')).toBe(String(content.length));
    expect(sha256(await bytesOf(answer))).toBe(sha256(content));
  });

  it('gives ranges across the borders of its objects', async () => {
    for (const [start, end] of [
      [0, 999],
      [999, 1000],
      [1000, 1000],
      [500, borders[1] + 5],
      [borders[1] - 1, borders[1]],
      [borders[1], content.length - 1],
    ] as const) {
      const answer = await get({ Range: `bytes=${start}-${end}` });
      expect([start, answer.status]).toEqual([start, 206]);
      expect(answer.headers.get('content-range')).toBe(`bytes ${start}-${end}/${content.length}`);
      expect((await bytesOf(answer)).equals(content.subarray(start, end + 1))).toBe(true);
    }
    const last = await get({ Range: 'bytes=-500001' });
    expect((await bytesOf(last)).equals(content.subarray(-500_001))).toBe(true);
  });

  it('is not given to a client that requires another version', async () => {
    expect((await get({ 'If-Match': '"another"' })).status).toBe(412);
    expect((await get({ 'If-Match': '*' })).status).toBe(200);
  });

  it('answers HEAD', async () => {
    const answer = await get({}, 'HEAD');
    expect(answer.status).toBe(200);
    expect(answer.headers.get('content-length')).toBe(String(content.length));
  });

  it('is read to its end although the connection breaks off in the second object', async () => {
    if (!s3) return;
    const read = s3.count('GetObject');
    const end = s3.rule('GetObject', { cutAfter: 300_000 });
    expect(sha256(await bytesOf(await get()))).toBe(sha256(content));
    expect(s3.count('GetObject') - read).toBeGreaterThan(4);
    end();
  });

  it('is no orphan, and leaves nothing when it is deleted', async () => {
    const database = await openDatabase(processes.database.url, 'test');
    const orphans: string[] = [];
    const find = () =>
      sweep(
        { database, storage },
        {
          before: new Date(Date.now() + 60_000),
          remove: false,
          onOrphan: ({ key }) => orphans.push(key),
          onProgress: () => {},
        },
      );
    try {
      expect(await find()).toMatchObject({ listed: 6, found: 0 });
      const orphan = randomUUID();
      await storage.blobs.write(orphan, Buffer.from('x'));
      expect(await find()).toMatchObject({ listed: 7, found: 1 });
      expect(orphans).toEqual([orphan]);
      await storage.blobs.delete(orphan);
    } finally {
      await database.destroy();
    }
    expect(await listStored()).toEqual(expect.arrayContaining(keys));
    expect((await user.fetch(`/api/files/${id}?permanent=1`, { method: 'DELETE' })).status).toBe(204);
    await until('all objects to be deleted', async () => (await listStored()).length === 0);
  });
});
