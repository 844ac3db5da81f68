import { setTimeout as pause } from 'node:timers/promises';
import type { DataSource } from 'typeorm';
import { within } from '../concurrency.js';
import type { Upload } from '../database/entities/upload.js';
import type { Listener } from '../database/listen.js';
import type { Logger } from '../log.js';
import { createLeaseRows, type HeldRow } from './lease-rows.js';
import type { UploadAccess } from './queries.js';
import { createWaiters, inUse } from './waiters.js';

/*
 * Leases: only the holder of an upload's lease may write to the upload.
 *
 * The lease is three columns of the upload's row. Taking it raises `lease_epoch`, and every write to the ledger
 * names the holder's epoch in its own WHERE. A process that was stopped while it held the lease, and wakes up after
 * another has taken it, therefore changes nothing, however late it comes. The leases of a dead process run out; a
 * living process renews all of its leases with one statement.
 *
 * A newer request is more likely to have a living client behind it than the one that holds the lease (the old
 * connection may be half open), so it asks the holder to let go and waits for that. (tus 1.0, "Core Protocol",
 * PATCH: servers should not let two requests write at a time, and should free a lock that a dead connection
 * holds.) A holder in another process is asked by NOTIFY, and says by NOTIFY that it has let go. Notifications can
 * be lost, so a waiter asks and tries again every 200 ms. Among the waiters for one upload only the newest does so,
 * and the number of waiters is limited: see waiters.ts.
 */

/** Milliseconds that a lease lasts without being renewed. */
export const LEASE_MS = 10_000;

const RENEW_EVERY_MS = LEASE_MS / 3;

/** How long a request waits for a lease before it is told that the upload is in use. */
const WAIT_MS = LEASE_MS + 5_000;

/**
 * How long a request may take to let go after it was asked to. After that its lease is not renewed, so that another
 * server can go on with the upload within 30 s.
 */
const LET_GO_MS = 15_000;

/** How long giving a lease back may take. */
const RELEASE_MS = 5_000;

/** How often a waiter asks the holder again and tries to take the lease. */
export const RETRY_MS = 200;

/** Channels of PostgreSQL; the payload is the id of the upload. */
const WANTED = 'lease_wanted';
const RELEASED = 'lease_released';

/** The lease of one request. The request takes it, passes it to the ledger, and releases it at its end. */
export interface Lease {
  /** Of the upload. */
  readonly id: string;
  /** Every write to the ledger names it. */
  readonly epoch: number;
  /** The row as the last statement under this lease has left it. The ledger keeps it up to date. */
  upload: Upload;
  /** Gives the lease back, unless it has ended. Never throws. */
  release(): Promise<void>;
  /** To be called after a statement that has ended the upload together with its lease: nothing is left to release. */
  leave(): void;
}

export interface Leases {
  /**
   * Waits for the lease of an upload and takes it.
   * @param access whose upload it must be: other users' requests must not disturb the holder
   * @param signal gives up when it aborts
   * @param onRequested called when another request wants the lease, or when it was lost: the holder has some seconds
   * then, unless this returns false. Undefined: the lease is held for as long as it takes
   * @throws {AppError} not_found, locked
   */
  acquire(
    uploadId: string,
    access: UploadAccess,
    signal: AbortSignal,
    onRequested: (() => unknown) | undefined,
  ): Promise<Lease>;
  /**
   * For a request that only asks for an upload's offset. If the upload has no lease and is not waiting to be finished,
   * this takes no lease and writes nothing. Otherwise it works like `acquire`. That includes a lease that has run out:
   * its holder may still commit, so the lease is taken over.
   */
  look: Leases['acquire'];
  /** Takes the lease of any user's upload if it is free or has run out; neither waits nor disturbs the holder. */
  tryAcquire(uploadId: string): Promise<Lease | undefined>;
  /** Notes a lease that came with the creation of its upload; see `holder`. */
  adopt(upload: Upload, onRequested: () => unknown): Lease;
  /** Name of this process in the lease columns. */
  readonly holder: string;
  /** Asks all holders in this process to let go. */
  askAll(): void;
  /** Ends the renewal. Leases that are still held run out. */
  close(): void;
}

interface Held extends HeldRow {
  /** Undefined: it does not let go for others. */
  onRequested: (() => unknown) | undefined;
  /** Grows with each request of this process that comes for a lease. */
  arrival: number;
  /** Whether another process waits for it. */
  wanted: boolean;
  /** When it was asked for the first time to let go, and will. */
  askedAt: number | undefined;
  /** Whether it was released, or has ended with its upload. */
  over: boolean;
}

/** Whether a lease is still to be renewed. A request that was asked to let go and did not do so in time hangs. */
function mayLast({ onRequested, askedAt }: Held): boolean {
  return !onRequested || askedAt === undefined || performance.now() < askedAt + LET_GO_MS;
}

/**
 * @param holder a name that no other living process has. Leases that the database shows under this name are from
 * a dead process of the same name, and are ended at once.
 */
