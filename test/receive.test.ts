import { createHash } from 'node:crypto';
import { AppError } from '../core/errors.js';
import {
  BytesLost,
  type CommitTime,
  type Progress,
  type StoredUpload,
  type UploadSink,
} from '../core/storage/storage.js';
import type { LedgerDeps } from '../core/uploads/commit.js';
import { terminateUpload } from '../core/uploads/end.js';
import { LeaseLost, UploadEnded } from '../core/uploads/errors.js';
import type { Lease } from '../core/uploads/lease.js';
import { type ByteSource, receive, type Take } from '../core/uploads/receive.js';
import { expectBooksRight } from './support/books.js';
import { leaseOf, openLedger, type TestLedger } from './support/ledger.js';

/* The loop that moves bytes, between a source and a sink that the test drives, and the real ledger. */

let ledger: TestLedger;

beforeAll(async () => {
  ledger = await openLedger();
});
afterEach(async () => {
  await expectBooksRight({ query: async (sql) => ({ rows: await ledger.query(sql) }) as never });
});
afterAll(() => ledger?.close());

function createLatch() {
  let open = () => {};
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { opened, open };
}

/** A body that gives what the test says, when the test says it. */
function openSource() {
  let take: Take | undefined;
  let resolve = () => {};
  let reject = (_error: Error) => {};
  let ended = false;
  const begun = createLatch();
  const source: ByteSource = {
    flow(next) {
      take = next;
      begun.open();
      if (ended) return Promise.resolve();
      return new Promise((...both) => {
        [resolve, reject] = both;
      });
    },
    end() {
      ended = true;
      resolve();
    },
  };
  return {
    source,
    /** Resolves when the flow has begun. */
    opened: begun.opened,
    isEnded: () => ended,
    give: (text: string) => take?.(Buffer.from(text)),
    close: () => resolve(),
    breakOff: () => reject(new Error('broken off')),
  };
}

/** Keeps bytes in memory, and commits them when the test says it and at the end. */
function openSink() {
  const failed = new AbortController();
  const taken: string[] = [];
  const calls: string[] = [];
  let full: ReturnType<typeof createLatch> | undefined;
  let ending: ReturnType<typeof createLatch> | undefined;
  let offset = 0;
  let commit: (progress: Progress) => Promise<void> = async () => {};
  let time: CommitTime | undefined;
  const reach = () => commit({ offset: offset + taken.join('').length });
  const sink: UploadSink = {
    write(chunk) {
      taken.push(Buffer.from(chunk).toString());
      return full?.opened;
    },
    failed: failed.signal,
    hurry: () => void calls.push('hurry'),
    fail: (error) => failed.abort(error),
    async end() {
      calls.push('end');
      await ending?.opened;
      failed.signal.throwIfAborted();
      await reach();
    },
  };
  return {
    async open(upload: StoredUpload, onProgress: typeof commit, when?: CommitTime): Promise<UploadSink> {
      offset = upload.offset;
      commit = onProgress;
      time = when;
      return sink;
    },
    taken,
    calls,
    time: () => time,
    commit: reach,
    /** Lets end() take until the returned function is called. */
    holdEnd() {
      ending = createLatch();
      return ending.open;
    },
    fail: (error: Error) => failed.abort(error),
    fill() {
      full = createLatch();
    },
    drain() {
      full?.open();
      full = undefined;
    },
  };
}

const MAX = 1000;

function over(open: ReturnType<typeof openSink>['open']): LedgerDeps {
  const uploads = { ...ledger.storage.uploads, open };
  return { ...ledger, storage: { ...ledger.storage, uploads }, maxUploadSize: MAX };
}

async function begin(length: number | null, epoch = 1): Promise<Lease> {
  return leaseOf(await ledger.create(length), epoch);
}

/** Begins to receive a body into a new upload. `receiving` is what receive() returns. */
async function startReceiving(length: number | null, options?: Parameters<typeof receive>[3]) {
  const lease = await begin(length);
  return { lease, ...(await receiveInto(lease, options)) };
}

async function receiveInto(lease: Lease, options?: Parameters<typeof receive>[3], sink = openSink()) {
  const body = openSource();
  const receiving = receive(over(sink.open), lease, body.source, options);
  await body.opened;
  return { body, sink, receiving };
}

const offsetOf = async ({ id }: Lease) => Number((await ledger.row(id)).offset);

