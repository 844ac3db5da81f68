import { mkdir, rename, rm, truncate } from 'node:fs/promises';
import { dirname } from 'node:path';
import { v7 as uuidv7 } from 'uuid';
import type { FileStatus } from '../core/database/entities/file.js';
import type { Upload } from '../core/database/entities/upload.js';
import { appendEvents } from '../core/events/append.js';
import { sequenceEvents } from '../core/events/sequence.js';
import { AttemptOver } from '../core/files/attempt.js';
import {
  canChange,
  changeByUser,
  completeFile,
  type FileAction,
  failFile,
  infectFile,
  startAttempt,
} from '../core/files/status.js';
import {
  answerStep,
  recordAttemptError,
  recordSteps,
  recordWaiting,
  showProgress,
} from '../core/files/steps.js';
import { isStoreAway, type Storage } from '../core/storage/storage.js';
import { discardUploads, listUnfinishedComplete } from '../core/uploads/discard.js';
import { terminateUpload } from '../core/uploads/end.js';
import { expireUploads } from '../core/uploads/expire.js';
import { parts } from './support/bytes.js';
import { letRetry } from './support/deletions.js';
import { freeLease, letLeaseRunOut } from './support/leases.js';
import {
  appendToUpload,
  assembleUpload,
  declareUploadLength,
  finishUpload,
  openLedger,
  type TestLedger,
} from './support/ledger.js';
import { until } from './support/until.js';
import { makeDue } from './support/uploads.js';

let ledger: TestLedger;

beforeAll(async () => {
  ledger = await openLedger();
});

// Triggers refuse changes to events. The owner of the table can disable them, as the tests do here.
beforeEach(() =>
  ledger.query(`
    ALTER TABLE events DISABLE TRIGGER USER;
    TRUNCATE events, event_inbox, files, file_deliveries, derivatives, variants, blobs, upload_parts, uploads;
    ALTER TABLE events ENABLE TRIGGER USER;
    UPDATE event_head SET seq = 0, hash = sha256('landfall');
    UPDATE users SET used_bytes = 0, used_files = 0;
  `),
);

afterAll(() => ledger?.close());

const EPOCH = 1;

/** Creates an upload that has all its bytes. */
async function createComplete(content = 'abc'): Promise<string> {
  const upload = await ledger.create(content.length);
  await appendToUpload(ledger, upload, EPOCH, parts(content));
  return upload.id;
}

async function createFile() {
  return finishUpload(ledger, await createComplete());
}

const eventsOf = async (id: string): Promise<string[]> =>
  (await ledger.query('SELECT type FROM all_events WHERE subject_id = $1 ORDER BY id', [id])).map(
    ({ type }) => type,
  );

