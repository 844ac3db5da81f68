import { randomBytes, randomUUID } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { setTimeout as pause } from 'node:timers/promises';
import { createLimiter } from '../core/concurrency.js';
import { loadConfig } from '../core/config.js';
import { createLogger } from '../core/log.js';
import { watchDiskRoom } from '../core/storage/disk-room.js';
import { completeInS3 } from '../core/storage/s3/complete.js';
import { openConnection } from '../core/storage/s3/connection.js';
import { createMemory, type Memory } from '../core/storage/s3/memory.js';
import { createObjectStore, type ObjectStore } from '../core/storage/s3/operations.js';
import { createSinks } from '../core/storage/s3/sinks.js';
import { createSpool, NO_SPOOL, type Spool } from '../core/storage/s3/spool.js';
import type { Part, Progress, StoredUpload, UploadSink } from '../core/storage/storage.js';
import { createBucket, type TestBucket } from './support/s3.js';
import { type S3Proxy, startS3Proxy } from './support/s3-proxy.js';
import { until } from './support/until.js';

/* How the bytes of a request come to S3: through memory, or through the spool. */

const MIB = 1024 ** 2;
const KIB = 1024;
const log = createLogger('silent', 'test');

let bucket: TestBucket;
let proxy: S3Proxy;
let folder: string;
let objects: ObjectStore;

beforeAll(async () => {
  bucket = await createBucket();
  proxy = await startS3Proxy(bucket.env.S3_ENDPOINT);
  folder = await mkdtemp(join(tmpdir(), 'landfall-spool-'));
  const { s3 } = loadConfig({ ...bucket.env, S3_ENDPOINT: proxy.url });
  if (!s3) throw new Error('no bucket is configured');
  objects = createObjectStore(openConnection(s3), log);
});
afterAll(async () => {
  await proxy.close();
  await bucket.drop();
  await rm(folder, { recursive: true });
});

/** A spool that counts the bytes that it gets. */
function openSpool(): Spool & { bytes: number } {
  const room = watchDiskRoom(folder, 0, log);
  const spool = createSpool(folder, { budget: 100 * MIB, room, disk: createLimiter(4), log });
  const counting = {
    bytes: 0,
    get used() {
      return spool.used;
    },
    create() {
      const file = spool.create();
      return {
        ...file,
        get size() {
          return file.size;
        },
        write(chunks: Uint8Array[], bytes: number) {
          counting.bytes += bytes;
          return file.write(chunks, bytes);
        },
      };
    },
  };
  return counting;
}

/** A new upload, and the ledger's side of it. */
function begin(length: number | null, memory: Memory, spool: Spool = NO_SPOOL, oldMs?: number) {
  const upload = {
    stored: { key: randomUUID(), offset: 0, length, state: null } as StoredUpload,
    parts: [] as Part[],
    objectKey: undefined as string | undefined,
    commits: 0,
    open(): UploadSink {
      const openSink = createSinks({ objects, memory, spool, ...(oldMs === undefined ? {} : { oldMs }) });
      return openSink(upload.stored, async ({ offset, state, parts = [], objectKey }: Progress) => {
        upload.commits++;
        upload.stored = { ...upload.stored, offset, state: state ?? null };
        upload.parts.push(...parts);
        upload.objectKey ??= objectKey;
      });
    },
    async bytes(): Promise<Buffer> {
      const stored = { ...upload.stored, length: upload.stored.offset };
      upload.objectKey ??= (await completeInS3(objects, stored, upload.parts)).objectKey;
      return buffer(await objects.open(upload.objectKey));
    },
    requests: () =>
      proxy.requests.filter(({ key }) => key.startsWith(upload.stored.key)).map((one) => one.operation),
  };
  return upload;
}

async function send(sink: UploadSink, content: Buffer, chunk = 64 * KIB, everyMs?: number): Promise<void> {
  for (let at = 0; at < content.length && !sink.failed.aborted; at += chunk) {
    await sink.write(content.subarray(at, at + chunk));
    if (everyMs !== undefined) await pause(everyMs);
  }
}

/** Whether all memory has been given back. */
const isFree = (memory: Memory, limit: number) => memory.take(limit, 1);

test('a fast sender is not asked to wait until its parts fill the memory, and nothing goes to the spool', async () => {
  const spool = openSpool();
  const memory = createMemory(48 * MIB);
  const upload = begin(null, memory, spool);
  const content = randomBytes(20 * MIB);
  const sink = upload.open();
  const remove = proxy.rule('UploadPart', { hold: 'before' });
  for (let at = 0; at < content.length; at += 64 * KIB) {
    const full = sink.write(content.subarray(at, at + 64 * KIB));
    // It waits only until the first part has its number.
    if (full) await full;
  }
  expect(upload.stored.offset).toBe(0);
  remove();
  await sink.end();
  expect(spool.bytes).toBe(0);
  expect((await upload.bytes()).equals(content)).toBe(true);
  expect(isFree(memory, 48 * MIB)).toBe(true);
});

