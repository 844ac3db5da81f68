import { v7 as uuidv7 } from 'uuid';
import { type Listener, openListener } from '../core/database/listen.js';
import { createLogger } from '../core/log.js';
import { expireUploads } from '../core/uploads/expire.js';
import { LEASE_MS, type Leases, openLeases, RETRY_MS } from '../core/uploads/lease.js';
import { MAX_WAITING } from '../core/uploads/waiters.js';
import { parts } from './support/bytes.js';
import { freeLease, letLeaseRunOut } from './support/leases.js';
import {
  appendToUpload,
  declareUploadLength,
  finishUpload,
  openLedger,
  type TestLedger,
} from './support/ledger.js';
import { until } from './support/until.js';
import { makeDue } from './support/uploads.js';

const never = new AbortController().signal;
const ignore = () => {};

let ledger: TestLedger;
/** Two processes: each sees only its own requests and the database. */
let first: Leases;
let second: Leases;

const listeners: Listener[] = [];

async function open(holder: string): Promise<Leases> {
  const log = createLogger('silent', 'test');
  const listener = await openListener(ledger.url, log);
  listeners.push(listener);
  return openLeases({ database: ledger.database, listener, log }, holder);
}

beforeAll(async () => {
  ledger = await openLedger();
  [first, second] = await Promise.all([open('first'), open('second')]);
});

afterAll(async () => {
  first?.close();
  second?.close();
  await Promise.all(listeners.map((listener) => listener.close()));
  await ledger?.close();
});

/** A new upload without a holder. */
async function createFree(length: number | null = 100): Promise<string> {
  const { id } = await ledger.create(length);
  await freeLease(ledger, id);
  return id;
}

const acquire = (leases: Leases, id: string, onRequested = ignore, signal = never) =>
  leases.acquire(id, { ownerId: ledger.ownerId }, signal, onRequested);

const letRunOut = (id: string) => letLeaseRunOut(ledger, id);

/** Opens a process that renews no lease. */
async function openStalled(holder: string): Promise<Leases> {
  const leases = await open(holder);
  leases.close();
  return leases;
}

async function isPending(promise: Promise<unknown>): Promise<boolean> {
  const pending = Symbol('pending');
  return (await Promise.race([promise, Promise.resolve(pending)])) === pending;
}

/** Waiters look at the lease again after RETRY_MS. From now on they do so when the test calls their retry. */
function holdRetries() {
  const { setTimeout } = globalThis;
  const retries: (() => void)[] = [];
  globalThis.setTimeout = ((work: () => void, ms?: number, ...args: unknown[]) => {
    if (ms !== RETRY_MS) return setTimeout(work, ms, ...args);
    retries.push(work);
    return undefined;
  }) as typeof setTimeout;
  return Object.assign(retries, {
    restore() {
      globalThis.setTimeout = setTimeout;
    },
  });
}

