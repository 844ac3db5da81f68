import type { Queryable } from './database.js';

/* The leases of uploads, as they are after a holder has ended. For the holders themselves see core/uploads/lease.ts. */

/** Leaves an upload without a holder, or all uploads. */
export async function freeLease(database: Queryable, uploadId: string | null = null): Promise<void> {
  await database.query('UPDATE uploads SET lease_holder = NULL WHERE $1::uuid IS NULL OR id = $1', [
    uploadId,
  ]);
}

/**
 * Lets the lease of an upload run out, or all leases: their holders were killed or stand still. A holder that is alive
 * renews it again.
 */
export async function letLeaseRunOut(database: Queryable, uploadId: string | null = null): Promise<void> {
  await database.query(
    `UPDATE uploads SET lease_expires_at = now() - interval '1 second'
     WHERE lease_holder IS NOT NULL AND ($1::uuid IS NULL OR id = $1)`,
    [uploadId],
  );
}
