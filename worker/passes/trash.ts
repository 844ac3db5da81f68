import { forEachOf } from '../../core/concurrency.js';
import { AppError } from '../../core/errors.js';
import { terminateUpload } from '../../core/uploads/end.js';
import type { LedgerDeps } from '../../core/uploads/ledger.js';
import { listTrashBeyondQuota, listTrashOwners } from '../../core/uploads/quota.js';

/** Files that are purged at once. */
const PURGES = 4;

/**
 * Purges what lies in the trash beyond the quota of its owner: it does not count, and so must not grow without end.
 * The first call looks at all of the trash, since the default quota may be another one; further calls look at owners who
 * have deleted something since, or whose quota was set.
 * @returns the pass; it returns how many files were purged
 */
export function createTrim(deps: LedgerDeps): () => Promise<number> {
  let since: string | undefined;
  return async () => {
    const [{ began }]: [{ began: string }] = await deps.database.query('SELECT now()::text AS began');
    let purged = 0;
    for await (const owners of listTrashOwners(deps.database, since)) {
      for await (const ids of listTrashBeyondQuota(deps.database, deps.quota, owners)) {
        await forEachOf(ids, PURGES, (id) => terminateUpload(deps, id).catch(ignoreGone));
        purged += ids.length;
      }
    }
    since = began;
    return purged;
  };
}

/** Its owner, or another worker, was first. */
function ignoreGone(error: unknown): void {
  if (!(error instanceof AppError && error.code === 'gone')) throw error;
}