test('chunks go to the sink at once and in order, and none while it is full', async () => {
  const { lease, body, sink, receiving } = await startReceiving(9);
  expect(body.give('abc')).toBeUndefined();
  expect(sink.taken).toEqual(['abc']);
  sink.fill();
  const full = body.give('def');
  let resumed = false;
  full?.then(() => {
    resumed = true;
  });
  await new Promise(setImmediate);
  expect([sink.taken, resumed]).toEqual([['abc', 'def'], false]);
  sink.drain();
  await full;
  expect(body.give('ghi')).toBeUndefined();
  body.close();
  await receiving;
  expect(sink.taken).toEqual(['abc', 'def', 'ghi']);
  expect(lease.upload.offset).toBe(9);
  expect(await offsetOf(lease)).toBe(9);
});

test('a chunk beyond the length is refused as a whole, after the bytes before it are stored', async () => {
  const { lease, body, sink, receiving } = await startReceiving(5);
  body.give('abc');
  body.give('def');
  expect(body.isEnded()).toBe(true);
  body.give('more');
  await expect(receiving).rejects.toMatchObject({ code: 'too_large' });
  expect(sink.taken).toEqual(['abc']);
  expect(await offsetOf(lease)).toBe(3);
});

test('an upload of unknown length takes as many bytes as the server allows', async () => {
  const { lease, body, receiving } = await startReceiving(null);
  await body.give('a'.repeat(MAX));
  await body.give('b');
  await expect(receiving).rejects.toMatchObject({ code: 'too_large' });
  expect(await offsetOf(lease)).toBe(MAX);
});

test('a complete upload stores nothing, and takes no further byte', async () => {
  const lease = await begin(0);
  const sink = openSink();
  for (const text of ['', 'a']) {
    const { body, receiving } = await receiveInto(lease, undefined, sink);
    if (text) body.give(text);
    body.close();
    if (text) await expect(receiving).rejects.toMatchObject({ code: 'too_large' });
    else await receiving;
  }
  expect([sink.taken, sink.calls]).toEqual([[], []]);
});

test('a sink that fails ends a body that has stalled', async () => {
  const { body, sink, receiving } = await startReceiving(9);
  body.give('abc');
  sink.fail(new AppError('storage_full'));
  await expect(receiving).rejects.toMatchObject({ code: 'storage_full' });
  expect(body.isEnded()).toBe(true);
  body.give('def');
  expect([sink.taken, sink.calls]).toEqual([['abc'], ['end']]);
});

test('the bytes of a body that breaks off are stored, in a hurry', async () => {
  const { lease, body, sink, receiving } = await startReceiving(9);
  body.give('abc');
  body.breakOff();
  await expect(receiving).rejects.toThrow('broken off');
  expect(sink.calls).toEqual(['hurry', 'end']);
  expect(await offsetOf(lease)).toBe(3);
});

test.each([false, true])(
  'a request that must let go stores what it has, and declares no length (before it began: %s)',
  async (before) => {
    const stop = new AbortController();
    if (before) stop.abort();
    const { lease, body, sink, receiving } = await startReceiving(null, { stop: stop.signal, last: true });
    if (!before) await body.give('abc');
    stop.abort();
    await receiving;
    expect(sink.calls).toEqual(['hurry', 'end']);
    expect(lease.upload).toMatchObject({ offset: before ? 0 : 3, length: null });
  },
);

test('a request may be asked to let go while its last bytes are being stored', async () => {
  const stop = new AbortController();
  const { body, sink, receiving } = await startReceiving(3, { stop: stop.signal });
  const openEnd = sink.holdEnd();
  body.give('abc');
  body.close();
  await new Promise(setImmediate);
  stop.abort();
  openEnd();
  await receiving;
  expect(sink.calls).toEqual(['end', 'hurry']);
});

test('the last body of an upload declares its length', async () => {
  const { lease, body, receiving } = await startReceiving(null, { last: true });
  await body.give('abc');
  body.close();
  await receiving;
  expect(lease.upload).toMatchObject({ offset: 3, length: 3, reservedBytes: 3 });
});

test('digests are of all bytes; each commit is reported', async () => {
  const committed: number[] = [];
  const { body, sink, receiving } = await startReceiving(6, {
    digests: ['sha256', 'sha1'],
    onCommitted: (offset) => committed.push(offset),
  });
  body.give('abc');
  await sink.commit();
  body.give('def');
  body.close();
  const digests = await receiving;
  expect(committed).toEqual([3, 6]);
  for (const [name, digest] of Object.entries(digests)) {
    expect([name, digest]).toEqual([name, createHash(name).update('abcdef').digest()]);
  }
  expect(Object.keys(digests)).toEqual(['sha256', 'sha1']);
});