describe('appending', () => {
  test.each<[string, (path: string) => Promise<void>]>([
    ['gone', (path) => rm(path)],
    ['cut short', (path) => truncate(path, 2)],
  ])('to an upload whose bytes are %s fails with size_mismatch and ends the upload', async (_how, lose) => {
    const upload = await ledger.create(6);
    const begun = await appendToUpload(ledger, upload, EPOCH, parts('abc'));
    await lose(ledger.pathOf(upload.storageKey));
    const before = await ledger.stored();
    await expect(appendToUpload(ledger, begun, EPOCH, parts('def'))).rejects.toMatchObject({
      code: 'size_mismatch',
    });
    expect(await ledger.row(upload.id)).toMatchObject({ status: 'expired', offset: '3' });
    expect(await ledger.stored()).toEqual(before);
    expect(await eventsOf(upload.id)).toEqual(['upload.created', 'upload.expired']);
  });

  test.each([
    ['is away', async () => {}],
    // As an unmounted disk leaves it.
    ['is empty and has no marker', (folder: string) => mkdir(folder)],
  ])('does not take bytes for lost while the folder %s', async (_how, replace) => {
    const upload = await ledger.create(6);
    const begun = await appendToUpload(ledger, upload, EPOCH, parts('abc'));
    const folder = dirname(dirname(ledger.pathOf(upload.storageKey)));
    await rename(folder, `${folder}.away`);
    await replace(folder);
    for (const [some, text] of [
      [begun, 'def'],
      [await ledger.create(3), 'abc'],
    ] as const) {
      await expect(appendToUpload(ledger, some, EPOCH, parts(text))).rejects.toMatchObject({
        code: 'unavailable',
      });
    }
    const whole = { key: upload.storageKey, offset: 3, length: 3, state: null };
    const { blobs, uploads } = ledger.storage;
    for (const call of [
      uploads.complete(whole, []),
      uploads.discard(whole, null),
      blobs.delete(upload.storageKey),
    ]) {
      expect(isStoreAway(await call.catch((error: unknown) => error))).toBe(true);
    }
    await rm(folder, { recursive: true, force: true });
    await rename(`${folder}.away`, folder);
    expect((await appendToUpload(ledger, begun, EPOCH, parts('def'))).offset).toBe(6);
    expect(await ledger.stored()).toContain('abcdef');
  });

  test('moves the offset and the expiry on', async () => {
    const upload = await ledger.create(6);
    await ledger.query('UPDATE uploads SET expires_at = now()');
    expect((await appendToUpload(ledger, upload, EPOCH, parts('a', 'bc'))).offset).toBe(3);
    const row = await ledger.row(upload.id);
    expect(Number(row.offset)).toBe(3);
    expect(row.expires_at.getTime()).toBeGreaterThan(Date.now() + 23 * 3_600_000);
    expect((await appendToUpload(ledger, { ...upload, offset: 3 }, EPOCH, parts('def'))).offset).toBe(6);
    expect(await ledger.stored()).toContain('abcdef');
  });

  test('keeps the bytes that came before the source failed', async () => {
    const upload = await ledger.create(6);
    async function* broken() {
      yield* parts('abcd');
      throw new Error('connection lost');
    }
    await expect(appendToUpload(ledger, upload, EPOCH, broken())).rejects.toThrow('connection lost');
    expect(Number((await ledger.row(upload.id)).offset)).toBe(4);
    expect((await appendToUpload(ledger, { ...upload, offset: 4 }, EPOCH, parts('ef'))).offset).toBe(6);
    await finishUpload(ledger, upload.id);
    expect(await ledger.stored()).toContain('abcdef');
  });

  test('at an old offset or with a wrong epoch is refused, and the offset never goes back', async () => {
    const upload = await ledger.create(6);
    await appendToUpload(ledger, upload, EPOCH, parts('abcd'));
    // This append began before the bytes above came.
    await expect(appendToUpload(ledger, upload, EPOCH, parts('xy'))).rejects.toMatchObject({
      code: 'locked',
    });
    await expect(appendToUpload(ledger, upload, EPOCH + 1, parts('abcdef'))).rejects.toMatchObject({
      code: 'locked',
    });
    expect(Number((await ledger.row(upload.id)).offset)).toBe(4);
  });

  test('to an upload that has ended is refused', async () => {
    const terminated = await ledger.create(6);
    await terminateUpload(ledger, terminated.id);
    const finished = await ledger.create(3);
    await appendToUpload(ledger, finished, EPOCH, parts('abc'));
    await finishUpload(ledger, finished.id);
    for (const [upload, code] of [
      [terminated, 'gone'],
      [finished, 'locked'],
    ] as const) {
      for (const epoch of [EPOCH, EPOCH + 1]) {
        await expect(appendToUpload(ledger, upload, epoch, parts('abc'))).rejects.toMatchObject({ code });
      }
      await expect(declareUploadLength(ledger, upload, EPOCH, 9)).rejects.toMatchObject({ code: 'locked' });
    }
  });

  test('cannot change a length that is declared', async () => {
    const upload = await ledger.create(null);
    const declared = await declareUploadLength(ledger, upload, EPOCH, 6);
    expect(declared).toMatchObject({ id: upload.id, length: 6, reservedBytes: 6 });
    await expect(declareUploadLength(ledger, upload, EPOCH, 7)).rejects.toMatchObject({ code: 'locked' });
    expect(Number((await ledger.row(upload.id)).length)).toBe(6);
  });
});

