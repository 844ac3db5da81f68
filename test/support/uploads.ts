import type { Queryable } from './database.js';

/*
 * Changes to uploads that stand for the passage of time. Suites make them here, so that a column can change in one place.
 */

/** Makes an upload due to expire, or all uploads. */
export async function makeDue(database: Queryable, uploadId: string | null = null): Promise<void> {
  await database.query(
    `UPDATE uploads SET expires_at = now() - interval '1 second' WHERE $1::uuid IS NULL OR id = $1`,
    [uploadId],
  );
}

/** Lets the time pass for which partial uploads stay usable after a final upload has used them. */
export async function makeUsedUp(database: Queryable): Promise<void> {
  await database.query(
    `UPDATE uploads SET retry_at = now(), expires_at = now() WHERE kind = 'partial' AND status = 'finished'`,
  );
}
