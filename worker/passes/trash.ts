import { forEachOf } from '../../core/concurrency.js';
import { queryRows } from '../../core/database/rows.js';
import { listTrashBeyondQuota, listTrashOwners } from '../../core/files/trash.js';
import type { LedgerDeps } from '../../core/uploads/commit.js';
import { purgeFromTrash } from '../../core/uploads/end.js';

/** How many files are purged at once. */
const PURGES = 4;

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
        await forEachOf(ids, PURGES, async (id) => {
          if (await purgeFromTrash(deps, id)) purged++;
        });
      }
    }
    since = now?.began;
    return purged;
  };
}