describe('taking', () => {
  test('a lease shows the upload as it is, raises its epoch and keeps others out', async () => {
    const id = await createFree();
    const lease = await acquire(first, id);
    expect(lease.upload).toMatchObject({ id, offset: 0, length: 100, status: 'uploading' });
    expect(lease.epoch).toBe(2);
    expect(await ledger.row(id)).toMatchObject({ lease_holder: 'first', lease_epoch: 2 });

    const waiting = acquire(second, id);
    await appendToUpload(ledger, lease.upload, lease.epoch, parts('abc'));
    expect(await isPending(waiting)).toBe(true);
    await lease.release();
    const next = await waiting;
    expect(next.epoch).toBe(3);
    expect(next.upload.offset).toBe(3);
    await next.release();
    expect((await ledger.row(id)).lease_holder).toBeNull();
  });

  test('a lease is for the owner only, and requests of other users do not disturb the holder', async () => {
    const id = await createFree();
    let asked = false;
    const lease = await acquire(first, id, () => {
      asked = true;
    });
    await expect(first.acquire(id, { ownerId: uuidv7() }, never, ignore)).rejects.toMatchObject({
      code: 'not_found',
    });
    await expect(acquire(first, uuidv7())).rejects.toMatchObject({ code: 'not_found' });
    expect(asked).toBe(false);
    await lease.release();
  });

  test('a newer request asks the holder to let go, and follows at once', async () => {
    const id = await createFree();
    const order: string[] = [];
    const older = await acquire(first, id, () => {
      // The holder may be asked again after it has begun to let go.
      if (order.length > 0) return;
      order.push('asked');
      older.release().then(() => order.push('released'));
    });
    const newer = await acquire(first, id);
    order.push('taken');
    expect(order).toEqual(['asked', 'released', 'taken']);
    expect(newer.epoch).toBe(older.epoch + 1);
    await newer.release();
  });

  test('a waiter asks a holder in another process again and again, and follows at once', async () => {
    const id = await createFree();
    let asked = 0;
    const older = await acquire(first, id, () => {
      asked++;
    });
    const retries = holdRetries();
    try {
      const waiting = acquire(second, id);
      for (let times = 1; times <= 3; times++) {
        await until('it is asked', () => asked === times);
        if (times < 3) retries.shift()?.();
      }
      // Only the notification makes the waiter look again: its retries are held.
      await older.release();
      const newer = await waiting;
      expect(newer.epoch).toBe(older.epoch + 1);
      await newer.release();
    } finally {
      retries.restore();
    }
  });

  test('a holder in another process is asked even after the connections that listen were cut', async () => {
    const id = await createFree();
    let asked = false;
    const older = await acquire(first, id, () => {
      asked = true;
    });
    await ledger.query(
      `SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
       WHERE datname = current_database() AND query LIKE 'LISTEN%'`,
    );
    const waiting = acquire(second, id);
    await until('it is asked', () => asked);
    await older.release();
    await (await waiting).release();
  });

  test('the reconciler takes free leases only, and does not ask a holder to let go', async () => {
    expect(await first.tryAcquire(uuidv7())).toBeUndefined();
    const id = await createFree();
    let asked = false;
    const lease = await acquire(first, id, () => {
      asked = true;
    });
    expect(await first.tryAcquire(id)).toBeUndefined();
    expect(await second.tryAcquire(id)).toBeUndefined();
    await lease.release();
    expect(asked).toBe(false);

    const taken = await second.tryAcquire(id);
    expect(taken?.epoch).toBe(lease.epoch + 1);
    const waiting = acquire(first, id);
    expect(await isPending(waiting)).toBe(true);
    await taken?.release();
    await (await waiting).release();
  });

  test('an upload becomes untidy if its lease ran out: the holder may have stored more bytes', async () => {
    const [released, runOut, tried] = [await createFree(), await createFree(), await createFree()];
    const stalled = await openStalled('stalled');
    const leases = await Promise.all([released, runOut, tried].map((id) => acquire(stalled, id)));
    expect(leases.map((lease) => lease.upload.untidy)).toEqual([false, false, false]);
    await leases[0]?.release();
    await Promise.all([runOut, tried].map(letRunOut));
    const [after, afterRunOut] = [await acquire(second, released), await acquire(second, runOut)];
    expect([after.upload.untidy, afterRunOut.upload.untidy]).toEqual([false, true]);
    const afterTried = await second.tryAcquire(tried);
    expect(afterTried?.upload.untidy).toBe(true);
    await Promise.all([...leases, after, afterRunOut, afterTried].map((lease) => lease?.release()));
    const again = await acquire(second, runOut);
    expect(again.upload.untidy).toBe(true);
    await again.release();
  });

  test('a lease has one holder at a time, each with an epoch of its own', async () => {
    const id = await createFree();
    let holders = 0;
    const epochs = await Promise.all(
      Array.from({ length: 20 }, async (_, index) => {
        const lease = await acquire(index % 2 ? first : second, id);
        expect(++holders).toBe(1);
        await ledger.query('SELECT pg_sleep(0.005)');
        holders--;
        await lease.release();
        return lease.epoch;
      }),
    );
    expect(new Set(epochs).size).toBe(20);
  });

  test('a waiter stops waiting when its request ends', async () => {
    const id = await createFree();
    const lease = await acquire(first, id);
    const gone = new AbortController();
    const waiting = acquire(second, id, ignore, gone.signal);
    gone.abort(new Error('client gone'));
    await expect(waiting).rejects.toThrow('client gone');
    await lease.release();
    expect((await ledger.row(id)).lease_holder).toBeNull();
  });

  test('a waiter gets 423 when it has waited too long', async () => {
    const id = await createFree();
    const lease = await acquire(first, id);
    const waiting = acquire(second, id);
    const { now } = Date;
    Date.now = () => now() + 2 * LEASE_MS;
    try {
      await expect(waiting).rejects.toMatchObject({ code: 'locked', retryable: true });
    } finally {
      Date.now = now;
    }
    await lease.release();
  });

  test('a lease may come with the creation of its upload', async () => {
    const upload = await ledger.create(100, first.holder);
    const lease = first.adopt(upload, ignore);
    expect(lease.epoch).toBe(1);
    const waiting = acquire(second, upload.id);
    await appendToUpload(ledger, upload, lease.epoch, parts('abc'));
    await lease.release();
    const next = await waiting;
    expect(next).toMatchObject({ epoch: 2, upload: { offset: 3 } });
    await next.release();
  });
});

