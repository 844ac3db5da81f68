import type { DataSource } from 'typeorm';
import { Upload } from '../database/entities/upload.js';
import { execute, queryEntities, queryRows } from '../database/rows.js';
import { AppError } from '../errors.js';
import type { UploadAccess } from './queries.js';

/** A lease that this process took: its upload and its epoch. */
export interface HeldRow {
  uploadId: string;
  epoch: number;
}

/** The statements of lease.ts on the rows of uploads. */
export interface LeaseRows {
  /** Ends the leases of a dead process that had the name of this one. */
  endFormer(): Promise<void>;
  /** @param access whose upload it must be; undefined: anyone's. @returns undefined when the lease is not free */
  take(uploadId: string, access?: UploadAccess): Promise<Upload | undefined>;
  /** @throws {AppError} not_found when there is no such upload, or `access` does not include it */
  read(uploadId: string, access: UploadAccess): Promise<Upload>;
  release(held: HeldRow): Promise<void>;
  /**
   * @param entries all leases of this process
   * @param renewed the leases among them that are to be renewed
   * @returns ids of the uploads whose leases were not taken over
   */
  renew(entries: HeldRow[], renewed: HeldRow[]): Promise<Set<string>>;
  notify(channel: string, uploadId: string): Promise<void>;
}

/** @param holder name of this process, @param leaseMs how long a lease lasts without being renewed */
export function createLeaseRows(database: DataSource, holder: string, leaseMs: number): LeaseRows {
  return {
    async endFormer() {
      await execute(
        database,
        `UPDATE uploads SET lease_holder = NULL, lease_epoch = lease_epoch + 1, untidy = true
         WHERE status = 'uploading' AND lease_holder = $1`,
        [holder],
      );
    },
    async take(uploadId, access) {
      // A holder that did not release its lease may have stored bytes that the ledger does not name.
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
        [uploadId, holder, leaseMs, access?.ownerId ?? null, access?.uploadTokenId ?? null],
      );
      return upload;
    },
    async read(uploadId, { ownerId, uploadTokenId }) {
      const [upload] = await queryEntities(
        database.manager,
        Upload,
        'SELECT * FROM uploads WHERE id = $1 AND owner_id = $2 AND ($3::uuid IS NULL OR upload_token_id = $3)',
        [uploadId, ownerId, uploadTokenId ?? null],
      );
      if (!upload) throw new AppError('not_found');
      return upload;
    },
    async release({ uploadId, epoch }) {
      await execute(
        database,
        'UPDATE uploads SET lease_holder = NULL WHERE id = $1 AND lease_epoch = $2 AND lease_holder = $3',
        [uploadId, epoch, holder],
      );
    },
    async renew(entries, renewed) {
      // A concatenation locks several uploads too, so wait for none: the next renewal comes long before a lease runs out.
      // A lease that is being released has no holder but still its epoch. A lost lease has another epoch.
      const mine = await queryRows<{ id: string }>(
        database,
        `WITH mine AS (
           SELECT * FROM unnest($1::uuid[], $2::integer[]) AS mine (id, epoch)
         ), free AS (
           SELECT uploads.id FROM uploads JOIN mine ON uploads.id = mine.id AND lease_epoch = epoch
           WHERE lease_holder = $4 AND uploads.id = ANY ($5::uuid[])
           FOR NO KEY UPDATE OF uploads SKIP LOCKED
         ), renewed AS (
           UPDATE uploads SET lease_expires_at = now() + $3 * interval '1 millisecond'
           FROM free WHERE uploads.id = free.id
         )
         SELECT uploads.id FROM uploads JOIN mine ON uploads.id = mine.id AND lease_epoch = epoch`,
        [
          entries.map(({ uploadId }) => uploadId),
          entries.map(({ epoch }) => epoch),
          leaseMs,
          holder,
          renewed.map(({ uploadId }) => uploadId),
        ],
      );
      return new Set(mine.map(({ id }) => id));
    },
    async notify(channel, uploadId) {
      await execute(database, 'SELECT pg_notify($1, $2)', [channel, uploadId]);
    },
  };
}