export async function openLeases(
  deps: { database: DataSource; listener: Listener; log: Logger },
  holder: string,
): Promise<Leases> {
  const { database, listener, log } = deps;
  const rows = createLeaseRows(database, holder, LEASE_MS);
  let closed = false;
  const held = new Map<string, Held>();
  const waiters = createWaiters();
  let arrivals = 0;

  await rows.endFormer();
  await listener.subscribe(WANTED, (uploadId) => {
    const entry = held.get(uploadId);
    if (!entry) return;
    entry.wanted = true;
    ask(entry);
  });
  await listener.subscribe(RELEASED, (uploadId) => waiters.wake(uploadId));

  async function take(uploadId: string, access?: UploadAccess): Promise<Upload | undefined> {
    // A holder in this process may still write, even if its lease ran out because the database was away.
    return held.has(uploadId) ? undefined : rows.take(uploadId, access);
  }

  function ask(entry: Held): void {
    if (entry.onRequested?.() !== false) entry.askedAt ??= performance.now();
  }

  /** Asks the holder, wherever it is, to let go. */
  async function askFor(uploadId: string, arrival: number): Promise<void> {
    const here = held.get(uploadId);
    // The holder arrived after this waiter, so it is the newer client: leave it alone.
    if (here && here.arrival > arrival) return;
    if (here) ask(here);
    else await rows.notify(WANTED, uploadId);
  }

  function leave(entry: Held): void {
    entry.over = true;
    if (held.get(entry.uploadId) === entry) held.delete(entry.uploadId);
    waiters.wake(entry.uploadId);
  }

  /** Never throws. A lease that could not be given back runs out by itself. */
  async function release(entry: Held): Promise<void> {
    if (entry.over) return;
    try {
      await within(RELEASE_MS, rows.release(entry), 'release');
      if (entry.wanted) await within(RELEASE_MS, rows.notify(RELEASED, entry.uploadId), 'notification');
    } catch (error) {
      log.warn({ err: error, uploadId: entry.uploadId }, 'lease could not be given back');
    } finally {
      leave(entry);
    }
  }

  function adopt(upload: Upload, onRequested: Held['onRequested'], arrival = ++arrivals): Lease {
    const entry: Held = {
      uploadId: upload.id,
      epoch: upload.leaseEpoch,
      onRequested,
      arrival,
      wanted: false,
      askedAt: undefined,
      over: false,
    };
    held.set(upload.id, entry);
    const { id, leaseEpoch: epoch } = upload;
    return { id, epoch, upload, release: () => release(entry), leave: () => leave(entry) };
  }

  async function renew(): Promise<void> {
    const entries = [...held.values()];
    if (entries.length === 0) return;
    const mine = await rows.renew(entries, entries.filter(mayLast));
    for (const entry of entries) {
      if (!mine.has(entry.uploadId) && held.get(entry.uploadId) === entry) ask(entry);
    }
  }

  /** One renewal at a time. If its connection hangs, the next one gets another before leases run out. */
  async function keepRenewing(): Promise<void> {
    while (!closed) {
      const renewal = within(RENEW_EVERY_MS, renew(), 'renewal').catch((error: unknown) => {
        log.warn({ err: error }, 'leases could not be renewed');
      });
      await Promise.all([renewal, pause(RENEW_EVERY_MS, undefined, { ref: false })]);
    }
  }
  void keepRenewing();

  const acquire: Leases['acquire'] = async (uploadId, access, signal, onRequested) => {
    const deadline = Date.now() + WAIT_MS;
    const arrival = ++arrivals;
    signal.throwIfAborted();
    const free = await take(uploadId, access);
    if (free) return adopt(free, onRequested, arrival);
    // Check access before the holder is disturbed.
    await rows.read(uploadId, access);
    const waiter = waiters.join(uploadId);
    try {
      for (;;) {
        signal.throwIfAborted();
        const newest = waiter.isNewest();
        const upload = newest && (await take(uploadId, access));
        if (upload) return adopt(upload, onRequested, arrival);
        if (Date.now() > deadline) throw inUse();
        await Promise.all([waiter.pause(RETRY_MS), newest && askFor(uploadId, arrival)]);
      }
    } finally {
      waiter.leave();
    }
  };

  return {
    holder,
    adopt,
    acquire,
    async look(uploadId, access, signal, onRequested) {
      const upload = await rows.read(uploadId, access);
      const { status, offset, length, finishedAt } = upload;
      const isToFinish = status === 'uploading' && offset === length && finishedAt === null;
      if (upload.leaseHolder !== null || isToFinish) return acquire(uploadId, access, signal, onRequested);
      return { id: uploadId, epoch: upload.leaseEpoch, upload, release: async () => {}, leave() {} };
    },
    async tryAcquire(uploadId) {
      const upload = await take(uploadId);
      return upload && adopt(upload, undefined);
    },
    askAll() {
      for (const entry of held.values()) ask(entry);
    },
    close() {
      closed = true;
    },
  };
}