describe('finishing', () => {
  test('makes one file and one event, however many requests finish the upload at once', async () => {
    const id = await createComplete();
    const files = await Promise.all(Array.from({ length: 8 }, () => finishUpload(ledger, id)));
    files.push(await finishUpload(ledger, id));
    expect(new Set(files.map((file) => `${file.id} ${file.run} ${file.blobId}`)).size).toBe(1);
    expect(await eventsOf(id)).toEqual(['upload.created', 'file.created']);
    expect(await ledger.query('SELECT size, refs FROM blobs')).toEqual([{ size: '3', refs: 1 }]);
    expect(await ledger.row(id)).toMatchObject({ status: 'finished', finished_at: expect.any(Date) });
  });

  test('needs all the bytes, and an upload that has not ended', async () => {
    const incomplete = await ledger.create(6);
    await appendToUpload(ledger, incomplete, EPOCH, parts('abc'));
    const unknownLength = await ledger.create(null);
    const terminated = await createComplete();
    await terminateUpload(ledger, terminated);
    const codes = [
      [incomplete.id, 'wrong_state'],
      [unknownLength.id, 'wrong_state'],
      [terminated, 'gone'],
      [uuidv7(), 'not_found'],
    ] as const;
    for (const [id, code] of codes) await expect(finishUpload(ledger, id)).rejects.toMatchObject({ code });
    expect(await ledger.query('SELECT id FROM files')).toEqual([]);
  });

  test('cuts off bytes beyond the last offset', async () => {
    const upload = await ledger.create(null);
    await appendToUpload(ledger, upload, EPOCH, parts('abcdef'));
    // This is the row of a process that died before it could commit the last three bytes.
    await ledger.query(`UPDATE uploads SET "offset" = 3, length = 3 WHERE id = $1`, [upload.id]);
    await expect(finishUpload(ledger, upload.id)).rejects.toMatchObject({ code: 'wrong_state' });
    await assembleUpload(ledger, { ...upload, offset: 3, length: 3 }, EPOCH);
    expect((await finishUpload(ledger, upload.id)).size).toBe(3);
    expect(await ledger.stored()).toContain('abc');
  });

  test('is left to the reconciler once the lease has run out, and not before', async () => {
    const id = await createComplete();
    expect(await listUnfinishedComplete(ledger.database)).toEqual([]);
    await letLeaseRunOut(ledger);
    expect(await listUnfinishedComplete(ledger.database)).toEqual([id]);
    await finishUpload(ledger, id);
    expect(await listUnfinishedComplete(ledger.database)).toEqual([]);
  });
});

