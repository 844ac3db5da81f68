import { randomBytes, randomUUID } from 'node:crypto';
import { type FileHandle, mkdtemp, open, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { loadConfig } from '../core/config.js';
import { createLogger } from '../core/log.js';
import { openFileStorage } from '../core/storage/file.js';
import { openS3Storage } from '../core/storage/s3/storage.js';
import {
  type Part,
  type Progress,
  QUARANTINE,
  type Storage,
  type StoredObject,
  type StoredUpload,
} from '../core/storage/storage.js';
import { appendTo } from './support/bytes.js';
import { createBucket } from './support/s3.js';

const MIB = 1024 ** 2;

interface Opened {
  storage: Storage;
  close(): Promise<void>;
}

/** Every storage keeps the contract below; each implementation is one line here. */
const IMPLEMENTATIONS: [name: string, open: () => Promise<Opened>][] = [
  ['files', openFiles],
  ['S3', openS3],
];

async function openFiles(): Promise<Opened> {
  const folder = await mkdtemp(join(tmpdir(), 'landfall-storage-'));
  const storage = await openFileStorage(
    join(folder, 'blobs'),
    loadConfig({}),
    createLogger('silent', 'test'),
  );
  // As a server does that has claimed the folder.
  await storage.marker.write('of the test');
  return {
    storage,
    close: () => rm(folder, { recursive: true }),
  };
}

async function openS3(): Promise<Opened> {
  const bucket = await createBucket();
  const { s3 } = loadConfig({ ...bucket.env, S3_PREFIX: 'some/where' });
  if (!s3) throw new Error('no bucket is configured');
  return { storage: await openS3Storage(s3, 64 * MIB, createLogger('silent', 'test')), close: bucket.drop };
}

describe.each(IMPLEMENTATIONS)('storage in %s', (_name, openStorage) => {
  let storage: Storage;
  let close: () => Promise<void>;
  let upload: StoredUpload;
  let parts: Part[];
  let objectKey: string | undefined;
  let committed: number[];

  beforeAll(async () => {
    ({ storage, close } = await openStorage());
  });
  afterAll(() => close());
  beforeEach(() => begin(null));

  function begin(length: number | null) {
    upload = { key: randomUUID(), offset: 0, length, state: null };
    parts = [];
    committed = [];
    objectKey = undefined;
  }

  /** Keeps the progress that the ledger would keep. */
  async function commit(progress: Progress) {
    if (progress.offset !== upload.offset) committed.push(progress.offset);
    upload = { ...upload, offset: progress.offset, state: progress.state ?? upload.state };
    parts.push(...(progress.parts ?? []));
    objectKey = progress.objectKey ?? objectKey;
  }
  async function* chunks(...contents: (Uint8Array | string | Error)[]) {
    for (const content of contents) {
      if (content instanceof Error) throw content;
      yield Buffer.from(content);
    }
  }
  const append = (...contents: (Uint8Array | string | Error)[]) =>
    appendTo(storage.uploads, upload, chunks(...contents), commit);
  const complete = async () => {
    upload = { ...upload, length: upload.offset };
    objectKey ??= (await storage.uploads.complete(upload, parts)).objectKey;
    return objectKey;
  };
  const stored = async (range?: { start: number; end: number }) =>
    buffer(await storage.blobs.read(await complete(), range));
  async function listStored() {
    const found: StoredObject[] = [];
    for await (const object of storage.list()) if (object.key.startsWith(upload.key)) found.push(object);
    return found;
  }

  test('an upload grows by appends and becomes a blob', async () => {
    await append('abc', 'def');
    await append('ghi');
    expect(committed).toEqual([6, 9]);
    expect((await stored()).toString()).toBe('abcdefghi');
    expect((await stored({ start: 2, end: 4 })).toString()).toBe('cde');
  });

  test.each([0, 1, 5 * MIB, 8 * MIB, 8 * MIB + 1, 16 * MIB, 20 * MIB + 7])(
    '%d bytes in one append of a known length become a blob without being completed besides',
    async (length) => {
      begin(length);
      const content = randomBytes(length);
      await append(content.subarray(0, 3 * MIB), content.subarray(3 * MIB));
      expect(upload.offset).toBe(length);
      expect((await stored()).equals(content)).toBe(true);
    },
  );

  test('uneven appends of all sizes become the bytes that were sent', async () => {
    const sizes = [1, 5, 3, 0.5, 12, 6, 0.1, 0.1, 9, 4.9, 17, 2].map((size) => Math.round(size * MIB));
    const contents = sizes.map((size) => randomBytes(size));
    begin(sizes.reduce((sum, size) => sum + size));
    for (const content of contents) {
      await append(content.subarray(0, content.length / 2), content.subarray(content.length / 2));
    }
    expect(upload.offset).toBe(upload.length);
    expect((await stored()).equals(Buffer.concat(contents))).toBe(true);
  });

  test('a hundred tiny appends become the bytes that were sent', async () => {
    const contents = Array.from({ length: 100 }, () => randomBytes(1000));
    for (const content of contents) await append(content);
    expect(committed).toHaveLength(100);
    expect((await stored()).equals(Buffer.concat(contents))).toBe(true);
  });

  test('one long append is committed on the way, in order and whole', async () => {
    const contents = Array.from({ length: 80 }, () => randomBytes(MIB));
    await append(...contents);
    expect(committed.length).toBeGreaterThan(1);
    expect(committed).toEqual([...new Set(committed)].sort((a, b) => a - b));
    expect(committed.at(-1)).toBe(80 * MIB);
    expect((await stored()).equals(Buffer.concat(contents))).toBe(true);
  });

  test('bytes from before the source failed are kept, and the next append goes on behind them', async () => {
    await expect(append('abcdef', new Error('cut'))).rejects.toThrow('cut');
    expect(committed).toEqual([6]);
    await append('ghi');
    expect((await stored()).toString()).toBe('abcdefghi');
  });

  test('bytes that were stored but not committed do not count', async () => {
    await append('abc');
    const refuse = () => Promise.reject(new Error('not yours'));
    await expect(appendTo(storage.uploads, upload, chunks('XXX'), refuse)).rejects.toThrow();
    await append('def');
    expect((await stored()).toString()).toBe('abcdef');
  });

  test('completing may be done again and again', async () => {
    const content = randomBytes(9 * MIB);
    await append(content);
    await append('end');
    const first = await complete();
    const again = await storage.uploads.complete(upload, parts);
    for (const key of [first, again.objectKey]) {
      expect(
        (await buffer(await storage.blobs.read(key))).equals(Buffer.concat([content, Buffer.from('end')])),
      ).toBe(true);
    }
  });

  test('a body that the store refuses in its middle does not harm later requests', async () => {
    await append(randomBytes(9 * MIB));
    await append(randomBytes(3 * MIB));
    await complete();
    const completed = { upload, parts };
    for (let round = 0; round < 5; round++) {
      // The store has completed this upload, so it refuses the tail before it has read all of it.
      await storage.uploads.complete(completed.upload, completed.parts);
      begin(null);
      await append(randomBytes(6 * MIB));
      expect(committed).toEqual([6 * MIB]);
    }
  });

  test.each([
    ['large', [6 * MIB, 7 * MIB]],
    ['small', [1 * MIB, 100]],
  ])(
    'parts that a dead process stored and never committed (%s) stay out of the blob',
    async (_sizes, sizes) => {
      const content = randomBytes(9 * MIB);
      await append(content);
      // The process dies before it can commit the parts that it has stored.
      const reservation = async (progress: Progress) => {
        if (progress.offset > 9 * MIB) throw new Error('dead');
        await commit(progress);
      };
      for (const size of sizes) {
        const last = { ...upload, length: upload.offset + size };
        await appendTo(storage.uploads, last, chunks(randomBytes(size)), reservation).catch(() => {});
      }
      const rest = randomBytes(8 * MIB + 5);
      await append(rest);
      expect((await stored()).equals(Buffer.concat([content, rest]))).toBe(true);
      await storage.uploads.discard(upload, await complete());
      expect((await listStored()).map(({ key }) => key)).toEqual([await complete()]);
    },
  );

  test('an empty upload becomes an empty blob', async () => {
    await complete();
    expect((await stored()).toString()).toBe('');
  });

  test('bytes that are missing are not made up', async () => {
    await append(randomBytes(9 * MIB), 'tail');
    await storage.uploads.discard(upload, null);
    await expect(complete()).rejects.toMatchObject({
      code: expect.stringMatching(/size_mismatch|unavailable/),
    });
  });

  test('discarding an upload removes all its bytes, and may be repeated', async () => {
    await append(randomBytes(9 * MIB), 'tail');
    await append('more');
    expect(await listStored()).not.toEqual([]);
    await storage.uploads.discard(upload, null);
    expect(await listStored()).toEqual([]);
    await storage.uploads.discard(upload, null);
  });

  test('all but the object of a finished upload can be discarded', async () => {
    const content = randomBytes(9 * MIB);
    await append(content);
    const key = await complete();
    await storage.uploads.discard(upload, key);
    expect((await listStored()).map((object) => object.key)).toEqual([key]);
    expect((await stored()).equals(content)).toBe(true);
  });

  test.each([0, 4, 3 * MIB])(
    'a blob of %s bytes is copied into quarantine, and listed there',
    async (size) => {
      const [key, copy] = [randomUUID(), `${QUARANTINE}/${randomUUID()}`];
      const content = randomBytes(size);
      await storage.blobs.write(key, content);
      await storage.blobs.copy(key, size, copy);
      await storage.blobs.delete(key);
      expect((await buffer(await storage.blobs.read(copy))).equals(content)).toBe(true);
      const listed: StoredObject[] = [];
      for await (const object of storage.list()) listed.push(object);
      expect(listed).toContainEqual(expect.objectContaining({ key: copy, size }));
      await expect(storage.blobs.copy(key, size, `${QUARANTINE}/${randomUUID()}`)).rejects.toMatchObject({
        code: 'unavailable',
        retryable: true,
      });
      await storage.blobs.delete(copy);
      await expect(storage.blobs.read(copy)).rejects.toMatchObject({ code: 'unavailable' });
    },
  );

  test('deleting a blob removes it, and may be repeated', async () => {
    const key = randomUUID();
    await expect(storage.blobs.read(key)).rejects.toMatchObject({ code: 'unavailable', retryable: true });
    await storage.blobs.write(key, Buffer.from('blob'));
    expect((await buffer(await storage.blobs.read(key))).toString()).toBe('blob');
    await storage.blobs.delete(key);
    await storage.blobs.delete(key);
    await expect(storage.blobs.read(key)).rejects.toMatchObject({ code: 'unavailable' });
    await storage.check();
  });
});

test('files: bytes beyond the offset are written over, and their rest is cut off at the end', async () => {
  const { storage, close } = await openFiles();
  const upload = { key: 'some-key', offset: 0, length: null, state: null };
  const commit = async () => {};
  async function* source(text: string) {
    yield Buffer.from(text);
  }
  await appendTo(storage.uploads, upload, source('abcdef'), commit);
  await appendTo(storage.uploads, { ...upload, offset: 3 }, source('X'), commit);
  const { objectKey } = await storage.uploads.complete({ ...upload, offset: 4 }, []);
  expect((await buffer(await storage.blobs.read(objectKey))).toString()).toBe('abcX');
  await expect(storage.uploads.complete({ ...upload, offset: 5 }, [])).rejects.toMatchObject({
    code: 'size_mismatch',
  });
  await close();
});

test('files: a list reads one folder at a time', async () => {
  const { storage, close } = await openFiles();
  const [first, second, late] = ['aa-first', 'bb-second', 'bb-late'];
  for (const key of [first, second]) await storage.blobs.write(key, Buffer.from('blob'));
  const listed: string[] = [];
  for await (const { key } of storage.list()) {
    // The second folder has not been read yet.
    if (listed.length === 0) await storage.blobs.write(key === first ? late : 'aa-late', Buffer.from('blob'));
    listed.push(key);
  }
  expect(listed).toHaveLength(3);
  await close();
});

test('files: no offset is committed before its bytes are synced', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'landfall-storage-'));
  const storage = await openFileStorage(folder, loadConfig({}), createLogger('silent', 'test'));
  await storage.marker.write('of the test');
  const order: string[] = [];
  const handle = await open(join(folder, 'any'), 'w');
  const prototype = Object.getPrototypeOf(handle) as FileHandle;
  await handle.close();
  const { datasync } = prototype;
  prototype.datasync = async function (this: FileHandle) {
    await datasync.call(this);
    order.push(`synced ${(await this.stat()).size}`);
  };
  try {
    const source = async function* () {
      yield Buffer.from('abc');
    };
    const upload = { key: 'key', offset: 0, length: null, state: null };
    await appendTo(
      storage.uploads,
      upload,
      source(),
      async ({ offset }) => void order.push(`committed ${offset}`),
    );
    expect(order).toEqual(['synced 3', 'committed 3']);
    expect(await readdir(join(folder, 'ke'))).toEqual(['key']);
  } finally {
    prototype.datasync = datasync;
    await rm(folder, { recursive: true });
  }
});
