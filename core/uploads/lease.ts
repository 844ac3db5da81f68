import type { DataSource } from 'typeorm';
import { Upload } from '../database/entities/upload.js';
import type { Listener } from '../database/listen.js';
import { queryEntities } from '../database/rows.js';
import { AppError } from '../errors.js';
import type { Logger } from '../log.js';
import type { UploadAccess } from './queries.js';
import { createWaiters, inUse } from './waiters.js';

/*
 * Who may write to an upload: the holder of its lease.
 *
 * The lease is three columns of the upload's row. Taking it raises `lease_epoch`, and every write to the ledger
 * names the epoch it was given in its own WHERE. A process that was stopped while it held the lease, and wakes
 * up after another has taken it, therefore changes nothing, however late it comes. Leases of the dead run out;
 * those of the living are renewed by one statement for all of them.
 *
 * A newer request is more likely to have a living client behind it than the one that holds the lease (the old
 * connection may be half open), so it asks the holder to let go and waits for that. (tus 1.0, "Core Protocol",
 * PATCH: servers should not let two requests write at a time, and should free a lock that a dead connection
 * holds.) A holder in another process is asked by NOTIFY, and says by NOTIFY that it has let go. Notifications can
 * be lost, so who waits asks and tries again every 200 ms. Of many that wait for one upload, only the newest does that,
 * and not more than a few may wait: see waiters.ts.
 */

/** Milliseconds that a lease lasts without being renewed. */
export const LEASE_MS = 10_000;

const RENEW_EVERY_MS = LEASE_MS / 3;

/** How long a request waits for a lease before it is told that the upload is in use. */
const WAIT_MS = LEASE_MS + 5_000;

/** How often a lease that somebody holds is asked for, and tried, again. */
export const RETRY_MS = 200;

/** Channels of PostgreSQL; the payload is the id of the upload. */
const WANTED = 'lease_wanted';
const RELEASED = 'lease_released';

export interface Lease {
  /** As it was when the lease was taken, or as the holder has left it. */
  upload: Upload;
  epoch: number;
  release(): Promise<void>;
  /** Instead of release(): what finishes the upload ends the lease, too. */
  leave(): void;
}

export interface Leases {
  /**
   * Waits for the lease of an upload and takes it.
   * @param access whose upload it must be: nobody else's request may disturb the holder
   * @param signal gives up when it aborts
   * @param onRequested called when another request wants the lease, or when it was lost
   * @throws {AppError} not_found, locked
   */
  acquire(
    uploadId: string,
    access: UploadAccess,
    signal: AbortSignal,
    onRequested: () => void,
  ): Promise<Lease>;
  /** Takes the lease of anybody's upload if it is free or has run out, without waiting or disturbing the holder. */
  tryAcquire(uploadId: string): Promise<Lease | undefined>;
  /** Notes a lease that came with the creation of its upload; see `holder`. */
  adopt(upload: Upload, onRequested: () => void): Lease;
  /** Name of this process in the lease columns. */
  readonly holder: string;
  /** Asks all holders in this process to let go. */
  askAll(): void;
  /** Ends the renewal. Leases that are still held run out. */
  close(): void;
}

interface Held {
  uploadId: string;
  epoch: number;
  onRequested: () => void;
  /** Grows with each request of this process that comes for a lease. */
  arrival: number;
  /** Whether another process waits for it. */
  wanted: boolean;
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
  const held = new Map<string, Held>();
  const waiters = createWaiters();
  let arrivals = 0;

  await database.query(
    `UPDATE uploads SET lease_holder = NULL, lease_epoch = lease_epoch + 1, untidy = true
     WHERE status = 'uploading' AND lease_holder = $1`,
    [holder],
  );
  await listener.subscribe(WANTED, (uploadId) => {
    const entry = held.get(uploadId);
    if (!entry) return;
    entry.wanted = true;
    entry.onRequested();
  });
  await listener.subscribe(RELEASED, (uploadId) => waiters.wake(uploadId));