describe('looking', () => {
  const look = (leases: Leases, id: string, ownerId = ledger.ownerId) =>
    leases.look(id, { ownerId }, never, ignore);

  test('at an upload without a holder writes nothing', async () => {
    const id = await createFree();
    const before = await ledger.row(id);
    const lease = await look(first, id);
    expect(lease.upload).toMatchObject({ id, offset: 0, length: 100 });
    await lease.release();
    expect(await ledger.row(id)).toEqual(before);
    await expect(look(first, id, uuidv7())).rejects.toMatchObject({ code: 'not_found' });
    await expect(look(first, uuidv7())).rejects.toMatchObject({ code: 'not_found' });
  });

  test('asks the holder to let go, so that the offset it shows is the last one', async () => {
    const id = await createFree();
    let lettingGo: Promise<void> | undefined;
    const letGo = async () => {
      older.upload = await appendToUpload(ledger, older.upload, older.epoch, parts('abc'));
      await older.release();
    };
    const older = await acquire(first, id, () => {
      // The holder may be asked again after it has begun to let go.
      lettingGo ??= letGo();
    });
    const lease = await look(second, id);
    expect(lease.upload.offset).toBe(3);
    await lettingGo;
    await lease.release();
  });

  test('takes over a lease that has run out, because its holder may still commit', async () => {
    const id = await createFree();
    const stalled = await acquire(await openStalled('stalled'), id);
    await letRunOut(id);
    const lease = await look(second, id);
    await expect(appendToUpload(ledger, stalled.upload, stalled.epoch, parts('late'))).rejects.toMatchObject({
      code: 'locked',
    });
    expect(lease.upload).toMatchObject({ offset: 0, untidy: true });
    await lease.release();
    expect((await ledger.row(id)).lease_holder).toBeNull();
  });

  test('takes the lease of an upload whose object is still to be made', async () => {
    const id = await createFree(3);
    const lease = await acquire(first, id);
    await appendToUpload(ledger, lease.upload, lease.epoch, parts('abc'));
    await lease.release();
    const toFinish = await look(second, id);
    expect(await ledger.row(id)).toMatchObject({ lease_holder: 'second', lease_epoch: toFinish.epoch });
    await toFinish.release();
    await finishUpload(ledger, id);
    const finished = await ledger.row(id);
    expect((await look(second, id)).upload.status).toBe('finished');
    expect(await ledger.row(id)).toEqual(finished);
  });
});

describe('a holder that stood still', () => {
  test('changes nothing after another has taken its lease', async () => {
    const id = await createFree(null);
    const stalled = await acquire(await openStalled('stalled'), id);
    await letRunOut(id);
    // The test compares this row, so the holder must not renew the lease.
    const present = await acquire(await openStalled('present'), id);
    await appendToUpload(ledger, present.upload, present.epoch, parts('present'));
    const before = await ledger.row(id);

    const { upload, epoch } = stalled;
    await expect(appendToUpload(ledger, upload, epoch, parts('an older request'))).rejects.toMatchObject({
      code: 'locked',
    });
    await expect(declareUploadLength(ledger, upload, epoch, 16)).rejects.toMatchObject({ code: 'locked' });
    await stalled.release();
    expect(await ledger.row(id)).toEqual(before);
    await present.release();
  });

  test('learns that it has lost its lease', async () => {
    const id = await createFree();
    let lost = false;
    const stalled = await acquire(first, id, () => {
      lost = true;
    });
    // The holder's next renewal may come in between, so try again until the lease is taken.
    const present = await until('another to have taken it', async () => {
      await letRunOut(id);
      return second.tryAcquire(id);
    });
    await until('the next renewal', () => lost);
    expect((await ledger.row(id)).lease_holder).toBe('second');
    await Promise.all([stalled.release(), present.release()]);
  });

  test('keeps the lease if no other request took it', async () => {
    const id = await createFree();
    const lease = await acquire(first, id);
    await letRunOut(id);
    expect((await appendToUpload(ledger, lease.upload, lease.epoch, parts('abc'))).offset).toBe(3);
    expect((await ledger.row(id)).lease_expires_at.getTime()).toBeGreaterThan(Date.now());
    await lease.release();
  });

  test('keeps a waiter in the same process waiting, because it may still write', async () => {
    const id = await createFree();
    let asked = false;
    const stalled = await acquire(first, id, () => {
      asked = true;
    });
    await letRunOut(id);
    const waiting = acquire(first, id);
    await until('it is asked to let go', () => asked);
    expect(await isPending(waiting)).toBe(true);
    expect((await ledger.row(id)).lease_epoch).toBe(stalled.epoch);
    await stalled.release();
    await (await waiting).release();
  });
});

