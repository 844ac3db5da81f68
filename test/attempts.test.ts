import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import type { File } from '../core/database/entities/file.js';
import { type Listener, openListener } from '../core/database/listen.js';
import { openEstimates } from '../core/files/estimates.js';
import { getFile } from '../core/files/queries.js';
import { changeByUser } from '../core/files/status.js';
import { answerStep } from '../core/files/steps.js';
import { createLogger } from '../core/log.js';
import { type Parsers, startParsers } from '../core/media/parsers.js';
import { createMetrics } from '../core/metrics/metrics.js';
import { openQueue, type ProcessingQueue, type QueuePlace } from '../core/queue/queue.js';
import { type ProcessingWorker, startWorker } from '../core/queue/worker.js';
import { simulatedScanner } from '../core/scanning/simulated.js';
import { watchDiskRoom } from '../core/storage/disk-room.js';
import { terminateUpload } from '../core/uploads/end.js';
import { type Dependencies, watchDependencies } from '../worker/dependencies.js';
import { stopEndedRuns } from '../worker/ended-runs.js';
import { processFile } from '../worker/pipeline.js';
import { createScanStep } from '../worker/steps/scan.js';
import type { Step, StepContext } from '../worker/steps/step.js';
import { createVerifyStep } from '../worker/steps/verify.js';
import { openWorkFolders, type WorkFolders } from '../worker/work-folders.js';
import { parts } from './support/bytes.js';
import { appendToUpload, finishUpload, openLedger, type TestLedger } from './support/ledger.js';
import { startRedis } from './support/redis.js';
import { until } from './support/until.js';

/*
 * Attempts that end before their work is done: a step whose answer comes later, and a file that is deleted, canceled or
 * paused. The worker runs in this process with one slot and a step of the test; parser processes have parsers.test.ts.
 */

const log = createLogger('silent', 'test');
const ATTEMPTS = 2;

/** A second, and what a busy machine needs to process the next file. A step that hangs would not end for an hour. */
const SOON_MS = 20_000;

let ledger: TestLedger;
let listener: Listener;
let dependencies: Dependencies;
let parsers: Parsers;
let workFolders: WorkFolders;

beforeAll(async () => {
  ledger = await openLedger();
  listener = await openListener(ledger.url, log);
  const { database, storage } = ledger;
  dependencies = watchDependencies({ database, storage, log, onAway() {}, onBack() {} });
  // No step of these tests works in a folder.
  workFolders = await openWorkFolders(join(tmpdir(), 'landfall-attempts'), {
    room: watchDiskRoom(tmpdir(), 0, log),
    storage,
    owner: undefined,
  });
  parsers = startParsers({ count: 0, timeoutSeconds: 60, maxImagePixels: 1, memory: 1024 ** 2, log });
});
afterAll(async () => {
  dependencies?.stop();
  parsers?.close();
  await listener?.close();
  await ledger?.close();
});

/** A file that is pending, and its job. */
async function createFile(): Promise<string> {
  const upload = await ledger.create(3);
  await appendToUpload(ledger, upload, 1, parts('abc'));
  await finishUpload(ledger, upload.id);
  await queue.add({ fileId: upload.id, run: 1 });
  return upload.id;
}

let place: QueuePlace;
let queue: ProcessingQueue;
let worker: ProcessingWorker | undefined;
let stopWatching = () => {};

async function work(run: Step['run'], optional = false): Promise<void> {
  const step: Step = { name: 'ask', optional, run };
  const steps = {
    reading: [createVerifyStep(), createScanStep({ scanner: simulatedScanner, oversize: 'fail' })],
    decoding: [step],
  };
  const { database, storage } = ledger;
  const estimates = openEstimates(database, log, []);
  const metrics = createMetrics(log);
  worker = startWorker({
    ...place,
    concurrency: 1,
    log,
    handle: (job) =>
      processFile(
        { database, storage, dependencies, parsers, workFolders, steps, estimates, metrics, log },
        job,
      ),
  });
  stopWatching = await stopEndedRuns({ database, listener, worker, log });
}