test('a sink is full while the store does not answer, and goes on when it does', async () => {
  const memory = createMemory(4 * MIB);
  const upload = begin(40 * MIB, memory);
  const content = randomBytes(40 * MIB);
  const sink = upload.open();
  const remove = proxy.rule((request) => request.key.startsWith(upload.stored.key), { hold: 'before' });
  let at = 0;
  let full: Promise<void> | undefined;
  for (; !full; at += 64 * KIB) full = sink.write(content.subarray(at, at + 64 * KIB));
  expect(at).toBeLessThanOrEqual(5 * MIB);
  remove();
  await full;
  await send(sink, content.subarray(at));
  await sink.end();
  expect((await upload.bytes()).equals(content)).toBe(true);
  expect(isFree(memory, 4 * MIB)).toBe(true);
});

test('the bytes of a slow sender wait in the spool, and become one object', async () => {
  const spool = openSpool();
  const memory = createMemory(128 * KIB);
  const content = randomBytes(300 * KIB);
  const upload = begin(content.length, memory, spool);
  const sink = upload.open();
  await send(sink, content, 8 * KIB, 10);
  await sink.end();
  expect(spool.bytes).toBeGreaterThan(100 * KIB);
  expect(upload.requests()).toEqual(['PutObject']);
  expect((await upload.bytes()).equals(content)).toBe(true);
  expect(isFree(memory, 128 * KIB)).toBe(true);
});

test('a part that was begun in memory goes on in the spool when others need the memory', async () => {
  const spool = openSpool();
  const memory = createMemory(8 * MIB);
  const content = randomBytes(MIB);
  const stalled = begin(content.length, memory, spool);
  const sink = stalled.open();
  await send(sink, content.subarray(0, 600 * KIB));
  const other = begin(null, memory, spool);
  const otherSink = other.open();
  await send(otherSink, Buffer.alloc(9 * MIB, 'other'));
  await otherSink.end();
  await until('its bytes are in the spool', () => spool.bytes >= 600 * KIB);
  await send(sink, content.subarray(600 * KIB));
  await sink.end();
  expect(stalled.requests()).toEqual(['PutObject']);
  expect((await stalled.bytes()).equals(content)).toBe(true);
});

test.each([
  ['with a spool', openSpool],
  ['without a spool', () => NO_SPOOL],
])('a hundred stalled uploads do not block a fast one: %s', async (_what, open) => {
  const memory = createMemory(4 * MIB);
  const spool = open();
  const start = randomBytes(100 * KIB);
  const stalled = Array.from({ length: 100 }, () => begin(null, memory, spool));
  const sinks = stalled.map((upload) => upload.open());
  await Promise.all(sinks.map((sink) => send(sink, start, 10 * KIB)));
  const fast = begin(10 * MIB, memory, spool);
  const content = randomBytes(10 * MIB);
  const sink = fast.open();
  await send(sink, content);
  await sink.end();
  expect((await fast.bytes()).equals(content)).toBe(true);
  await Promise.all(sinks.map((one) => one.end()));
  expect(stalled.map(({ stored }) => stored.offset)).toEqual(stalled.map(() => start.length));
  for (const upload of stalled.slice(0, 5)) expect((await upload.bytes()).equals(start)).toBe(true);
  expect(isFree(memory, 4 * MIB)).toBe(true);
});

test('bytes that have waited long are stored and committed although the body goes on', async () => {
  const upload = begin(null, createMemory(8 * MIB), NO_SPOOL, 100);
  const sink = upload.open();
  sink.write(Buffer.from('abc'));
  await until('they are committed', () => upload.stored.offset === 3);
  sink.write(Buffer.from('def'));
  await sink.end();
  expect((await upload.bytes()).toString()).toBe('abcdef');
});

test('a refusal of the store is told at once, and everything is given back', async () => {
  const memory = createMemory(48 * MIB);
  const upload = begin(null, memory);
  const remove = proxy.rule('UploadPart', { fail: 403, code: 'AccessDenied' });
  const sink = upload.open();
  await send(sink, randomBytes(9 * MIB));
  await until('the sink has failed', () => sink.failed.aborted);
  expect(sink.write(Buffer.from('more'))).toBeUndefined();
  await expect(sink.end()).rejects.toBe(sink.failed.reason);
  expect(sink.failed.reason).toMatchObject({ code: 'unavailable' });
  expect(isFree(memory, 48 * MIB)).toBe(true);
  remove();
});

test('when a commit fails, nothing more is written or committed', async () => {
  const upload = begin(null, createMemory(48 * MIB));
  const openSink = createSinks({ objects, memory: createMemory(48 * MIB), spool: NO_SPOOL });
  let commits = 0;
  const sink = openSink(upload.stored, async () => {
    commits++;
    throw new Error('not now');
  });
  await send(sink, randomBytes(9 * MIB));
  await expect(sink.end()).rejects.toMatchObject({ code: 'unavailable' });
  expect(commits).toBe(1);
  expect(upload.requests()).toEqual(['CreateMultipartUpload']);
});
