import { text } from 'node:stream/consumers';
import {
  deleteUnreferencedBlobs,
  openBlob,
  referenceBlobs,
  releaseBlobs,
  type StoredBlob,
  storeBlobs,
} from '../core/files/blobs.js';
import { type Storage, StoreAway } from '../core/storage/storage.js';
import { openLedger, type TestLedger } from './support/ledger.js';

/* How objects that nothing refers to any more are deleted. */

let ledger: TestLedger;

beforeEach(async () => {
  ledger = await openLedger();
});
afterEach(() => ledger.close());

function overStore(blobs: Partial<Storage['blobs']>): TestLedger {
  return { ...ledger, storage: { ...ledger.storage, blobs: { ...ledger.storage.blobs, ...blobs } } };
}

/** Makes blobs that have their bytes and no reference. */
const store = (count: number) => storeBlobs(ledger, Array(count).fill(Buffer.from('x')));

const idsOf = (blobs: { id: string }[]) => blobs.map(({ id }) => id);
const reference = (blobs: StoredBlob[]) => referenceBlobs(ledger.database.manager, idsOf(blobs));
const release = (blobs: StoredBlob[]) => releaseBlobs(ledger.database.manager, idsOf(blobs));
const left = () => ledger.query('SELECT * FROM blobs ORDER BY id');

test('a blob without a first reference is kept for an hour; one that lost its last is not', async () => {
  const [fresh, old, used] = (await store(3)) as [StoredBlob, StoredBlob, StoredBlob];
  await ledger.query(`UPDATE blobs SET created_at = now() - interval '61 minutes' WHERE id = $1`, [old.id]);
  await reference([used]);
  await reference([used]);
  await release([used]);
  expect(await deleteUnreferencedBlobs(ledger)).toBe(1);
  expect(idsOf(await left())).toEqual(idsOf([fresh, used]));
  await release([used]);
  expect(await deleteUnreferencedBlobs(ledger)).toBe(1);
  expect(idsOf(await left())).toEqual(idsOf([fresh]));
  expect(await ledger.stored()).toEqual(['x']);
});

test('no transaction or lock is held, and no reference added, while the store deletes a blob', async () => {
  const [blob] = (await store(1)) as [StoredBlob];
  await reference([blob]);
  await release([blob]);
  let looked = false;
  const slow = overStore({
    async delete(key) {
      const open = await ledger.query(
        `SELECT FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'`,
      );
      expect(open).toEqual([]);
      expect(await ledger.query('SELECT id FROM blobs FOR UPDATE NOWAIT')).toEqual([{ id: blob.id }]);
      await expect(reference([blob])).rejects.toMatchObject({ code: 'unavailable', retryable: true });
      // A process of an older version cannot add one either.
      await expect(ledger.query('UPDATE blobs SET refs = refs + 1')).rejects.toMatchObject({ code: '23514' });
      await ledger.storage.blobs.delete(key);
      looked = true;
    },
  });
  expect(await deleteUnreferencedBlobs(slow, [blob.id])).toBe(1);
  expect(looked).toBe(true);
  expect(await left()).toEqual([]);
});

test('the next pass finishes a deletion in whose middle the process died', async () => {
  const [blob] = (await store(1)) as [StoredBlob];
  // The process died after it had marked the blob.
  await ledger.query('UPDATE blobs SET doomed_at = now()');
  expect(await deleteUnreferencedBlobs(ledger)).toBe(1);
  // The process died after the store had deleted the object, before it deleted the row.
  await ledger.query('INSERT INTO blobs (id, key, size, doomed_at) VALUES ($1, $2, 1, now())', [
    blob.id,
    blob.key,
  ]);
  expect(await deleteUnreferencedBlobs(ledger)).toBe(1);
  expect(await left()).toEqual([]);
  expect(await ledger.stored()).toEqual([]);
});

test('blobs that cannot be deleted do not hold up others, and are not tried at every pass', async () => {
  await ledger.query(
    `INSERT INTO blobs (id, key, size, doomed_at, created_at)
     SELECT gen_random_uuid(), 'stuck-' || n, 1, now(), now() - interval '1 day' FROM generate_series(1, 1000) AS n`,
  );
  const others = await store(5);
  await reference(others);
  await release(others);
  let refused = 0;
  const denying = overStore({
    async delete(key) {
      if (!key.startsWith('stuck')) return ledger.storage.blobs.delete(key);
      refused++;
      throw new Error('AccessDenied');
    },
  });
  await expect(deleteUnreferencedBlobs(denying)).rejects.toThrow('5 done, 1000 failed: AccessDenied');
  expect(refused).toBe(1000);
  expect(await ledger.stored()).toEqual([]);
  expect(await left()).toHaveLength(1000);
  expect(await deleteUnreferencedBlobs(denying)).toBe(0);
  expect(refused).toBe(1000);
  await ledger.query('UPDATE blobs SET retry_at = now()');
  expect(await deleteUnreferencedBlobs(ledger)).toBe(1000);
});