describe('terminating', () => {
  test('at the same time as finishing leaves nothing behind', async () => {
    for (let round = 0; round < 10; round++) {
      const id = await createComplete(`round ${round}`);
      const [, terminated] = await Promise.allSettled([
        finishUpload(ledger, id),
        terminateUpload(ledger, id),
      ]);
      expect(terminated.status).toBe('fulfilled');
      await expect(finishUpload(ledger, id)).rejects.toMatchObject({ code: 'gone' });
      expect(await ledger.row(id)).toMatchObject({
        status: 'terminated',
        lease_holder: null,
        discarded_at: expect.any(Date),
      });
      expect(await ledger.stored()).not.toContain(`round ${round}`);
    }
    expect(await ledger.query('SELECT id FROM files')).toEqual([]);
    expect(await ledger.query('SELECT id FROM blobs')).toEqual([]);
  });

  test('waits for a worker that is changing the file, and the worker does not wait for it', async () => {
    const id = await createComplete();
    await finishUpload(ledger, id);
    const worker = ledger.database.createQueryRunner();
    await worker.startTransaction();
    await worker.query('UPDATE files SET attempts = attempts + 1 WHERE id = $1', [id]);
    const [{ pid }] = await worker.query('SELECT pg_backend_pid() AS pid');
    const terminated = terminateUpload(ledger, id);
    await until('the termination to wait', async () => {
      const waiting = await ledger.query(
        `SELECT FROM pg_stat_activity WHERE datname = current_database() AND $1 = ANY (pg_blocking_pids(pid))`,
        [pid],
      );
      return waiting.length > 0;
    });
    await worker.query('UPDATE files SET progress = 50 WHERE id = $1', [id]);
    await worker.commitTransaction();
    await worker.release();
    await terminated;
    expect(await ledger.query('SELECT id FROM files')).toEqual([]);
  });

  test('succeeds once when two requests ask for it', async () => {
    const { id } = await ledger.create(6);
    const outcomes = await Promise.allSettled([terminateUpload(ledger, id), terminateUpload(ledger, id)]);
    expect(outcomes.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
    expect(await eventsOf(id)).toEqual(['upload.created', 'upload.terminated']);
  });

  test.each([
    [
      'before its object is made',
      (end: () => Promise<void>, make: () => Promise<unknown>) => end().then(make),
    ],
    [
      'when its object was just made',
      async (end: () => Promise<void>, make: () => Promise<unknown>) => {
        const made = await make();
        await end();
        return made;
      },
    ],
  ])(
    'an upload that another process completes, %s, is followed by a second look at the store',
    async (_when, inOrder) => {
      const created = await ledger.create(null);
      await appendToUpload(ledger, created, EPOCH, parts('doomed'));
      const upload = await declareUploadLength(ledger, created, EPOCH, 6);
      const { uploads } = ledger.storage;
      const complete = ((...made) =>
        inOrder(
          () => terminateUpload(ledger, upload.id),
          () => uploads.complete(...made),
        )) as typeof uploads.complete;
      const late = { ...ledger, storage: { ...ledger.storage, uploads: { ...uploads, complete } } };
      await expect(assembleUpload(late, upload, EPOCH)).rejects.toThrow();
      expect(await ledger.row(upload.id)).toMatchObject({ untidy: true, discarded_at: null });
      expect(await discardUploads(ledger)).toBe(1);
      expect(await ledger.row(upload.id)).toMatchObject({ untidy: false, discarded_at: expect.any(Date) });
      expect(await ledger.stored()).not.toContain('doomed');
    },
  );

  test('the next look finds bytes that arrived while the store was being put in order', async () => {
    const upload = await ledger.create(null);
    await appendToUpload(ledger, upload, EPOCH, parts('doomed'));
    const { uploads } = ledger.storage;
    const discard: typeof uploads.discard = async (...all) => {
      await uploads.discard(...all);
      await expect(appendToUpload(ledger, upload, EPOCH, parts('late'))).rejects.toMatchObject({
        code: 'gone',
      });
    };
    const slow = { ...ledger, storage: { ...ledger.storage, uploads: { ...uploads, discard } } };
    for (const _time of ['nobody knew of it', 'somebody did']) {
      await terminateUpload(slow, upload.id).catch(() => discardUploads(slow, [upload.id]));
      expect(await ledger.row(upload.id)).toMatchObject({ untidy: true, discarded_at: null });
    }
    expect(await discardUploads(ledger)).toBe(1);
    expect(await ledger.row(upload.id)).toMatchObject({ untidy: false, discarded_at: expect.any(Date) });
    expect((await ledger.stored()).filter((text) => /doomed|late/.test(text))).toEqual([]);
  });

  test('succeeds though the store does not delete the bytes; they are deleted later', async () => {
    const upload = await ledger.create(6);
    await appendToUpload(ledger, upload, EPOCH, parts('doomed'));
    const broken = {
      ...ledger,
      storage: {
        ...ledger.storage,
        uploads: { ...ledger.storage.uploads, discard: () => Promise.reject(new Error('died')) },
      },
    };
    await terminateUpload(broken, upload.id);
    expect(await ledger.row(upload.id)).toMatchObject({ status: 'terminated', discarded_at: null });
    expect(await ledger.stored()).toContain('doomed');
    await letRetry(ledger);
    expect(await discardUploads(ledger)).toBe(1);
    expect(await discardUploads(ledger)).toBe(0);
    expect(await ledger.stored()).not.toContain('doomed');
  });

  test('deletes the other uploads in the store when some cannot be deleted there', async () => {
    const all: Upload[] = [];
    for (let i = 0; i < 8; i++) all.push(await ledger.create(6));
    const stuck = all.slice(0, 4).map(({ storageKey }) => storageKey);
    const discard: Storage['uploads']['discard'] = async (upload, keep) => {
      if (stuck.includes(upload.key)) throw new Error('locked');
      await ledger.storage.uploads.discard(upload, keep);
    };
    const uploads = { ...ledger.storage.uploads, discard };
    const deps = { ...ledger, storage: { ...ledger.storage, uploads } };
    for (const { id } of all) await terminateUpload(deps, id);
    await ledger.query('UPDATE uploads SET discarded_at = NULL, retry_at = NULL');
    const left = async () => (await ledger.query('SELECT FROM uploads WHERE discarded_at IS NULL')).length;
    await expect(discardUploads(deps)).rejects.toThrow('locked');
    expect(await left()).toBe(stuck.length);
    // The others are put off, and tried again when their retry is due.
    expect(await discardUploads(deps)).toBe(0);
    await letRetry(ledger);
    await expect(discardUploads(deps)).rejects.toThrow('locked');
    await letRetry(ledger);
    expect(await discardUploads(ledger)).toBe(stuck.length);
    expect(await left()).toBe(0);
  });
});

test('only incomplete uploads whose lease is free expire', async () => {
  const complete = await createComplete();
  const finished = (await createFile()).id;
  const fresh = (await ledger.create(6)).id;
  const written = (await ledger.create(6)).id;
  const old = (await ledger.create(6)).id;
  const oldUnknown = (await ledger.create(null)).id;
  for (const id of [complete, finished, fresh, old, oldUnknown]) await freeLease(ledger, id);
  for (const id of [complete, finished, written, old, oldUnknown]) await makeDue(ledger, id);

  expect(await expireUploads(ledger.database)).toBe(2);
  expect(await expireUploads(ledger.database)).toBe(0);
  const statuses = await Promise.all(
    [complete, finished, fresh, written, old, oldUnknown].map(async (id) => (await ledger.row(id)).status),
  );
  expect(statuses).toEqual(['uploading', 'finished', 'uploading', 'uploading', 'expired', 'expired']);
  expect(await eventsOf(old)).toEqual(['upload.created', 'upload.expired']);
});

describe('state machine of files', () => {
  const STATUSES: FileStatus[] = [
    'pending',
    'processing',
    'completed',
    'failed',
    'infected',
    'paused',
    'canceled',
  ];

  test.each<[FileStatus, FileStatus[]]>([
    ['pending', ['processing', 'failed', 'infected', 'paused', 'canceled']],
    ['processing', ['completed', 'failed', 'infected', 'pending', 'paused', 'canceled']],
    ['completed', ['pending', 'infected']],
    ['failed', ['pending', 'infected']],
    ['infected', ['pending']],
    ['paused', ['pending', 'infected', 'canceled']],
    ['canceled', ['pending', 'infected']],
  ])('%s may become %j and nothing else', (from, allowed) => {
    expect(STATUSES.filter((to) => canChange(from, to)).sort()).toEqual([...allowed].sort());
  });

  const problem = { step: 'scan', code: 'infected', detail: 'found' };
  const start = (fileId: string, run = 1) =>
    startAttempt(ledger.database, { fileId, run, attempt: 1 }, 'verify');

  test('a file that was clean is not clean any more when a later run finds a threat', async () => {
    const { id } = await createFile();
    const attempt = (await start(id))?.file;
    if (!attempt) throw new Error('no attempt');
    const found = { state: 'done', ms: 1 } as const;
    await recordSteps(
      ledger.database,
      attempt,
      [{ step: 'scan', record: found, facts: { clean: true } }],
      next,
    );
    await completeFile(ledger.database, attempt);
    expect(await changeByUser(ledger.database, id, 'process', actor)).toMatchObject({ clean: true });
    const again = (await start(id, 2))?.file;
    if (!again) throw new Error('no attempt');
    await infectFile(ledger.database, again, { error: problem }, found);
    expect(await ledger.query('SELECT status, clean FROM files WHERE id = $1', [id])).toEqual([
      { status: 'infected', clean: false },
    ]);
  });

  test('a wrong transition changes no row and makes no event', async () => {
    const file = await createFile();
    const { database } = ledger;
    await expect(completeFile(database, file)).rejects.toThrow(AttemptOver);
    await expect(infectFile(database, file, { error: problem }, { state: 'done', ms: 1 })).rejects.toThrow(
      AttemptOver,
    );
    const stalled = { ...file, ...(await start(file.id))?.file };
    const taken = { ...file, ...(await start(file.id))?.file };
    expect([stalled, taken]).toMatchObject([
      { status: 'processing', attempts: 1 },
      { status: 'processing', attempts: 2 },
    ]);

    await expect(completeFile(database, stalled)).rejects.toThrow(AttemptOver);
    await expect(completeFile(database, { ...taken, run: 2 })).rejects.toThrow(AttemptOver);
    expect(await start(file.id, 2)).toBeUndefined();
    const both = await Promise.allSettled([completeFile(database, taken), completeFile(database, taken)]);
    expect(both.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
    await expect(failFile(database, taken, problem)).rejects.toThrow(AttemptOver);
    expect(await start(file.id)).toBeUndefined();
    await expect(completeFile(database, { ...file, id: uuidv7() })).rejects.toThrow(AttemptOver);

    expect(await eventsOf(file.id)).toEqual([
      'upload.created',
      'file.created',
      'file.processing',
      'file.completed',
    ]);
    expect(await ledger.query('SELECT status, progress, error FROM files')).toEqual([
      { status: 'completed', progress: 100, error: null },
    ]);
  });

  const record = { state: 'done', ms: 1 } as const;
  const next = { step: 'scan', progress: 50, etaSeconds: 1 };
  const actor = { userId: uuidv7() };

  test.each([
    ['paused', 'pause', 'resume'],
    ['canceled', 'cancel', 'retry'],
  ] as const)('an attempt writes nothing after its file was %s', async (to, end, goOn) => {
    const { id } = await createFile();
    const { database } = ledger;
    const attempt = (await start(id))?.file;
    if (!attempt) throw new Error('no attempt');
    expect(await changeByUser(database, id, end, actor)).toMatchObject({ status: to, run: 1 });
    const before = await ledger.query('SELECT * FROM files');

    const results = [{ step: 'verify', record, facts: { sha256: 'ab', clean: true } }];
    for (const write of [
      showProgress(database, attempt, next),
      recordSteps(database, attempt, results, next),
      completeFile(database, attempt),
      infectFile(database, attempt, { error: problem }, record),
      failFile(database, attempt, problem),
    ]) {
      await expect(write).rejects.toThrow(AttemptOver);
    }
    await recordAttemptError(database, attempt, problem);
    expect(await start(id)).toBeUndefined();
    expect(await ledger.query('SELECT * FROM files')).toEqual(before);

    // The next run goes on where this one ended; the attempt of the old run still writes nothing.
    expect(await changeByUser(database, id, goOn, actor)).toMatchObject({ status: 'pending', run: 2 });
    const second = (await start(id, 2))?.file;
    expect(second).toMatchObject({ status: 'processing', run: 2, attempts: 1 });
    await expect(completeFile(database, attempt)).rejects.toThrow(AttemptOver);
    if (second) await completeFile(database, second);
    expect(await eventsOf(id)).toEqual([
      'upload.created',
      'file.created',
      'file.processing',
      `file.${to}`,
      'file.pending',
      'file.processing',
      'file.completed',
    ]);
  });

  test.each<[FileAction, FileStatus, FileStatus[]]>([
    ['pause', 'paused', ['pending', 'processing']],
    ['cancel', 'canceled', ['pending', 'processing', 'paused']],
    ['resume', 'pending', ['paused']],
    ['retry', 'pending', ['failed', 'canceled']],
    ['process', 'pending', ['completed', 'failed', 'infected', 'canceled']],
  ])('a user may %s a file, which becomes %s, only if it is %j', async (action, to, allowed) => {
    const { id } = await createFile();
    for (const from of STATUSES) {
      await ledger.query('UPDATE files SET status = $1', [from]);
      const change = changeByUser(ledger.database, id, action, actor);
      if (allowed.includes(from)) {
        expect(await change).toMatchObject({ status: to });
        expect(canChange(from, to)).toBe(true);
      } else await expect(change).rejects.toMatchObject({ code: 'wrong_state' });
    }
    await expect(changeByUser(ledger.database, uuidv7(), action, actor)).rejects.toMatchObject({
      code: 'not_found',
    });
  });

  test('an answer is recorded only for a step that waits, and a new run asks again', async () => {
    const { id } = await createFile();
    const { database } = ledger;
    const attempt = (await start(id))?.file;
    if (!attempt) throw new Error('no attempt');
    const answer = { step: 'ask', record, facts: { metadata: { answer: 42 } } };
    const until = new Date('2100-01-01T00:00:00Z');
    const results = [{ step: 'verify', record, facts: {} }];
    expect(await answerStep(database, id, answer)).toBeUndefined();
    await recordSteps(database, attempt, results, next);
    await recordWaiting(database, attempt, 'ask', until);
    await changeByUser(database, id, 'pause', actor);
    expect(await answerStep(database, id, answer)).toBeUndefined();
    const { steps } = await changeByUser(database, id, 'resume', actor);
    expect(steps).toEqual({ verify: record });

    const second = (await start(id, 2))?.file;
    if (!second) throw new Error('no attempt');
    await recordWaiting(database, second, 'ask', until);
    expect(await answerStep(database, id, answer)).toEqual({ fileId: id, run: 2 });
    expect(await answerStep(database, id, answer)).toBeUndefined();
    expect(await ledger.query('SELECT steps, metadata FROM files')).toEqual([
      { steps: { verify: record, ask: record }, metadata: { answer: 42 } },
    ]);
  });

  test('a change and its event are written together or not at all', async () => {
    const file = await createFile();
    await ledger.query(
      `ALTER TABLE event_inbox ADD CONSTRAINT closed CHECK (type <> 'file.failed') NOT VALID`,
    );
    try {
      await expect(failFile(ledger.database, file, problem)).rejects.toThrow('closed');
      expect(await ledger.query('SELECT status FROM files')).toEqual([{ status: 'pending' }]);
    } finally {
      await ledger.query('ALTER TABLE event_inbox DROP CONSTRAINT closed');
    }
  });
});

describe('the sequence of events', () => {
  const subjectId = uuidv7();
  const event = (name: string) => ({
    type: 'file.step' as const,
    subjectId,
    ownerId: null,
    data: { step: name, state: 'done' as const, ms: 0 },
  });
  const inOrder = async () =>
    (await ledger.query(`SELECT seq::integer AS seq, data->>'step' AS name FROM events ORDER BY seq`)).map(
      ({ seq, name }) => [seq, name],
    );

  test('has no gap and loses no event, even if a transaction commits late', async () => {
    const { database } = ledger;
    const late = database.createQueryRunner();
    await late.startTransaction();
    await appendEvents(late.manager, [event('late')]);
    await appendEvents(database.manager, [event('early'), event('early, too')]);
    const undone = database.createQueryRunner();
    await undone.startTransaction();
    await appendEvents(undone.manager, [event('undone')]);
    await undone.rollbackTransaction();
    await undone.release();

    expect(await sequenceEvents(database)).toBe(2);
    await late.commitTransaction();
    await late.release();
    await appendEvents(database.manager, [event('last')]);
    expect(await sequenceEvents(database)).toBe(2);
    expect(await sequenceEvents(database)).toBe(0);
    expect(await inOrder()).toEqual([
      [1, 'early'],
      [2, 'early, too'],
      [3, 'late'],
      [4, 'last'],
    ]);
  });

  test('has no gap or double when many sequencers run at once', async () => {
    const { database } = ledger;
    const writers = Array.from({ length: 20 }, async (_, index) => {
      await database.transaction((manager) => appendEvents(manager, [event(`${index}`), event(`${index}`)]));
      await sequenceEvents(database);
    });
    await Promise.all(writers);
    while ((await sequenceEvents(database)) > 0);
    expect((await inOrder()).map(([seq]) => seq)).toEqual(Array.from({ length: 40 }, (_, i) => i + 1));
  });

  test('takes in all events of the inbox, in batches', async () => {
    const { database } = ledger;
    await appendEvents(
      database.manager,
      Array.from({ length: 2500 }, (_, i) => event(`${i}`)),
    );
    expect(await sequenceEvents(database)).toBe(2500);
    expect(await sequenceEvents(database)).toBe(0);
    expect((await inOrder()).every(([seq, name]) => seq === Number(name) + 1)).toBe(true);
  });
});