  /** @param access whose it must be; undefined: anybody's */
  async function take(uploadId: string, access?: UploadAccess): Promise<Upload | undefined> {
    // Whoever holds it in this process may still write, even if the lease ran out because the database was away.
    if (held.has(uploadId)) return undefined;
    // What a holder that did not release it was about to store may be there without the ledger naming it.
    const [upload] = await queryEntities(
      database.manager,
      Upload,
      `UPDATE uploads
       SET lease_holder = $2, lease_epoch = lease_epoch + 1,
           lease_expires_at = now() + $3 * interval '1 millisecond',
           untidy = untidy OR lease_holder IS NOT NULL
       WHERE id = $1 AND ($4::uuid IS NULL OR owner_id = $4) AND ($5::uuid IS NULL OR upload_token_id = $5)
         AND (lease_holder IS NULL OR lease_expires_at < now())
       RETURNING *`,
      [uploadId, holder, LEASE_MS, access?.ownerId ?? null, access?.uploadTokenId ?? null],
    );
    return upload;
  }

  /** @throws {AppError} not_found when there is no such upload, or not for them */
  async function check(uploadId: string, { ownerId, uploadTokenId }: UploadAccess): Promise<void> {
    const found: unknown[] = await database.query(
      'SELECT FROM uploads WHERE id = $1 AND owner_id = $2 AND ($3::uuid IS NULL OR upload_token_id = $3)',
      [uploadId, ownerId, uploadTokenId ?? null],
    );
    if (found.length === 0) throw new AppError('not_found');
  }

  /** Asks the holder, wherever it is, to let go. */
  async function askFor(uploadId: string, arrival: number): Promise<void> {
    const here = held.get(uploadId);
    // Who came later than the one that asks is let alone: it has overtaken the others in the line.
    if (here && here.arrival > arrival) return;
    if (here) here.onRequested();
    else await database.query('SELECT pg_notify($1, $2)', [WANTED, uploadId]);
  }

  function leave(entry: Held): void {
    if (held.get(entry.uploadId) === entry) held.delete(entry.uploadId);
    waiters.wake(entry.uploadId);
  }

  async function release(entry: Held): Promise<void> {
    const { uploadId, epoch } = entry;
    try {
      await database.query(
        'UPDATE uploads SET lease_holder = NULL WHERE id = $1 AND lease_epoch = $2 AND lease_holder = $3',
        [uploadId, epoch, holder],
      );
      if (entry.wanted) await database.query(`SELECT pg_notify('${RELEASED}', $1)`, [uploadId]);
    } finally {
      leave(entry);
    }
  }

  function adopt(upload: Upload, onRequested: () => void, arrival = ++arrivals): Lease {
    const entry: Held = {
      uploadId: upload.id,
      epoch: upload.leaseEpoch,
      onRequested,
      arrival,
      wanted: false,
    };
    held.set(upload.id, entry);
    return { upload, epoch: entry.epoch, release: () => release(entry), leave: () => leave(entry) };
  }

  async function renew(): Promise<void> {
    const entries = [...held.values()];
    if (entries.length === 0) return;
    // A lease that is just being given back is nobody's any more, but not lost: who loses one finds its epoch raised.
    const mine: { id: string }[] = await database.query(
      `WITH mine AS (
         SELECT * FROM unnest($1::uuid[], $2::integer[]) AS mine (id, epoch)
       ), renewed AS (
         UPDATE uploads SET lease_expires_at = now() + $3 * interval '1 millisecond'
         FROM mine WHERE uploads.id = mine.id AND lease_epoch = epoch AND lease_holder = $4
       )
       SELECT uploads.id FROM uploads JOIN mine ON uploads.id = mine.id AND lease_epoch = epoch`,
      [entries.map((entry) => entry.uploadId), entries.map((entry) => entry.epoch), LEASE_MS, holder],
    );
    const kept = new Set(mine.map((row) => row.id));
    for (const entry of entries) {
      if (!kept.has(entry.uploadId) && held.get(entry.uploadId) === entry) entry.onRequested();
    }
  }

  const timer = setInterval(() => {
    renew().catch((error: unknown) => log.warn({ err: error }, 'leases could not be renewed'));
  }, RENEW_EVERY_MS);
  timer.unref();

  return {
    holder,
    adopt,
    async acquire(uploadId, access, signal, onRequested) {
      const deadline = Date.now() + WAIT_MS;
      const arrival = ++arrivals;
      signal.throwIfAborted();
      const free = await take(uploadId, access);
      if (free) return adopt(free, onRequested, arrival);
      // Before anybody is disturbed.
      await check(uploadId, access);
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
    },
    async tryAcquire(uploadId) {
      const upload = await take(uploadId);
      return upload && adopt(upload, () => {});
    },
    askAll() {
      for (const entry of held.values()) entry.onRequested();
    },
    close: () => clearInterval(timer),
  };
}
