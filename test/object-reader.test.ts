import { randomBytes, randomInt } from 'node:crypto';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { AppError } from '../core/errors.js';
import { readObjects } from '../core/storage/object-reader.js';
import { until } from './support/until.js';

/* How stored objects are read over connections that break. The store that breaks them is in faults/broken-reads.test.ts. */

const CONTENT = randomBytes(1000);
const object = { key: 'key', size: CONTENT.length };
const reset = () => Object.assign(new Error('aborted'), { code: 'ECONNRESET' });

interface Answer {
  /** How many bytes the store sends. */
  bytes: number;
  /** How the stream fails after them; undefined: it ends. */
  failure?: Error;
}

/** A store that gives these answers, one to each request; further requests all get the last one. */
function store(answers: (Answer | Error)[], content: Uint8Array = CONTENT) {
  const ranges: ({ start: number; end: number } | undefined)[] = [];
  const opened: Readable[] = [];
  return {
    ranges,
    opened,
    async read(_key: string, range?: { start: number; end: number }): Promise<Readable> {
      const answer = answers[Math.min(ranges.length, answers.length - 1)];
      ranges.push(range);
      if (!answer || answer instanceof Error) throw answer;
      const { start = 0, end = content.length - 1 } = range ?? {};
      const bytes = content.subarray(start, Math.min(end + 1, start + answer.bytes));
      async function* send() {
        for (let at = 0; at < bytes.length; at += 100) yield bytes.subarray(at, at + 100);
        if (answer && 'failure' in answer) throw answer.failure;
      }
      const stream = Readable.from(send(), { objectMode: false });
      opened.push(stream);
      return stream;
    },
  };
}

test('an object comes whole', async () => {
  const blobs = store([{ bytes: 1000 }]);
  expect(await buffer(await readObjects(blobs, [object]))).toEqual(CONTENT);
  expect(blobs.ranges).toEqual([undefined]);
});

test.each([
  ['is reset', { bytes: 300, failure: reset() }],
  ['ends early', { bytes: 300 }],
])(
  'a read that %s goes on at the byte it had reached, as long as each try brings bytes',
  async (_how, answer) => {
    const blobs = store([answer]);
    expect(await buffer(await readObjects(blobs, [object]))).toEqual(CONTENT);
    expect(blobs.ranges).toEqual([undefined, ...[300, 600, 900].map((start) => ({ start, end: 999 }))]);
    expect(blobs.opened.every(({ destroyed }) => destroyed)).toBe(true);
  },
);

test('a read of a range goes on after each reset at the byte that it had reached', async () => {
  const blobs = store([{ bytes: 300, failure: reset() }]);
  const range = { start: 100, end: 799 };
  expect(await buffer(await readObjects(blobs, [object], range))).toEqual(CONTENT.subarray(100, 800));
  expect(blobs.ranges).toEqual([range, { start: 400, end: 799 }, { start: 700, end: 799 }]);
});

test('a reset after the last byte is ignored', async () => {
  const blobs = store([{ bytes: 1000, failure: reset() }]);
  expect(await buffer(await readObjects(blobs, [object]))).toEqual(CONTENT);
  expect(blobs.ranges).toHaveLength(1);
});

test('a store that is away in the middle is asked again', async () => {
  const away = new AppError('unavailable', { retryable: true });
  const blobs = store([{ bytes: 300, failure: reset() }, away, away, { bytes: 1000 }]);
  expect(await buffer(await readObjects(blobs, [object]))).toEqual(CONTENT);
  expect(blobs.ranges).toHaveLength(4);
});

test('an object that cannot be opened at all fails at once', async () => {
  const blobs = store([new AppError('unavailable', { retryable: true })]);
  await expect(readObjects(blobs, [object])).rejects.toMatchObject({ code: 'unavailable' });
  expect(blobs.ranges).toHaveLength(1);
});

test.each([
  [
    'unavailable, if it resets',
    [
      { bytes: 300, failure: reset() },
      { bytes: 0, failure: reset() },
    ],
  ],
  ['size_mismatch, if it says that there is no more', [{ bytes: 300 }, new AppError('size_mismatch')]],
  ['size_mismatch, if it ends each time', [{ bytes: 300 }, { bytes: 0 }]],
])('the reader gives up a store that brings no more bytes, with %s', async (code, answers) => {
  const blobs = store(answers);
  const reader = await readObjects(blobs, [object], undefined, { tries: 3, pauseMs: 1 });
  await expect(buffer(reader)).rejects.toMatchObject({ code: code.split(',')[0] });
});

test('an object with more bytes than it should have is an error', async () => {
  const blobs = store([{ bytes: 1100 }], Buffer.concat([CONTENT, Buffer.alloc(100)]));
  await expect(buffer(await readObjects(blobs, [object]))).rejects.toMatchObject({ code: 'size_mismatch' });
});

