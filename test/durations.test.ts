import { v7 as uuidv7 } from 'uuid';
import { type Duration, type Durations, expectDuration, readDurations } from '../core/files/durations.js';
import { completeFile, startAttempt } from '../core/files/status.js';
import { recordSteps } from '../core/files/steps.js';
import { parts } from './support/bytes.js';
import { appendToUpload, finishUpload, openLedger, type TestLedger } from './support/ledger.js';

/* How long recent files took, and how long another one will take by that. */

const times = (size: number, readMs: number, decodeMs: number, files = 10): Duration => ({
  size,
  readMs,
  decodeMs,
  files,
});

describe('the expected time of a file', () => {
  const durations: Durations = new Map([
    ['image/png', [times(100, 10, 20), times(1000, 20, 120), times(10_000, 30, 220)]],
    ['image/jpeg', [times(100, 1, 2, 4)]],
    ['image/*', [times(100, 7, 8, 14)]],
    ['*/*', [times(1000, 3, 0, 50)]],
  ]);
  const expected = (type: string | null, size: number) => {
    const found = expectDuration(durations, type, size);
    return found && [found.readMs, found.decodeMs, found.types, found.files];
  };

  test.each<[string, string | null, number, (number | string)[] | undefined]>([
    ['of a known size is that of its size', 'image/png', 1000, [20, 120, 'image/png', 30]],
    ['between two sizes lies between them', 'image/png', 550, [15, 70, 'image/png', 30]],
    ['of a smaller one is that of the smallest', 'image/png', 1, [10, 20, 'image/png', 30]],
    ['of an empty one too', 'image/png', 0, [10, 20, 'image/png', 30]],
    ['of a larger one grows with its size', 'image/png', 20_000, [60, 440, 'image/png', 30]],
    ['of a much larger one is not known', 'image/png', 160_001, undefined],
    ['counts under each name of its type', 'IMAGE/X-PNG; a=b', 1000, [20, 120, 'image/png', 30]],
    ['goes by the range if few files of its type are known', 'image/jpeg', 100, [7, 8, 'image/*', 14]],
    ['goes by the range if no file of its type is known', 'image/webp', 100, [7, 8, 'image/*', 14]],
    ['is not known if no file of its range is', 'video/mp4', 100, undefined],
    ['goes by all files if its type is not known', null, 1000, [3, 0, '*/*', 50]],
    ['also if the client says that it does not know', 'application/octet-stream', 9, [3, 0, '*/*', 50]],
  ])('%s', (_name, type, size, result) => {
    expect(expected(type, size)).toEqual(result);
  });

  test('of an image that will be optimised goes by such images, and by others while none are known', () => {
    const more: Durations = new Map([
      ...durations,
      ['image/png; optimized', [times(100, 10, 900)]],
      ['image/jpeg; optimized', [times(100, 10, 70, 2)]],
      ['image/*; optimized', [times(100, 10, 800, 12)]],
    ]);
    const typesOf = (type: string) => [
      expectDuration(more, type, 100, true)?.types,
      expectDuration(more, type, 100)?.types,
      expectDuration(durations, type, 100, true)?.types,
    ];
    expect(typesOf('image/png')).toEqual(['image/png; optimized', 'image/png', 'image/png']);
    expect(typesOf('image/jpeg')).toEqual(['image/*; optimized', 'image/*', 'image/*']);
    expect(expectDuration(more, 'image/png', 100, true)?.decodeMs).toBe(900);
  });

  test('is not known when nothing is known', () => {
    for (const type of [null, '', 'image/png', '*/*', '__proto__']) {
      expect(expectDuration(new Map(), type, 1)).toBeUndefined();
    }
  });

  test('by empty files alone is not known for others', () => {
    expect(expectDuration(new Map([['*/*', [times(0, 1, 0)]]]), null, 1)).toBeUndefined();
    expect(expectDuration(new Map([['*/*', [times(0, 1, 0)]]]), null, 0)?.readMs).toBe(1);
  });
});

describe('the recorded times', () => {
  let ledger: TestLedger;
  beforeAll(async () => {
    ledger = await openLedger();
  });
  afterAll(() => ledger?.close());

  /** Completes a file of a type, whose steps took so long. */
  async function complete(content: string, detectedType: string | null, ms: Record<string, number>) {
    const upload = await ledger.create(content.length);
    await appendToUpload(ledger, upload, 1, parts(content));
    await finishUpload(ledger, upload.id);
    const started = await startAttempt(ledger.database, { fileId: upload.id, run: 1, attempt: 1 }, 'verify');
    if (!started) throw new Error('the file does not begin');
    const results = Object.entries(ms).map(([step, took]) => ({
      step,
      record: { state: 'done' as const, ms: took },
      facts: { detectedType },
    }));
    const next = { step: 'scan', progress: 100, etaSeconds: 0 };
    await recordSteps(ledger.database, started.file, results, next);
    await completeFile(ledger.database, started.file, ['verify', 'sniff']);
  }

  test('are medians by type, range and size, apart for steps that read and steps that decode', async () => {
    const small = 'x'.repeat(100);
    for (const ms of [10, 40, 20]) {
      await complete(small, 'image/png', { verify: ms, sniff: ms, thumbnails: 3 * ms });
    }
    await complete('x'.repeat(1000), 'image/png', { verify: 7 });
    await complete(small, 'image/webp', { verify: 1000, thumbnails: 1000 });
    await complete(small, null, { verify: 5 });
    await complete('', null, { verify: 0 });

    const found = await readDurations(ledger.database);
    expect(found.get('image/png')).toEqual([times(100, 40, 60, 3), times(1000, 7, 0, 1)]);
    expect(found.get('image/*')).toEqual([times(100, 60, 90, 4), times(1000, 7, 0, 1)]);
    expect(found.get('*/*')).toEqual([times(0, 0, 0, 1), times(100, 40, 60, 5), times(1000, 7, 0, 1)]);
  });

  test('are kept of a few files of a kind, and follow the newer ones', async () => {
    await ledger.query(
      `INSERT INTO processing_durations SELECT 'text/css', 1, place, 3, 9000, 0 FROM generate_series(0, 15) AS place`,
    );
    // Each takes one of 16 places. That one place is still an old one after 200 has a chance of 1 in 25,000.
    for (let count = 0; count < 200; count++) await complete('abc', 'text/css', { verify: 1 });
    expect((await readDurations(ledger.database)).get('text/css')).toEqual([times(3, 1, 0, 16)]);
  });

  test('are not those of a file that failed', async () => {
    const before = await readDurations(ledger.database);
    const upload = await ledger.create(3);
    await appendToUpload(ledger, upload, 1, parts('abc'));
    await finishUpload(ledger, upload.id);
    await expect(
      completeFile(ledger.database, { id: uuidv7(), run: 1, attempts: 1, ownerId: ledger.ownerId }),
    ).rejects.toThrow();
    expect(await readDurations(ledger.database)).toEqual(before);
  });
});
