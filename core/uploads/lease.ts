import type { DataSource } from 'typeorm';
import { Upload } from '../database/entities/upload.js';
import { queryEntities } from '../database/rows.js';
import { AppError } from '../errors.js';
import type { Logger } from '../log.js';

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
 * holds.)
 */

/** Milliseconds that a lease lasts without being renewed. */
export const LEASE_MS = 10_000;

const RENEW_EVERY_MS = LEASE_MS / 3;

/** How long a request waits for a lease before it is told that the upload is in use. */
const WAIT_MS = LEASE_MS + 5_000;

/** How often a lease that another process holds is tried again. */
const RETRY_MS = 200;

export interface Lease {
  /** As it was when the lease was taken, or as the holder has left it. */
  upload: Upload;
  epoch: number;
  release(): Promise<void>;
}

export interface Leases {
  /**
   * Waits for the lease of an upload and takes it.
   * @param ownerId whose upload it must be: nobody else's request may disturb the holder
   * @param signal gives up when it aborts
   * @param onRequested called when another request wants the lease, or when it was lost
   * @throws {AppError} not_found, locked
   */
  acquire(uploadId: string, ownerId: string, signal: AbortSignal, onRequested: () => void): Promise<Lease>;
  /** Notes a lease that came with the creation of its upload; see `holder`. */
  adopt(upload: Upload, onRequested: () => void): Lease;
  /** Name of this process in the lease columns. */
  readonly holder: string;
  /** Waits until this process holds no lease. */
  whenIdle(): Promise<void>;
  /** Ends the renewal. Leases that are still held run out. */
  close(): void;
}

interface Held {
  uploadId: string;
  epoch: number;
  onRequested: () => void;
  released: Promise<void>;
  markReleased: () => void;
}

/**
 * @param holder a name that no other living process has. Leases that the database shows under this name are from
 * a dead process of the same name, and are ended at once.
 */
export async function openLeases(database: DataSource, holder: string, log: Logger): Promise<Leases> {
  const held = new Map<string, Held>();

  await database.query(
    `UPDATE uploads SET lease_holder = NULL, lease_epoch = lease_epoch + 1
     WHERE status = 'uploading' AND lease_holder = $1`,
    [holder],
  );

  async function tryAcquire(uploadId: string, ownerId: string): Promise<Upload | undefined> {
    const [upload] = await queryEntities(
      database.manager,
      Upload,
      `UPDATE uploads
       SET lease_holder = $2, lease_epoch = lease_epoch + 1,
           lease_expires_at = now() + $3 * interval '1 millisecond'
       WHERE id = $1 AND owner_id = $4 AND (lease_holder IS NULL OR lease_expires_at < now())
       RETURNING *`,
      [uploadId, holder, LEASE_MS, ownerId],
    );
    return upload;
  }

  function adopt(upload: Upload, onRequested: () => void): Lease {
    const { promise: released, resolve: markReleased } = withResolvers();
    const entry: Held = {
      uploadId: upload.id,
      epoch: upload.leaseEpoch,
      onRequested,
      released,
      markReleased,
    };
    held.set(upload.id, entry);
    return {
      upload,
      epoch: entry.epoch,
      async release() {
        if (held.get(upload.id) === entry) held.delete(upload.id);
        try {
          await database.query(
            'UPDATE uploads SET lease_holder = NULL WHERE id = $1 AND lease_epoch = $2 AND lease_holder = $3',
            [upload.id, entry.epoch, holder],
          );
        } finally {
          markReleased();
        }
      },
    };
  }

  async function renew(): Promise<void> {
    const entries = [...held.values()];
    if (entries.length === 0) return;
    const [rows] = (await database.query(
      `UPDATE uploads SET lease_expires_at = now() + $3 * interval '1 millisecond'
       FROM unnest($1::uuid[], $2::integer[]) AS mine (id, epoch)
       WHERE uploads.id = mine.id AND lease_epoch = mine.epoch
       RETURNING uploads.id`,
      [entries.map((entry) => entry.uploadId), entries.map((entry) => entry.epoch), LEASE_MS],
    )) as [{ id: string }[], number];
    const renewed = new Set(rows.map((row) => row.id));
    for (const entry of entries) {
      if (!renewed.has(entry.uploadId) && held.get(entry.uploadId) === entry) entry.onRequested();
    }
  }

  const timer = setInterval(() => {
    renew().catch((error: unknown) => log.warn({ err: error }, 'leases could not be renewed'));
  }, RENEW_EVERY_MS);
  timer.unref();

  return {
    holder,
    adopt,
    async acquire(uploadId, ownerId, signal, onRequested) {
      const deadline = Date.now() + WAIT_MS;
      for (;;) {
        signal.throwIfAborted();
        const here = held.get(uploadId);
        // Whoever holds it in this process may still write, even if the lease ran out because the database was away.
        const upload = here ? undefined : await tryAcquire(uploadId, ownerId);
        if (upload) return adopt(upload, onRequested);
        const exists = await database.getRepository(Upload).existsBy({ id: uploadId, ownerId });
        if (!exists) throw new AppError('not_found');
        if (Date.now() > deadline) {
          throw new AppError('locked', { detail: 'Another request writes to this upload', retryable: true });
        }
        here?.onRequested();
        await Promise.race([pause(RETRY_MS), ...(here ? [here.released] : [])]);
      }
    },
    async whenIdle() {
      while (held.size > 0) await Promise.all([...held.values()].map((entry) => entry.released));
    },
    close: () => clearInterval(timer),
  };
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

function withResolvers(): { promise: Promise<void>; resolve: () => void } {
  let resolve: () => void = () => {};
  const promise = new Promise<void>((done) => {
    resolve = done;
  });
  return { promise, resolve };
}