describe('over time', () => {
  test('a process that is alive renews its leases again and again', async () => {
    const ids = [await createFree(), await createFree()];
    const leases = await Promise.all(ids.map((id) => acquire(first, id)));
    const expiry = async (id: string): Promise<number> => (await ledger.row(id)).lease_expires_at.getTime();
    const before = await Promise.all(ids.map(expiry));
    for (const [index, id] of ids.entries()) {
      await until('its renewal', async () => (await expiry(id)) > (before[index] ?? 0) + LEASE_MS / 2);
      expect(await expiry(id)).toBeLessThanOrEqual(Date.now() + LEASE_MS + 1000);
    }
    expect((await ledger.row(ids[0] ?? '')).lease_epoch).toBe(leases[0]?.epoch);
    await Promise.all(leases.map((lease) => lease.release()));
  });

  test('a process that comes back under its name ends the leases of its former self, and no others', async () => {
    const former = await open('server-7');
    const [mine, others] = [await createFree(), await createFree()];
    const stale = await acquire(former, mine);
    const theirs = await acquire(second, others);
    former.close();

    const reborn = await open('server-7');
    const lease = await acquire(reborn, mine);
    expect(lease.upload.untidy).toBe(true);
    expect((await ledger.row(others)).lease_holder).toBe('second');
    await expect(appendToUpload(ledger, stale.upload, stale.epoch, parts('late'))).rejects.toMatchObject({
      code: 'locked',
    });
    await Promise.all([lease.release(), theirs.release()]);
    reborn.close();
  });

  test('an upload whose lease is held does not expire', async () => {
    const id = await createFree();
    const lease = await acquire(first, id);
    await makeDue(ledger, id);
    expect(await expireUploads(ledger.database)).toBe(0);
    await lease.release();
    expect(await expireUploads(ledger.database)).toBe(1);
    const after = await ledger.row(id);
    expect(after.status).toBe('expired');
    await expect(appendToUpload(ledger, lease.upload, lease.epoch, parts('late'))).rejects.toMatchObject({
      code: 'gone',
    });
    // The store may still apply the late write, so the upload is untidy and is looked at again.
    expect(await ledger.row(id)).toEqual({ ...after, untidy: true });
  });

  test('a process that ends asks all its holders to let go', async () => {
    const ids = await Promise.all([createFree(), createFree()]);
    const asked: string[] = [];
    const leases = await Promise.all(ids.map((id) => acquire(first, id, () => asked.push(id))));
    first.askAll();
    expect(asked.sort()).toEqual(ids.sort());
    await Promise.all(leases.map((lease) => lease.release()));
  });
});

test('a request that hangs loses its lease when it does not let go, one that does not promise it keeps it', async () => {
  const [hangs, busy, kept] = [await createFree(), await createFree(), await createFree()];
  let asked = false;
  const hanging = await acquire(first, hangs, () => {
    asked = true;
  });
  const working = await first.tryAcquire(busy);
  const keeping = await acquire(first, kept, () => false);
  const gone = new AbortController();
  const [next, ...refused] = [hangs, busy, kept].map((id) => acquire(second, id, ignore, gone.signal));
  for (const each of refused) each.catch(() => {});
  await until('it is asked to let go', () => asked);
  const { now } = performance;
  // This is longer than any request may take to let go.
  performance.now = () => now.call(performance) + 20_000;
  try {
    const lease = await next;
    expect(lease?.upload).toMatchObject({ leaseHolder: 'second', untidy: true });
    expect(await ledger.row(busy)).toMatchObject({ lease_holder: 'first', lease_epoch: working?.epoch });
    expect(await ledger.row(kept)).toMatchObject({ lease_holder: 'first', lease_epoch: keeping.epoch });
    gone.abort();
    await Promise.all([hanging, working, keeping, lease].map((each) => each?.release()));
  } finally {
    performance.now = now;
  }
});

