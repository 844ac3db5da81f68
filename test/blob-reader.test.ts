import { randomBytes } from 'node:crypto';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { AppError } from '../core/errors.js';
import { readBlob } from '../core/storage/blob-reader.js';
import { until } from './support/until.js';

/* How a stored object is read over connections that break. The store that breaks them is in faults/broken-reads.test.ts. */

const CONTENT = randomBytes(1000);
const blob = { key: 'key', size: CONTENT.length };
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
  expect(await buffer(await readBlob(blobs, blob))).toEqual(CONTENT);
  expect(blobs.ranges).toEqual([undefined]);
});

test.each([
  ['is reset', { bytes: 300, failure: reset() }],
  ['ends early', { bytes: 300 }],
])(
  'a read that %s goes on at the byte it had reached, as long as each try brings bytes',
  async (_how, answer) => {
    const blobs = store([answer]);
    expect(await buffer(await readBlob(blobs, blob))).toEqual(CONTENT);
    expect(blobs.ranges).toEqual([undefined, ...[300, 600, 900].map((start) => ({ start, end: 999 }))]);
    expect(blobs.opened.every(({ destroyed }) => destroyed)).toBe(true);
  },
);

test('a read of a range goes on after each reset at the byte that it had reached', async () => {
  const blobs = store([{ bytes: 300, failure: reset() }]);
  const range = { start: 100, end: 799 };
  expect(await buffer(await readBlob(blobs, blob, range))).toEqual(CONTENT.subarray(100, 800));
  expect(blobs.ranges).toEqual([range, { start: 400, end: 799 }, { start: 700, end: 799 }]);
});

test('a reset after the last byte is ignored', async () => {
  const blobs = store([{ bytes: 1000, failure: reset() }]);
  expect(await buffer(await readBlob(blobs, blob))).toEqual(CONTENT);
  expect(blobs.ranges).toHaveLength(1);
});

test('a store that is away in the middle is asked again', async () => {
  const away = new AppError('unavailable', { retryable: true });
  const blobs = store([{ bytes: 300, failure: reset() }, away, away, { bytes: 1000 }]);
  expect(await buffer(await readBlob(blobs, blob))).toEqual(CONTENT);
  expect(blobs.ranges).toHaveLength(4);
});

test('an object that cannot be opened at all fails at once', async () => {
  const blobs = store([new AppError('unavailable', { retryable: true })]);
  await expect(readBlob(blobs, blob)).rejects.toMatchObject({ code: 'unavailable' });
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
  const reader = await readBlob(blobs, blob, undefined, { tries: 3, pauseMs: 1 });
  await expect(buffer(reader)).rejects.toMatchObject({ code: code.split(',')[0] });
});

test('an object with more bytes than it should have is an error', async () => {
  const blobs = store([{ bytes: 1100 }], Buffer.concat([CONTENT, Buffer.alloc(100)]));
  await expect(buffer(await readBlob(blobs, blob))).rejects.toMatchObject({ code: 'size_mismatch' });
});

test('a reader that stops reading closes the stream from the store', async () => {
  const blobs = store([{ bytes: 1000 }]);
  for await (const _ of await readBlob(blobs, blob)) break;
  await until('the store to be stopped', () => blobs.opened[0]?.destroyed);
});
