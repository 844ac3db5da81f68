import { setTimeout as pause } from 'node:timers/promises';
import type { Upload } from '../core/database/entities/upload.js';
import { AppError } from '../core/errors.js';
import { putOff } from '../core/retries.js';
import { type Storage, StoreAway } from '../core/storage/storage.js';
import { discardUploads, listUnfinishedComplete } from '../core/uploads/discard.js';
import { expireUploads } from '../core/uploads/expire.js';
import { expectBooksRight } from './support/books.js';
import { parts } from './support/bytes.js';
import { letRetry } from './support/deletions.js';
import {
  appendToUpload,
  assembleUpload,
  finishUpload,
  openLedger,
  type TestLedger,
} from './support/ledger.js';
import { makeDue } from './support/uploads.js';

/* The reconciler and uploads whose store is away or refuses requests. */

const EPOCH = 1;

let ledger: TestLedger;

beforeEach(async () => {
  ledger = await openLedger();
});
afterEach(() => ledger.close());

/** The ledger over a store with these functions replaced. */
function overStore(uploads: Partial<Storage['uploads']>): TestLedger {
  return {
    ...ledger,
    storage: { ...ledger.storage, uploads: { ...ledger.storage.uploads, ...uploads } },
  };
}

async function createEnded(count: number): Promise<Upload[]> {
  const uploads: Upload[] = [];
  for (let i = 0; i < count; i++) uploads.push(await ledger.create(6, 'nobody'));
  await ledger.query(`UPDATE uploads SET status = 'expired', lease_holder = NULL`);
  return uploads;
}

const countLeft = async () =>
  (await ledger.query(`SELECT FROM uploads WHERE discarded_at IS NULL OR untidy`)).length;

describe('discarding', () => {
  test('a finished upload that is marked again during the look is looked at again', async () => {
    const upload = await ledger.create(3);
    await appendToUpload(ledger, upload, EPOCH, parts('abc'));
    await finishUpload(ledger, upload.id);
    await ledger.query('UPDATE uploads SET untidy = true');
    const marking = overStore({
      discard: async () => {
        await ledger.query('UPDATE uploads SET untidy = true');
      },
    });
    expect(await discardUploads(marking)).toBe(1);
    expect(await ledger.row(upload.id)).toMatchObject({ untidy: true });
    expect(await discardUploads(ledger)).toBe(1);
    expect(await ledger.row(upload.id)).toMatchObject({ untidy: false, discarded_at: null });
    expect(await ledger.stored()).toEqual(['abc']);
  });

  test('eight uploads at a time are discarded, however many there are', async () => {
    await createEnded(30);
    let running = 0;
    let most = 0;
    const slow = overStore({
      async discard() {
        most = Math.max(most, ++running);
        await pause(20);
        running--;
      },
    });
    expect(await discardUploads(slow)).toBe(30);
    expect(most).toBe(8);
    expect(await countLeft()).toBe(0);
  });

  test('a store that does not answer ends the pass, and puts off no upload', async () => {
    await createEnded(30);
    let asked = 0;
    const away = overStore({
      async discard() {
        asked++;
        await pause(5);
        throw new StoreAway(new Error('no answer'));
      },
    });
    await expect(discardUploads(away)).rejects.toThrow('does not answer');
    expect(asked).toBeLessThan(15);
    expect(await ledger.query('SELECT FROM uploads WHERE failures > 0 OR retry_at IS NOT NULL')).toEqual([]);
    expect(await discardUploads(ledger)).toBe(30);
  });

  test('an upload that the store refuses is put off longer each time, up to an hour', async () => {
    const [{ id }] = (await createEnded(1)) as [Upload];
    const pauses: number[] = [];
    for (let i = 0; i < 10; i++) {
      await putOff(ledger.database, 'uploads', id);
      const [row] = await ledger.query(
        'SELECT round(extract(epoch FROM retry_at - now()) / 10) * 10 AS seconds FROM uploads',
      );
      pauses.push(Number(row.seconds));
    }
    expect(pauses).toEqual([30, 60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]);
  });

  test('an upload with valid presigned addresses is looked at again once they have expired', async () => {
    const [{ id }] = (await createEnded(1)) as [Upload];
    await ledger.query(`UPDATE uploads SET addresses_until = now() + interval '1 hour'`);
    expect(await discardUploads(ledger)).toBe(1);
    const { discarded_at, retry_at, addresses_until } = await ledger.row(id);
    expect([discarded_at, retry_at]).toEqual([null, addresses_until]);
    expect(await discardUploads(ledger)).toBe(0);
    await ledger.query(`UPDATE uploads SET addresses_until = now(), retry_at = now()`);
    expect(await discardUploads(ledger)).toBe(1);
    expect(await ledger.row(id)).toMatchObject({ discarded_at: expect.any(Date) });
    expect(await discardUploads(ledger)).toBe(0);
  });
});