const read = (id: string) => getFile(ledger.database, id);

async function untilFile(id: string, wanted: (file: File) => boolean): Promise<File> {
  return until('the file to come so far', async () => {
    const file = await read(id);
    return wanted(file) && file;
  });
}

const settled = (id: string) => untilFile(id, ({ status }) => !['pending', 'processing'].includes(status));
const isWaiting = ({ steps }: File) => steps.ask?.state === 'waiting';
const DONE = { outcome: 'done', facts: {} } as const;
const later = async (expectAnswer: StepContext['expectAnswer'], deadline: Date) => {
  await expectAnswer(deadline);
  return { outcome: 'later' } as const;
};
const inAnHour = () => new Date(Date.now() + 3_600_000);

describe.each(['PostgreSQL', 'Redis'])('with the queue in %s', (kind) => {
  let closeRedis: (() => Promise<void>) | undefined;

  beforeAll(async () => {
    const redis = kind === 'Redis' ? await startRedis() : undefined;
    closeRedis = redis?.close;
    place = { databaseUrl: ledger.url, redisUrl: redis?.url };
    queue = openQueue({ ...place, attempts: ATTEMPTS, backoffMs: 20, log });
    await until('the queue to answer', () => queue.reachable);
  });
  afterEach(async () => {
    stopWatching();
    await worker?.close();
  });
  afterAll(async () => {
    await queue?.close();
    await closeRedis?.();
  });

  describe('a step that an outside service answers', () => {
    test('takes no slot and no attempt while it waits, and goes on when the answer is there', async () => {
      const asked: string[] = [];
      await work(async ({ file, expectAnswer }) => {
        asked.push(file.id);
        return file.id === first ? later(expectAnswer, inAnHour()) : DONE;
      });
      const first = await createFile();
      expect(await untilFile(first, isWaiting)).toMatchObject({
        status: 'processing',
        step: 'ask',
        etaSeconds: null,
        steps: { verify: { state: 'done' }, scan: { state: 'done' } },
      });
      // There is one slot, and the next file gets it.
      const second = await createFile();
      expect(await settled(second)).toMatchObject({ status: 'completed' });
      expect(await read(first)).toMatchObject({ status: 'processing', countedAttempts: 1 });

      const facts = { metadata: { answer: 42 } };
      const run = await answerStep(ledger.database, first, {
        step: 'ask',
        record: { state: 'done', ms: 7 },
        facts,
      });
      expect(run).toEqual({ fileId: first, run: 1 });
      if (run) await queue.wake(run);
      expect(await settled(first)).toMatchObject({
        status: 'completed',
        countedAttempts: 1,
        steps: { ask: { state: 'done', ms: 7 } },
        metadata: facts.metadata,
      });
      expect(asked).toEqual([first, second]);
    });

    test('may be answered before it has returned', async () => {
      await work(async ({ file, expectAnswer }) => {
        await expectAnswer(inAnHour());
        const result = { step: 'ask', record: { state: 'done', ms: 7 } as const, facts: {} };
        const run = await answerStep(ledger.database, file.id, result);
        if (run) setImmediate(() => void queue.wake(run));
        return { outcome: 'later' };
      });
      expect(await settled(await createFile())).toMatchObject({
        status: 'completed',
        countedAttempts: 1,
        steps: { ask: { state: 'done', ms: 7 } },
      });
    });

    test('fails if it has named no deadline', async () => {
      await work(async () => ({ outcome: 'later' }));
      expect(await settled(await createFile())).toMatchObject({
        status: 'failed',
        error: { code: 'internal' },
      });
    });

    test('waits on when its job comes before the deadline, and is not asked again', async () => {
      let asked = 0;
      await work(async ({ expectAnswer }) => {
        asked++;
        return later(expectAnswer, inAnHour());
      });
      const id = await createFile();
      const { attempts } = await untilFile(id, isWaiting);
      await until('its job to wait', async () => {
        await queue.wake({ fileId: id, run: 1 });
        return (await read(id)).attempts > attempts;
      });
      expect(await read(id)).toMatchObject({ status: 'processing', countedAttempts: 1 });
      expect(isWaiting(await read(id))).toBe(true);
      expect(asked).toBe(1);
      await changeByUser(ledger.database, id, 'cancel', {});
    });

    test('is asked again when there was no answer at the deadline', async () => {
      let asked = 0;
      await work(async ({ expectAnswer }) => {
        asked++;
        return asked === 1 ? later(expectAnswer, new Date(Date.now() + 50)) : DONE;
      });
      const id = await createFile();
      expect(await settled(id)).toMatchObject({
        status: 'completed',
        countedAttempts: 2,
        steps: { ask: { state: 'done' } },
      });
      expect(asked).toBe(2);
    });

    test.each([
      [false, 'failed'],
      [true, 'completed'],
    ])('that never comes (optional: %s) leaves a file that is %s', async (optional, status) => {
      await work(({ expectAnswer }) => later(expectAnswer, new Date(Date.now() + 50)), optional);
      const id = await createFile();
      const file = await settled(id);
      const problem = { step: 'ask', code: 'took_too_long' };
      expect(file).toMatchObject({ status, countedAttempts: ATTEMPTS });
      expect(optional ? file.warnings : [file.error]).toMatchObject([problem]);
      expect(file.steps.ask?.state).toBe(optional ? 'failed' : undefined);
    });
  });

  describe('the attempt of a file that was', () => {
    /** A step that does not end by itself; `ended` counts those that heard the signal. */
    const hang = (heeds: boolean) => {
      const hanging = { begun: 0, ended: 0 };
      const run: Step['run'] = async ({ file, signal }) => {
        if (file.id !== slow) return DONE;
        hanging.begun++;
        signal.addEventListener('abort', () => hanging.ended++);
        await pause(3_600_000, undefined, { ref: false, ...(heeds ? { signal } : {}) });
        return DONE;
      };
      return { hanging, run };
    };
    let slow: string;

    const END = {
      deleted: (id: string) => terminateUpload(ledger, id),
      canceled: (id: string) => changeByUser(ledger.database, id, 'cancel', {}),
      paused: (id: string) => changeByUser(ledger.database, id, 'pause', {}),
    };

    test.each([
      ['deleted', true],
      ['canceled', true],
      ['paused', true],
      ['deleted', false],
    ] as const)(
      '%s is told to stop, and its slot is free within a second (it heeds the signal: %s)',
      async (how, heeds) => {
        const { hanging, run } = hang(heeds);
        await work(run);
        slow = await createFile();
        await until('it to run', () => hanging.begun);
        const next = await createFile();
        const ended = END[how](slow).then(() => Date.now());
        const { completedAt } = await settled(next);
        expect(Number(completedAt) - (await ended)).toBeLessThan(SOON_MS);
        expect(hanging).toEqual({ begun: 1, ended: 1 });
        if (how === 'deleted') return;
        expect(await read(slow)).toMatchObject({ status: how, error: null });
        // It can go on: the queue has the job of the first run as completed.
        expect(await queue.getState({ fileId: slow, run: 1 })).toBe('completed');
        const id = slow;
        slow = '';
        const { run: second } = await changeByUser(
          ledger.database,
          id,
          how === 'paused' ? 'resume' : 'retry',
          {},
        );
        await queue.add({ fileId: id, run: second });
        expect(await settled(id)).toMatchObject({ status: 'completed', countedAttempts: 1 });
      },
    );

    test('given a newer run is stopped although no notification came', async () => {
      const { hanging, run } = hang(true);
      await work(run);
      slow = await createFile();
      await until('it to run', () => hanging.begun);
      await ledger.query('UPDATE files SET run = run + 1 WHERE id = $1', [slow]);
      await until('it to be told', () => hanging.ended);
    });
  });
});
