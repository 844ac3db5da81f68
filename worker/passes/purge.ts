import { forEachOf } from '../../core/concurrency.js';
import { queryRows } from '../../core/database/rows.js';
import { listOverdue, type PurgeRule } from '../../core/files/overdue.js';
import { listTrashBeyondQuota, listTrashOwners } from '../../core/files/trash.js';
import type { LedgerDeps } from '../../core/uploads/commit.js';
import { purgeOverdue } from '../../core/uploads/end.js';

/* The passes in which the system deletes files for good. */

/** How many files are purged at once. */
const PURGES = 4;

/** Whatever is in the trash. */
const IN_TRASH: PurgeRule = { since: 'deleted_at', hours: 0, reason: 'trash_full' };

/**
 * Purges trashed files beyond the quota of their owner. The trash does not count against the quota, so it
 * must not grow without end. The first call checks all of the trash, because the default quota may have
 * changed. Later calls check only owners who have deleted something since, or whose quota was set.
 * @returns the pass, which returns the number of purged files
 */
export function createTrim(deps: LedgerDeps): () => Promise<number> {
  let since: string | undefined;
  return async () => {
    const [now] = await queryRows<{ began: string }>(deps.database, 'SELECT now()::text AS began');
    let purged = 0;
    for await (const owners of listTrashOwners(deps.database, since)) {
      for await (const ids of listTrashBeyondQuota(deps.database, deps.quota, owners)) {
        purged += await purgeEach(deps, ids, IN_TRASH);
      }
    }
    since = now?.began;
    return purged;
  };
}

/** Purges all files that are overdue by a rule. @returns the number of purged files */
export async function purgeAllOverdue(deps: LedgerDeps, rule: PurgeRule): Promise<number> {
  let purged = 0;
  for await (const ids of listOverdue(deps.database, rule)) purged += await purgeEach(deps, ids, rule);
  return purged;
}

/** @returns how many of the files were purged: a file that is not overdue any more stays */
async function purgeEach(deps: LedgerDeps, ids: string[], rule: PurgeRule): Promise<number> {
  let purged = 0;
  await forEachOf(ids, PURGES, async (id) => {
    if (await purgeOverdue(deps, id, rule)) purged++;
  });
  return purged;
}