describe('an upload of which the store refuses to make an object', () => {
  const refusing = (cause: Error = new Error('AccessDenied')) =>
    overStore({
      complete: () =>
        Promise.reject(new AppError('unavailable', { detail: 'The storage refuses the request', cause })),
    });

  /** Creates an upload that has all its bytes and no object. */
  async function createComplete(): Promise<Upload> {
    const upload = await ledger.create(3);
    await appendToUpload(ledger, upload, EPOCH, parts('abc'));
    await ledger.query('UPDATE uploads SET object_key = NULL, lease_holder = NULL');
    return { ...upload, offset: 3 };
  }

  const list = () => listUnfinishedComplete(ledger.database);

  test('has an error that names the refusal, until the store makes the object', async () => {
    const upload = await createComplete();
    await expect(assembleUpload(refusing(), upload, EPOCH)).rejects.toMatchObject({ code: 'unavailable' });
    const { error } = await ledger.row(upload.id);
    expect(error).toEqual({
      code: 'unavailable',
      detail: expect.stringContaining('The storage refuses the request'),
    });
    await putOff(ledger.database, 'uploads', upload.id);
    await assembleUpload(ledger, upload, EPOCH);
    expect(await ledger.row(upload.id)).toMatchObject({ error: null, failures: 0, retry_at: null });
    expect((await finishUpload(ledger, upload.id)).size).toBe(3);
  });

  test('gets no error when the client gives up waiting', async () => {
    const upload = await createComplete();
    await expect(assembleUpload(refusing(), upload, EPOCH, AbortSignal.abort())).rejects.toThrow();
    expect(await ledger.row(upload.id)).toMatchObject({ error: null, untidy: true });
  });

  test('is put off by the reconciler, and tried again when its time has come', async () => {
    const { id } = await createComplete();
    expect(await list()).toEqual([id]);
    expect(await putOff(ledger.database, 'uploads', id)).toBe(1);
    expect(await list()).toEqual([]);
    await letRetry(ledger);
    expect(await list()).toEqual([id]);
    expect(await putOff(ledger.database, 'uploads', id)).toBe(2);
  });

  test('expires when its time is over, but not before it was tried again', async () => {
    const { id } = await createComplete();
    await putOff(ledger.database, 'uploads', id);
    expect(await expireUploads(ledger.database)).toBe(0);
    await makeDue(ledger);
    await letRetry(ledger);
    expect(await expireUploads(ledger.database)).toBe(0);
    await putOff(ledger.database, 'uploads', id);
    expect(await expireUploads(ledger.database)).toBe(1);
    expect(await ledger.row(id)).toMatchObject({ status: 'expired', failures: 0, retry_at: null });
    await expectBooksRight({ query: async (sql) => ({ rows: await ledger.query(sql) }) as never });
    expect(await discardUploads(ledger)).toBe(1);
    expect(await ledger.stored()).toEqual([]);
  });

  test('does not expire once its object is made', async () => {
    const upload = await createComplete();
    await assembleUpload(ledger, upload, EPOCH);
    await putOff(ledger.database, 'uploads', upload.id);
    await makeDue(ledger);
    expect(await expireUploads(ledger.database)).toBe(0);
    expect((await finishUpload(ledger, upload.id)).status).toBe('pending');
  });
});
