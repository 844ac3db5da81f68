import { randomBytes, randomUUID } from 'node:crypto';
import { type FileHandle, mkdtemp, open, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { openFileStorage } from '../core/storage/file.js';
import type { Storage } from '../core/storage/storage.js';

const MIB = 1024 ** 2;

/** What every storage promises; each implementation is one line here. */
const IMPLEMENTATIONS: [name: string, open: (folder: string) => Promise<Storage>][] = [
  ['files', (folder) => openFileStorage(join(folder, 'blobs'))],
];

describe.each(IMPLEMENTATIONS)('storage in %s', (_name, openStorage) => {
  let folder: string;
  let storage: Storage;
  let key: string;
  let committed: number[];

  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'landfall-storage-'));
    storage = await openStorage(folder);
    key = randomUUID();
    committed = [];
  });
  afterEach(() => rm(folder, { recursive: true }));

  async function* chunks(...contents: (Uint8Array | string | Error)[]) {
    for (const content of contents) {
      if (content instanceof Error) throw content;
      yield Buffer.from(content);
    }
  }
  const commit = async (offset: number) => void committed.push(offset);
  const append = (offset: number, ...contents: (Uint8Array | string | Error)[]) =>
    storage.uploads.append(key, offset, chunks(...contents), commit);
  const stored = async (range?: { start: number; end: number }) =>
    (await buffer(await storage.blobs.read(key, range))).toString();

  test('an upload grows by appends and becomes a blob', async () => {
    await append(0, 'abc', 'def');
    await append(6, 'ghi');
    await storage.uploads.complete(key, 9);
    expect(committed).toEqual([6, 9]);
    expect(await stored()).toBe('abcdefghi');
    expect(await stored({ start: 2, end: 4 })).toBe('cde');
  });

  test('one long append is committed on the way, in order and whole', async () => {
    const parts = Array.from({ length: 80 }, () => randomBytes(MIB));
    await append(0, ...parts);
    expect(committed.length).toBeGreaterThan(1);
    expect(committed).toEqual([...new Set(committed)].sort((a, b) => a - b));
    expect(committed.at(-1)).toBe(80 * MIB);
    expect((await buffer(await storage.blobs.read(key))).equals(Buffer.concat(parts))).toBe(true);
  });

  test('what came before the source failed is kept, and written over by what comes then', async () => {
    await expect(append(0, 'abcdef', new Error('cut'))).rejects.toThrow('cut');
    expect(committed).toEqual([6]);
    await append(3, 'XYZ123');
    expect(await stored()).toBe('abcXYZ123');
  });

  test('a commit that is refused ends the append', async () => {
    const refuse = () => Promise.reject(new Error('not yours'));
    await expect(storage.uploads.append(key, 0, chunks('abc'), refuse)).rejects.toThrow('not yours');
  });

  test('an empty upload becomes an empty blob', async () => {
    await storage.uploads.complete(key, 0);
    await storage.uploads.complete(key, 0);
    expect(await stored()).toBe('');
  });

  test('bytes behind the length are cut off; bytes that are missing are not made up', async () => {
    await append(0, 'abcdef');
    await storage.uploads.complete(key, 4);
    expect(await stored()).toBe('abcd');
    await expect(storage.uploads.complete(key, 5)).rejects.toMatchObject({ code: 'size_mismatch' });
    await expect(storage.uploads.complete(randomUUID(), 5)).rejects.toMatchObject({ code: 'size_mismatch' });
  });

  test('what is deleted or discarded is gone, and may be deleted again', async () => {
    await append(0, 'abc');
    await storage.uploads.discard(key);
    await storage.uploads.discard(key);
    await expect(storage.blobs.read(key)).rejects.toMatchObject({ code: 'unavailable', retryable: true });
    await storage.blobs.write(key, Buffer.from('blob'));
    expect(await stored()).toBe('blob');
    await storage.blobs.delete(key);
    await storage.blobs.delete(key);
    await expect(storage.blobs.read(key)).rejects.toMatchObject({ code: 'unavailable' });
    await storage.check();
  });
});

test('files: no offset is committed before its bytes are synced', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'landfall-storage-'));
  const storage = await openFileStorage(folder);
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
    await storage.uploads.append(
      'key',
      0,
      source(),
      async (offset) => void order.push(`committed ${offset}`),
    );
    expect(order).toEqual(['synced 3', 'committed 3']);
    expect(await readdir(join(folder, 'ke'))).toEqual(['key']);
  } finally {
    prototype.datasync = datasync;
    await rm(folder, { recursive: true });
  }
});
