import { randomBytes } from 'node:crypto';
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createLimiter } from '../core/concurrency.js';
import { createLogger } from '../core/log.js';
import { StorageFull } from '../core/storage/disk-room.js';
import { Held } from '../core/storage/s3/held.js';
import { createSpool, NO_SPOOL } from '../core/storage/s3/spool.js';

/* The files in which the bytes of slow uploads wait. */

const KIB = 1024;

let folder: string;
let isDiskFull = false;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'landfall-spool-'));
  isDiskFull = false;
});
afterEach(() => rm(folder, { recursive: true }));

function open(budget = 1024 * KIB, at = folder) {
  const room = {
    use() {
      if (isDiskFull) throw new StorageFull();
    },
    require: async () => {},
    requireForDerived: async () => {},
    isShort: async () => isDiskFull,
  };
  return createSpool(at, { budget, room, disk: createLimiter(2), log: createLogger('silent', 'test') });
}

/** The bytes of a body, read as a request does. */
async function read(held: Held): Promise<Buffer> {
  const body = held.body();
  if (typeof body !== 'function') return Buffer.concat(body);
  const chunks: Buffer[] = [];
  // The next read may use the same memory.
  for await (const chunk of body()) chunks.push(Buffer.from(chunk));
  return Buffer.concat(chunks);
}

/** Puts the bytes in memory away. @returns how many began to be written */
async function putAway(held: Held): Promise<number> {
  let bytes = 0;
  await new Promise<void>((resolve) => {
    bytes = held.putAway(resolve);
    if (bytes === 0) resolve();
  });
  return bytes;
}

test('bytes in the spool and in memory become one body, again and again', async () => {
  const content = randomBytes(700 * KIB);
  const held = new Held(open());
  // Chunks of any size are copied into blocks, of which each may hold parts of several.
  for (let at = 0, size = 1; at < content.length; at += size, size = (size * 7) % 40_009) {
    held.add(content.subarray(at, at + size));
    if (size % 3 === 0) await putAway(held);
  }
  expect(held.isOnDisk).toBe(true);
  expect(held.size).toBe(content.length);
  for (let attempt = 0; attempt < 2; attempt++) expect((await read(held)).equals(content)).toBe(true);
  held.drop();
});

test('a body can be read while its last bytes are still being written', async () => {
  const content = randomBytes(200 * KIB);
  const held = new Held(open());
  held.add(content.subarray(0, 100 * KIB));
  held.putAway(() => {});
  held.add(content.subarray(100 * KIB));
  expect((await read(held)).equals(content)).toBe(true);
  held.drop();
});

test('a file has no name while it is used, so that a crash leaves nothing', async () => {
  const held = new Held(open());
  held.add(randomBytes(10 * KIB));
  expect(await putAway(held)).toBe(10 * KIB);
  expect(await readdir(folder)).toEqual([]);
  held.drop();
});

test('a spool file whose process died while it opened the file is removed', async () => {
  await writeFile(join(folder, 'left'), 'x');
  const held = new Held(open());
  held.add(randomBytes(KIB));
  await putAway(held);
  expect(await readdir(folder)).toEqual([]);
  held.drop();
});

test('all files together stay within the budget, and dropped bytes give their room back', async () => {
  const spool = open(100 * KIB);
  const [first, second] = [new Held(spool), new Held(spool)];
  for (const held of [first, second]) held.add(randomBytes(60 * KIB));
  expect(await putAway(first)).toBe(60 * KIB);
  expect(await putAway(second)).toBe(0);
  first.drop();
  expect(await putAway(second)).toBe(60 * KIB);
  second.drop();
});

test('bytes that are being written when they are dropped give their room back too', async () => {
  const spool = open(100 * KIB);
  const first = new Held(spool);
  first.add(randomBytes(60 * KIB));
  const written = new Promise<void>((resolve) => first.putAway(resolve));
  first.drop();
  await written;
  const second = new Held(spool);
  second.add(randomBytes(100 * KIB));
  expect(await putAway(second)).toBe(100 * KIB);
  second.drop();
});

test.each([
  ['there is no spool', () => NO_SPOOL],
  ['its budget is 0', () => open(0)],
  ['the disk is full up to its reserve', () => open()],
])('bytes stay in memory when %s', async (what, make) => {
  isDiskFull = what.startsWith('the disk');
  const content = randomBytes(10 * KIB);
  const held = new Held(make());
  held.add(content);
  expect(await putAway(held)).toBe(0);
  expect((await read(held)).equals(content)).toBe(true);
  expect(await readdir(folder)).toEqual([]);
});

test('bytes stay in memory when they cannot be written, and the spool is left alone for a while', async () => {
  const file = join(folder, 'file');
  await writeFile(file, '');
  const spool = open(1024 * KIB, file);
  const content = randomBytes(10 * KIB);
  const held = new Held(spool);
  held.add(content);
  expect(await putAway(held)).toBe(10 * KIB);
  expect([held.isOnDisk, held.memory]).toEqual([false, 10 * KIB]);
  expect((await read(held)).equals(content)).toBe(true);
  const next = new Held(spool);
  next.add(content);
  expect(await putAway(next)).toBe(0);
});