test('a reader that stops reading closes the stream from the store', async () => {
  const blobs = store([{ bytes: 1000 }]);
  for await (const _ of await readObjects(blobs, [object])) break;
  await until('the store to be stopped', () => blobs.opened[0]?.destroyed);
});

/** Objects of these sizes that hold CONTENT together, and the store that has them. */
function storeInPieces(sizes: number[], answer: (read: number) => Answer | Error = () => ({ bytes: 1000 })) {
  const asked: string[] = [];
  const objects = sizes.map((size, index) => ({ key: `piece ${index}`, size }));
  let reads = 0;
  return {
    objects,
    asked,
    async read(key: string, range?: { start: number; end: number }): Promise<Readable> {
      asked.push(range ? `${key} ${range.start}-${range.end}` : key);
      const index = Number(key.split(' ')[1]);
      const begin = sizes.slice(0, index).reduce((sum, size) => sum + size, 0);
      const piece = CONTENT.subarray(begin, begin + (sizes[index] ?? 0));
      return store([answer(reads++)], piece).read(key, range);
    },
  };
}

describe('several objects', () => {
  test('come as one, each from its first byte to its last', async () => {
    const pieces = storeInPieces([300, 0, 650, 50]);
    expect(await buffer(await readObjects(pieces, pieces.objects))).toEqual(CONTENT);
    expect(pieces.asked).toEqual(['piece 0', 'piece 2', 'piece 3']);
  });

  test.each([
    [0, 299, ['piece 0']],
    [299, 299, ['piece 0 299-299']],
    [300, 300, ['piece 1 0-0']],
    [299, 300, ['piece 0 299-299', 'piece 1 0-0']],
    [120, 979, ['piece 0 120-299', 'piece 1', 'piece 2 0-29']],
    [950, 999, ['piece 2']],
    [999, 999, ['piece 2 49-49']],
  ])('give the bytes %i to %i', async (start, end, asked) => {
    const pieces = storeInPieces([300, 650, 50]);
    const bytes = await buffer(await readObjects(pieces, pieces.objects, { start, end }));
    expect(bytes).toEqual(CONTENT.subarray(start, end + 1));
    expect(pieces.asked).toEqual(asked);
  });

  test('give each range, wherever their borders are', async () => {
    for (let round = 0; round < 200; round++) {
      const [first = 0, second = 0] = [randomInt(1001), randomInt(1001)].sort((a, b) => a - b);
      const pieces = storeInPieces([first, second - first, 1000 - second], (read) => ({
        bytes: read % 3 ? 1000 : 1 + randomInt(400),
      }));
      const start = randomInt(1000);
      const end = start + randomInt(1000 - start);
      const bytes = await buffer(await readObjects(pieces, pieces.objects, { start, end }));
      expect({ first, second, start, end, bytes }).toEqual({
        ...{ first, second, start, end },
        bytes: CONTENT.subarray(start, end + 1),
      });
    }
  });

  test('a read that breaks off in the second goes on there', async () => {
    const broken = { bytes: 200, failure: reset() };
    const pieces = storeInPieces([300, 650, 50], (read) => (read === 1 ? broken : { bytes: 1000 }));
    expect(await buffer(await readObjects(pieces, pieces.objects))).toEqual(CONTENT);
    expect(pieces.asked).toEqual(['piece 0', 'piece 1', 'piece 1 200-649', 'piece 2']);
  });

  test('the next is opened only when the consumer wants more', async () => {
    const pieces = storeInPieces([300, 650, 50]);
    const reader = await readObjects(pieces, pieces.objects);
    const closed = until('the first to be read', () => reader.readableLength === 0);
    reader.pause();
    await closed;
    expect(pieces.asked).toEqual(['piece 0']);
    reader.destroy();
  });

  test('one that is shorter or longer than it should be fails the read, and gives no byte of it to the next', async () => {
    const short = storeInPieces([300, 650, 50]);
    const claimed = short.objects.map((object, index) => ({
      ...object,
      size: object.size + (index === 0 ? 1 : 0),
    }));
    await expect(
      buffer(await readObjects(short, claimed, undefined, { tries: 2, pauseMs: 1 })),
    ).rejects.toMatchObject({ code: 'size_mismatch' });
    const long = storeInPieces([300, 650, 50]);
    const less = long.objects.map((object, index) => ({
      ...object,
      size: object.size - (index === 1 ? 1 : 0),
    }));
    await expect(buffer(await readObjects(long, less))).rejects.toMatchObject({ code: 'size_mismatch' });
    expect(long.asked).toEqual(['piece 0', 'piece 1']);
  });
});