test('a store that does not answer ends the pass, and puts off no blob', async () => {
  const blobs = await store(40);
  await reference(blobs);
  await release(blobs);
  let asked = 0;
  const away = overStore({
    delete() {
      asked++;
      return Promise.reject(new StoreAway(new Error('no answer')));
    },
  });
  await expect(deleteUnreferencedBlobs(away)).rejects.toThrow('does not answer');
  expect(asked).toBeLessThan(15);
  expect(await deleteUnreferencedBlobs(ledger)).toBe(40);
});

describe('blobs that share objects', () => {
  /** Makes a blob of the objects of these blobs. */
  async function join(blobs: StoredBlob[]): Promise<StoredBlob> {
    const [joined] = await ledger.query(
      `INSERT INTO blobs (id, size, objects)
       SELECT gen_random_uuid(), $2, jsonb_agg(jsonb_build_object('key', key, 'size', size) ORDER BY place)
       FROM unnest($1::uuid[]) WITH ORDINALITY AS part (id, place) JOIN blobs USING (id)
       RETURNING id, size::float8 AS size, key, objects`,
      [idsOf(blobs), blobs.length],
    );
    return joined;
  }

  const storeTexts = (...texts: string[]) =>
    storeBlobs(
      ledger,
      texts.map((text) => Buffer.from(text)),
    );
  const readWhole = async (blob: StoredBlob) => text(await openBlob(ledger.storage.blobs, blob));

  test('can be deleted in any order: each object goes with the last of them', async () => {
    const [a, b] = (await storeTexts('a', 'b')) as [StoredBlob, StoredBlob];
    const ab = await join([a, b]);
    const ba = await join([b, a]);
    expect([await readWhole(ab), await readWhole(ba)]).toEqual(['ab', 'ba']);
    expect(await deleteUnreferencedBlobs(ledger, [a.id])).toBe(1);
    expect((await ledger.stored()).sort()).toEqual(['a', 'b']);
    expect(await deleteUnreferencedBlobs(ledger, [ab.id])).toBe(1);
    expect(await readWhole(ba)).toBe('ba');
    expect(await deleteUnreferencedBlobs(ledger, [ba.id])).toBe(1);
    expect(await ledger.stored()).toEqual(['b']);
    expect(await deleteUnreferencedBlobs(ledger, [b.id])).toBe(1);
    expect(await ledger.stored()).toEqual([]);
    expect(await left()).toEqual([]);
  });

  test('leave no object when they are deleted at the same time, by several processes or by one', async () => {
    for (let round = 0; round < 10; round++) {
      const parts = await storeTexts('a', 'b', 'c');
      const all = [...parts, await join(parts), await join(parts)];
      await Promise.all(all.map(({ id }) => deleteUnreferencedBlobs(ledger, [id])));
      expect([round, await ledger.stored(), await left()]).toEqual([round, [], []]);
    }
    const parts = await storeTexts('a', 'b', 'c');
    const all = [...parts, await join(parts)];
    expect(await deleteUnreferencedBlobs(ledger, idsOf(all))).toBe(4);
    expect([await ledger.stored(), await left()]).toEqual([[], []]);
  });

  test('a row whose objects have other bytes than it says is not read', async () => {
    const [blob] = (await storeTexts('a')) as [StoredBlob];
    const joined = await join([blob]);
    await expect(openBlob(ledger.storage.blobs, { ...joined, size: 2 })).rejects.toThrow(
      '1 bytes instead of 2',
    );
  });

  test('a row whose objects have other bytes than it says can be deleted, and holds up no others', async () => {
    const [wrong, right] = (await store(2)) as [StoredBlob, StoredBlob];
    await ledger.query(
      `UPDATE blobs SET key = NULL, objects = jsonb_build_array(jsonb_build_object('key', key, 'size', size + 1))
       WHERE id = $1`,
      [wrong.id],
    );
    await reference([wrong, right]);
    await release([wrong, right]);
    expect(await deleteUnreferencedBlobs(ledger)).toBe(2);
    expect(await ledger.stored()).toEqual([]);
  });

  test('a row has either a key or at least one object', async () => {
    for (const [key, objects] of [
      [null, null],
      [null, '[]'],
      ['a', '[{"key": "a", "size": 1}]'],
    ]) {
      await expect(
        ledger.query('INSERT INTO blobs (id, size, key, objects) VALUES (gen_random_uuid(), 1, $1, $2)', [
          key,
          objects,
        ]),
      ).rejects.toMatchObject({ constraint: 'blobs_objects_check' });
    }
  });
});
