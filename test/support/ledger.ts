import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { DataSource } from 'typeorm';
import { v7 as uuidv7 } from 'uuid';
import { loadConfig, UNLIMITED } from '../../core/config.js';
import { openDatabase } from '../../core/database/data-source.js';
import type { File } from '../../core/database/entities/file.js';
import type { Upload } from '../../core/database/entities/upload.js';
import { createLogger } from '../../core/log.js';
import { openFileStorage } from '../../core/storage/file.js';
import { MARKER, type Storage } from '../../core/storage/storage.js';
import { declareLength, type LedgerDeps } from '../../core/uploads/commit.js';
import { createUpload } from '../../core/uploads/create.js';
import type { Lease } from '../../core/uploads/lease.js';
import { reserve } from '../../core/uploads/quota.js';
import { receive } from '../../core/uploads/receive.js';
import { assemble, createFile } from '../../core/uploads/settle.js';
import { sourceOf } from './bytes.js';
import { createDatabase } from './database.js';

export interface TestLedger extends LedgerDeps {
  database: DataSource;
  storage: Storage;
  /** The address of its database. */
  url: string;
  /** The id of an account that exists. */
  ownerId: string;
  // biome-ignore lint/suspicious/noExplicitAny: the caller knows the row
  query(sql: string, parameters?: unknown[]): Promise<any[]>;
  /** A new upload, whose first lease (epoch 1) has `leaseHolder`. */
  create(length: number | null, leaseHolder?: string): Promise<Upload>;
  /** Its row as it is now. */
  // biome-ignore lint/suspicious/noExplicitAny: the caller knows the row
  row(id: string): Promise<any>;
  /** Where an object is stored. */
  pathOf(key: string): string;
  /** Content of the stored objects. */
  stored(): Promise<string[]>;
  close(): Promise<void>;
}

/**
 * The ledger of this process, without any server, on a database and a folder of its own.
 * @param reach the address at which it finds the database
 */
export async function openLedger(
  reach: (databaseUrl: string) => Promise<string> = async (url) => url,
): Promise<TestLedger> {
  const test = await createDatabase();
  const folder = await mkdtemp(join(tmpdir(), 'landfall-ledger-'));
  const database = await openDatabase(await reach(test.url), 'ledger test');
  const storage = await openFileStorage(folder, loadConfig({}), createLogger('silent', 'test'));
  // As a server does that has claimed the folder.
  await storage.marker.write('of the test');
  const ownerId = uuidv7();
  const query = async (sql: string, parameters?: unknown[]) => (await test.query(sql, parameters)).rows;
  await query(
    `INSERT INTO users (id, email, password_hash, role) VALUES ($1, 'owner@example.org', '', 'user')`,
    [ownerId],
  );
  const quota = { bytes: UNLIMITED, files: UNLIMITED };
  const limits = { quota, maxUploadSize: Number.MAX_SAFE_INTEGER, maxSizeByType: [] };
  const deps: LedgerDeps = { database, storage, uploadExpiryHours: 24, ...limits };
  return {
    ...deps,
    url: test.url,
    ownerId,
    query,
    create: (length, leaseHolder = 'nobody') =>
      createUpload(deps, { id: uuidv7(), ownerId, length, metadata: {}, leaseHolder, actor: {} }),
    row: async (id) => (await query('SELECT * FROM uploads WHERE id = $1', [id]))[0],
    pathOf: (key) => join(folder, key.slice(0, 2), key),
    async stored() {
      const entries = await readdir(folder, { recursive: true, withFileTypes: true });
      const files = entries.filter((entry) => entry.isFile() && entry.name !== MARKER);
      return Promise.all(files.map((file) => readFile(join(file.parentPath, file.name), 'utf8')));
    },
    async close() {
      await database.destroy();
      await test.drop();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

/** A lease of an upload as its row was, with an epoch that need not be the row's any more. */
export function leaseOf(upload: Upload, epoch: number): Lease {
  return { id: upload.id, epoch, upload, release: async () => {}, leave() {} };
}

/** Stores the chunks, and assembles the object if the upload is complete. @returns the upload after that */
export async function appendToUpload(
  deps: LedgerDeps,
  upload: Upload,
  epoch: number,
  chunks: AsyncIterable<Uint8Array>,
): Promise<Upload> {
  const lease = leaseOf(upload, epoch);
  await receive(deps, lease, sourceOf(chunks));
  if (lease.upload.offset === lease.upload.length) await assemble(deps, lease);
  return lease.upload;
}

/** Assembles the object of an upload. */
export function assembleUpload(
  deps: LedgerDeps,
  upload: Upload,
  epoch: number,
  signal?: AbortSignal,
): Promise<void> {
  return assemble(deps, leaseOf(upload, epoch), signal);
}

/** Declares the length of an upload. @returns the upload with its length */
export async function declareUploadLength(
  deps: LedgerDeps,
  upload: Upload,
  epoch: number,
  length: number,
): Promise<Upload> {
  const lease = leaseOf(upload, epoch);
  await declareLength(deps, lease, length);
  return lease.upload;
}

/** Makes the file of an upload whose object is assembled. */
export async function finishUpload(deps: LedgerDeps, id: string): Promise<File> {
  return (await createFile(deps, id, undefined)).file;
}

/** The room that an upload of unknown length is to have. */
export function reserveRoom(
  { database, quota }: LedgerDeps,
  { id }: Upload,
  room: Parameters<typeof reserve>[3],
): Promise<number> {
  return reserve(database.manager, quota, { id, epoch: 1 }, room);
}
