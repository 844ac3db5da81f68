import type { DataSource } from 'typeorm';
import { ConfigError } from '../config-error.js';
import { queryRows } from '../database/rows.js';
import { hasCode } from '../errors.js';
import type { Storage, StoredObject } from '../storage/storage.js';
import { findNewestBlob, selectKeysOfBlobs } from './blobs.js';

/*
 * Which installation a storage belongs to. Keys are random, so two installations could share one bucket (or folder) and
 * prefix, until one of them sweeps: it would take the other's objects for orphans. So a marker in the storage bears the
 * id of its installation, which the database keeps. Server and worker refuse to start on the storage of another
 * installation, and a sweep deletes only in its own.
 */

/** The form of our keys: a random id, and for segments of an upload a second part behind a dot. See QUARANTINE. */
const OURS = /^(quarantine\/)?[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}(\.[\w.-]+)?$/;

/** Whether an object may be Landfall's by its key. In a shared bucket, all other objects belong to other programs. */
export function isOurKey(key: string): boolean {
  return OURS.test(key);
}

/** How many objects are examined to find out which installation a storage without a marker belongs to. */
const MAX_LOOKED_AT = 10_000;

/** Keys that the database is asked for at a time. */
const BATCH = 1000;

const ID = /[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}/;

interface ClaimDeps {
  database: DataSource;
  storage: Storage;
}

/**
 * Sees to it that the storage is this installation's. One without a marker gets it when the database names something
 * that is stored there, or when the database names no blob and nothing of Landfall is stored there.
 * @throws {ConfigError} naming the storage, with what to do
 */
export async function claimStorage(deps: ClaimDeps): Promise<void> {
  const own = await readInstallationId(deps.database);
  let found = await readMarker(deps);
  if (found === undefined) {
    await requireOursOrNew(deps);
    await writeMarker(deps, own);
    // Another installation may have started at the same moment.
    found = await readMarker(deps);
  }
  if (found !== own) throw belongsToAnother(deps, found, own);
}

/**
 * Makes the storage this installation's, even if it belonged to another installation.
 * @returns the id of the installation that it belonged to; undefined if there was no marker
 */
export async function takeOverStorage(deps: ClaimDeps): Promise<string | undefined> {
  const before = await readMarker(deps);
  await writeMarker(deps, await readInstallationId(deps.database));
  return before;
}

/** @throws {ConfigError} when the storage bears no marker, or that of another installation */
export async function requireClaimed(deps: ClaimDeps): Promise<void> {
  const own = await readInstallationId(deps.database);
  const found = await readMarker(deps);
  if (found === undefined) {
    throw new ConfigError(
      `${deps.storage.marker.place}: does not say which installation it belongs to: start this version's server or ` +
        'worker once. Nothing was deleted',
    );
  }
  if (found !== own) throw belongsToAnother(deps, found, own);
}

async function readInstallationId(database: DataSource): Promise<string> {
  const [row] = await queryRows<{ id: string }>(database, 'SELECT id FROM installation');
  if (!row) throw new Error('the table installation is empty');
  return row.id;
}

/** The id that the marker bears; undefined if there is no marker. */
async function readMarker({ storage: { marker } }: ClaimDeps): Promise<string | undefined> {
  const text = await marker.read().catch((error: unknown) => {
    throw new ConfigError(`${marker.place}: ${marker.name} cannot be read: ${reasonOf(error)}`, {
      cause: error,
    });
  });
  if (text === undefined) return undefined;
  return ID.exec(text)?.[0] ?? 'unknown';
}

async function writeMarker({ storage: { marker } }: ClaimDeps, id: string): Promise<void> {
  const text = `Everything stored here belongs to the Landfall installation ${id}.\n`;
  await marker.write(text).catch((error: unknown) => {
    const detail = `${marker.name} could not be written: ${reasonOf(error)}: server, worker and sweep need write access`;
    throw new ConfigError(`${marker.place}: ${detail}`, { cause: error });
  });
}

/** The storage's errors carry the underlying reason in `cause`. */
function reasonOf(error: unknown): string {
  const { message, cause } = error as Error;
  const inner = cause instanceof Error ? `: ${cause.message}` : '';
  return hasCode(error, 'EACCES') ? 'not allowed (EACCES)' : `${message}${inner}`;
}

function belongsToAnother({ storage }: ClaimDeps, found: string | undefined, own: string): ConfigError {
  const { place, name } = storage.marker;
  return new ConfigError(
    `${place}: ${name} says that it belongs to another installation of Landfall (${found ?? 'unknown'}; this one is ` +
      `${own}): use another place (S3_PREFIX, S3_BUCKET, DATA_DIR); or, only if no other installation uses it any ` +
      'more, take it over: npm run sweep -- --take-over',
  );
}

/**
 * Lets a place without a marker pass if the database names something that is stored there, or if both are new: the
 * database names no blob, and nothing that could be Landfall's is stored. Unfinished uploads alone do not make a place
 * wrong: the parts of a multipart upload are in no list, and at the worst clients begin those uploads anew.
 * @throws {ConfigError}
 */
async function requireOursOrNew({ database, storage }: ClaimDeps): Promise<void> {
  const { place } = storage.marker;
  const newest = await findNewestBlob({ database, storage });
  if (newest === 'stored') return;
  let lookedAt = 0;
  let ofLandfall = 0;
  let candidates: StoredObject[] = [];
  for await (const object of storage.list()) {
    lookedAt++;
    if (isOurKey(object.key)) {
      ofLandfall++;
      candidates.push(object);
    }
    if (candidates.length === BATCH) {
      if (await knowsAny(database, candidates)) return;
      candidates = [];
    }
    // In a bucket with so many objects of other programs, Landfall needs its own prefix.
    if (lookedAt === MAX_LOOKED_AT) break;
  }
  if (await knowsAny(database, candidates)) return;
  if (ofLandfall > 0 || lookedAt === MAX_LOOKED_AT) {
    throw new ConfigError(
      `${place}: holds objects that this database does not know: use another place (S3_PREFIX, S3_BUCKET, ` +
        'DATA_DIR), or take over what is there: npm run sweep -- --take-over',
    );
  }
  if (newest === 'missing') {
    throw new ConfigError(
      `${place}: holds none of the objects that this database names: mount the disk, or correct S3_PREFIX, ` +
        'S3_BUCKET, DATA_DIR; or, only if the objects are lost, go on with this place: npm run sweep -- --take-over',
    );
  }
}

async function knowsAny(database: DataSource, objects: StoredObject[]): Promise<boolean> {
  const [row] = await queryRows<{ known: boolean }>(
    database,
    `SELECT EXISTS (${selectKeysOfBlobs('$1::text[]')})
         OR EXISTS (SELECT FROM uploads WHERE storage_key = ANY ($2)) AS known`,
    [objects.map(({ key }) => key), objects.map(({ key }) => key.split('.', 1)[0])],
  );
  return row?.known ?? false;
}
