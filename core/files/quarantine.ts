import type { DataSource } from 'typeorm';
import { Blob } from '../database/entities/blob.js';
import { File } from '../database/entities/file.js';
import { queryEntities, queryRows } from '../database/rows.js';
import type { Storage } from '../storage/storage.js';
import { AttemptOver, type FileRun } from './attempt.js';
import { copyBlob, deleteUnreferencedBlobs, referenceBlobs, releaseBlobs, type StoredBlob } from './blobs.js';

/*
 * The bytes of infected files lie under a prefix of their own, so that an operator can deny access to it, and so that no
 * address of an object that was given out before leads to them.
 *
 * A blob never changes. So moving is copying it to a new blob, to which one transaction switches the files, and giving up
 * the old blob. A crash before the transaction leaves a blob without a reference, which the reconciler deletes. A crash
 * before the copy leaves an infected file that is not in quarantine, which the reconciler finds.
 *
 * A file of which a later scan thinks better leaves the quarantine before it can be read again.
 */

interface QuarantineDeps {
  database: DataSource;
  storage: Storage;
}

/** Files that are moved at a time. */
const BATCH = 100;

/** Moves the bytes of all infected files into quarantine. @returns how many blobs were moved */
export async function quarantineInfected(deps: QuarantineDeps): Promise<number> {
  let moved = 0;
  for (let after: string | undefined; ; ) {
    const files = await queryEntities(
      deps.database,
      File,
      `SELECT * FROM files WHERE status = 'infected' AND NOT in_quarantine AND ($1::uuid IS NULL OR id > $1)
       ORDER BY id LIMIT $2`,
      [after ?? null, BATCH],
    );
    for (const blobId of new Set(files.map((file) => file.blobId))) {
      if (await quarantineBlob(deps, blobId)) moved++;
    }
    after = files.at(-1)?.id;
    if (files.length < BATCH) return moved;
  }
}

/**
 * Moves a blob into quarantine, for the infected files that refer to it.
 * @returns false if there are none (any more)
 */
export async function quarantineBlob(deps: QuarantineDeps, blobId: string): Promise<boolean> {
  const infected = `blob_id = $1 AND status = 'infected' AND NOT in_quarantine`;
  const { database } = deps;
  const [found] = await queryRows(database, `SELECT id FROM files WHERE ${infected} LIMIT 1`, [blobId]);
  const blob = found && (await database.getRepository(Blob).findOneBy({ id: blobId }));
  if (!blob) return false;
  return (await switchFiles(deps, blob, true, infected, [blobId])) !== undefined;
}

/**
 * Takes the bytes of a file out of quarantine. Call it when a scan of this attempt has found the file clean.
 * @returns the blob that the file refers to now
 * @throws {AttemptOver}
 */
export async function leaveQuarantine(
  deps: QuarantineDeps,
  file: FileRun,
  blob: StoredBlob,
): Promise<StoredBlob> {
  const own = `id = $1 AND run = $2 AND attempts = $3 AND status = 'processing' AND in_quarantine`;
  const copy = await switchFiles(deps, blob, false, own, [file.id, file.run, file.attempts]);
  if (copy) return copy;
  throw new AttemptOver(`Attempt ${file.attempts} of run ${file.run} of file ${file.id} is over`);
}

/**
 * Copies a blob, and lets files refer to the copy.
 * @param which condition on the files, with its parameters
 * @returns the copy; undefined if no file fulfils the condition any more
 */
async function switchFiles(
  deps: QuarantineDeps,
  blob: StoredBlob,
  isQuarantined: boolean,
  which: string,
  parameters: unknown[],
): Promise<StoredBlob | undefined> {
  const copy = await copyBlob(deps, blob, isQuarantined);
  const switched = await deps.database.transaction(async (manager) => {
    const files = await queryRows<{ id: string }>(
      manager,
      `SELECT id FROM files WHERE ${which} ORDER BY id FOR UPDATE`,
      parameters,
    );
    if (files.length === 0) return 0;
    const ids = files.map(({ id }) => id);
    // The trigger that counts saved bytes finds the owner by a file that refers to the blob.
    await releaseBlobs(manager, [blob.id], ids.length);
    await manager.update(File, ids, { blobId: copy.id, inQuarantine: isQuarantined });
    await referenceBlobs(manager, [copy.id], ids.length);
    return ids.length;
  });
  // Whichever of them has no reference now. The reconciler deletes the rest.
  await deleteUnreferencedBlobs(deps, [blob.id, copy.id]).catch(() => {});
  return switched > 0 ? copy : undefined;
}