describe('many waiters', () => {
  const MANY = MAX_WAITING + 15;

  /** Requests that wait for the same lease in one process; `taken` and `refused` tell how they ended. */
  function waitAs(leases: Leases, id: string) {
    const taken: string[] = [];
    const refused: string[] = [];
    const all: Promise<void>[] = [];
    const join = async (name: string) => {
      try {
        const lease = await acquire(leases, id);
        taken.push(name);
        await lease.release();
      } catch (error) {
        expect(error).toMatchObject({ code: 'locked', retryable: true });
        refused.push(name);
      }
    };
    return {
      taken,
      refused,
      join: (...names: string[]) => void all.push(...names.map(join)),
      over: () => Promise.all(all),
    };
  }

  const names = Array.from({ length: MANY - 2 }, (_, index) => `between ${index}`);

  test.each([
    ['in the process of the holder', () => first],
    ['in another process', () => second],
  ])('the oldest waiter is refused and the newest is served first, %s', async (_where, leases) => {
    const id = await createFree();
    let asked = false;
    const lease = await acquire(first, id, () => {
      asked = true;
    });
    const { taken, refused, join, over } = waitAs(leases(), id);
    join('oldest');
    await until('it waits', () => asked);
    join(...names);
    await until('all of them wait, or have', () => refused.length === MANY - 1 - MAX_WAITING);
    expect(refused).toContain('oldest');
    join('newest');
    // This comes long before the waiters' time is over, when all would be refused.
    await until('it waits, too', () => refused.length === MANY - MAX_WAITING);
    expect(refused).not.toContain('newest');
    expect(taken).toEqual([]);
    await lease.release();
    await over();
    expect(taken[0]).toBe('newest');
    expect([taken.length, refused.length]).toEqual([MAX_WAITING, MANY - MAX_WAITING]);
    expect((await ledger.row(id)).lease_holder).toBeNull();
  });

  test('ask the holder about as often as one waiter alone', async () => {
    const [wantedByOne, wantedByMany] = [await createFree(), await createFree()];
    const asked = { byOne: 0, byMany: 0 };
    const leases = [
      await acquire(first, wantedByOne, () => asked.byOne++),
      await acquire(first, wantedByMany, () => asked.byMany++),
    ];
    const { refused, join, over } = waitAs(second, wantedByMany);
    join(...names);
    await until('they wait', () => refused.length === names.length - MAX_WAITING);
    const alone = acquire(second, wantedByOne);
    await until('it waits', () => asked.byOne > 0);
    const before = { ...asked };
    await until('it has asked ten times', () => asked.byOne >= before.byOne + 10);
    expect(asked.byMany - before.byMany).toBeGreaterThan(3);
    expect(asked.byMany - before.byMany).toBeLessThan(3 * 10);
    await Promise.all(leases.map((lease) => lease.release()));
    await over();
    await (await alone).release();
  });

  test('do not ask a holder that came later than they did to let go', async () => {
    const [id, clock] = [await createFree(), await createFree()];
    let ticks = 0;
    const ticking = await acquire(first, clock, () => ticks++);
    const asked: string[] = [];
    const holder = await acquire(first, id, () => asked.push('holder'));
    const early = acquire(first, id).then((lease) => lease.release());
    await until('it waits', () => asked.length > 0);
    const late = acquire(first, id, () => asked.push('late'));
    // By now both requests wait.
    await until('it waits, too', () => asked.length > 3);
    await holder.release();
    const lease = await late;
    const waiting = acquire(second, clock);
    await until('the other to have tried some times', () => ticks > 5);
    expect(asked).not.toContain('late');
    await lease.release();
    await early;
    await ticking.release();
    await (await waiting).release();
  });

  test('of another user push no waiter of the owner out', async () => {
    const id = await createFree();
    const lease = await acquire(first, id);
    const waiting = acquire(second, id);
    const strangers = Array.from({ length: MANY }, () =>
      second.acquire(id, { ownerId: uuidv7() }, never, ignore),
    );
    const outcomes = await Promise.allSettled(strangers);
    expect(outcomes.map((outcome) => outcome.status === 'rejected' && outcome.reason.code)).toEqual(
      Array(MANY).fill('not_found'),
    );
    expect(await isPending(waiting)).toBe(true);
    await lease.release();
    await (await waiting).release();
  });
});

test('a lease that is being given back is neither renewed nor reported as lost', async () => {
  const [givenBack, held] = [await createFree(), await createFree()];
  const lost: string[] = [];
  const leases = [
    await acquire(first, givenBack, () => lost.push(givenBack)),
    await acquire(first, held, () => lost.push(held)),
  ];
  // This is the row between the statement of release() and its answer.
  await freeLease(ledger, givenBack);
  const before = await ledger.row(givenBack);
  const expiry = async () => (await ledger.row(held)).lease_expires_at.getTime();
  for (const _renewal of ['one', 'another, when what came of the first is known']) {
    const last = await expiry();
    await until('a renewal', async () => (await expiry()) > last);
  }
  expect(await ledger.row(givenBack)).toEqual(before);
  expect(lost).toEqual([]);
  await Promise.all(leases.map((lease) => lease.release()));
});