describe('a body that has to be verified', () => {
  const WRONG = new Error('wrong');

  test('counts at its end, after it was verified', async () => {
    const lease = await begin(6);
    const body = openSource();
    const sink = openSink();
    const verified: string[] = [];
    const receiving = receive(over(sink.open), lease, body.source, {
      digests: ['md5', 'crc32', 'crc32c'],
      async verify(digests) {
        expect(await offsetOf(lease)).toBe(0);
        for (const [name, digest] of Object.entries(digests))
          verified.push(`${name} ${digest.toString('hex')}`);
      },
    });
    await body.opened;
    body.give('abc');
    body.give('def');
    body.close();
    await receiving;
    expect(sink.time()).toBe('at the end');
    // Of `abcdef`, by other programs.
    expect(verified).toEqual(['md5 e80b5017098950fc58aad83c8c14978e', 'crc32 4b8e39ef', 'crc32c 53bceff1']);
    expect(await offsetOf(lease)).toBe(6);
  });

  const CASES: [
    name: string,
    spoil: (body: ReturnType<typeof openSource>, stop: AbortController) => void,
    error: object,
  ][] = [
    ['is wrong', (body) => body.close(), { message: 'wrong' }],
    ['breaks off', (body) => body.breakOff(), { message: 'broken off' }],
    ['has to stop', (_body, stop) => stop.abort(), { code: 'locked', retryable: true }],
    ['is too long', (body) => body.give('defg'), { code: 'too_large' }],
  ];
  test.each(CASES)('and %s counts not at all', async (name, spoil, error) => {
    const lease = await begin(6);
    const body = openSource();
    const stop = new AbortController();
    let calls = 0;
    const receiving = receive(over(openSink().open), lease, body.source, {
      stop: stop.signal,
      verify() {
        calls++;
        throw WRONG;
      },
    });
    await body.opened;
    body.give('abc');
    spoil(body, stop);
    await expect(receiving).rejects.toMatchObject(error);
    expect(calls).toBe(name === 'is wrong' ? 1 : 0);
    expect(lease.upload.offset).toBe(0);
    expect(await offsetOf(lease)).toBe(0);
  });

  test('of a complete upload is verified, too', async () => {
    const lease = await begin(0);
    const body = openSource();
    const verify = () => Promise.reject(WRONG);
    const receiving = receive(over(openSink().open), lease, body.source, { verify });
    await body.opened;
    body.close();
    await expect(receiving).rejects.toBe(WRONG);
  });
});

test('a quota cuts a body after the last byte that has room', async () => {
  const [limited] = await ledger.query(
    `INSERT INTO users (id, email, role, max_bytes) VALUES (gen_random_uuid(), 'limited@example.org', 'user', 5) RETURNING id`,
  );
  const lease = await begin(null);
  await ledger.query('UPDATE uploads SET owner_id = $2 WHERE id = $1', [lease.id, limited.id]);
  await ledger.query('UPDATE users SET used_files = used_files - 1 WHERE id = $1', [ledger.ownerId]);
  await ledger.query('UPDATE users SET used_files = used_files + 1 WHERE id = $1', [limited.id]);
  lease.upload.ownerId = limited.id;
  const { body, sink, receiving } = await receiveInto(lease);
  await body.give('abc');
  await body.give('def');
  await expect(receiving).rejects.toMatchObject({ code: 'quota_exceeded' });
  expect(sink.taken).toEqual(['abc', 'de']);
  expect(await offsetOf(lease)).toBe(5);
});

test('a request that has lost its lease learns whether the upload goes on', async () => {
  for (const [ends, outcome] of [
    [false, LeaseLost],
    [true, UploadEnded],
  ] as const) {
    const lease = await begin(6, 2);
    if (ends) await terminateUpload(ledger, lease.id);
    const { body, receiving } = await receiveInto(lease);
    body.give('abc');
    body.close();
    await expect(receiving).rejects.toThrow(outcome);
  }
});

test('an upload whose bytes the store has lost expires', async () => {
  const lease = await begin(6);
  const lost = new BytesLost('Gone');
  const deps = over(() => Promise.reject(lost));
  await expect(receive(deps, lease, openSource().source)).rejects.toBe(lost);
  expect(await ledger.row(lease.id)).toMatchObject({ status: 'expired' });
});
