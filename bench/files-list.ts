import { randomBytes } from 'node:crypto';
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import { startEmbeddedPostgres } from '../core/database/embedded/postgres.js';
import { median, SCALE } from './figures.js';
import { type Measured, startScript } from './programs.js';
import { register } from './standalone.js';
import { atMost, type Row, row } from './table.js';

const FEW = 10_000;
const MANY = 1_000_000 * SCALE;
/** With pages of this size the few files have a page 1,000. */
const PAGE = 10;
const ROUNDS = 200;

const SMALL = 'at 10,000';

/** A list that is measured: its query, and whether its thousandth page is asked for. */
const LISTS: [figure: string, query: Record<string, string>, far?: true][] = [
  ['page 1', {}],
  ['page 1,000', {}, true],
  ['page 1 by name', { sort: 'filename' }],
  ['page 1,000 by size', { sort: '-size' }, true],
  ['status of one file in 100', { status: 'failed' }],
  ['type of one file in 4', { type: 'image/png' }],
  ['size of a few files', { minSize: '1', maxSize: '9' }],
  ['search for a word in 10 names', { q: 'needle' }],
  ['search for a word in every eighth name', { q: 'invoice' }],
];

interface Installation {
  url: string;
  token: string;
  stop(): Promise<void>;
}

/** Each request for the list at a million files costs hardly more than at ten thousand, whatever the filter. */
export async function benchFilesList(): Promise<Row[]> {
  const folder = await mkdtemp(join(tmpdir(), 'landfall-bench-'));
  // If root starts it, PostgreSQL runs as another user, and that user must be able to enter the folder.
  await chmod(folder, 0o711);
  const postgres = await startEmbeddedPostgres({ dataDir: folder });
  const running: Installation[] = [];
  try {
    for (const count of [FEW, MANY]) running.push(await start(postgres.url, folder, count));
    const [few, many] = running as [Installation, Installation];
    const rows: Row[] = [];
    for (const [figure, query, far] of LISTS) {
      rows.push(await compare(figure, few, many, (one) => addressOf(one, query, far)));
    }
    for (const path of ['/api/stats', '/api/stats/types']) {
      rows.push(await compare(path, few, many, async () => path));
    }
    return rows;
  } finally {
    for (const installation of running) await installation.stop();
    await postgres.stop();
    await rm(postgres.location, { recursive: true, force: true });
    await rm(folder, { recursive: true, force: true });
  }
}

/** Asks both in turns. @param addressOf makes the address that is asked for */
async function compare(
  figure: string,
  few: Installation,
  many: Installation,
  addressOf: (installation: Installation) => Promise<string>,
): Promise<Row> {
  const addresses = { few: await addressOf(few), many: await addressOf(many) };
  const times: { few: number[]; many: number[] } = { few: [], many: [] };
  for (let round = 0; round < ROUNDS; round++) {
    times.few.push(await measure(few, addresses.few));
    times.many.push(await measure(many, addresses.many));
  }
  const values = { landfall: median(times.many), [SMALL]: median(times.few) };
  return row(`${figure}, ms`, values, 2, atMost(1.5, SMALL));
}

/** A server on a database of its own, with one user who has this number of files. */
async function start(postgresUrl: string, folder: string, count: number): Promise<Installation> {
  const url = new URL(postgresUrl);
  url.pathname = `bench_${count}`;
  await withClient(postgresUrl, (client) => client.query(`CREATE DATABASE bench_${count}`));
  const server: Measured = await startScript('../server/main.js', {
    DATABASE_URL: url.href,
    DATA_DIR: await mkdtemp(join(folder, 'data-')),
    DATA_DIR_SHARED: 'true',
    JWT_SECRET: randomBytes(32).toString('hex'),
    // The token must outlive the bench.
    ACCESS_TOKEN_MINUTES: '1440',
  });
  const token = await register(server.url);
  await withClient(url.href, (client) => fill(client, count));
  return { url: server.url, token, stop: server.stop };
}

async function withClient(url: string, work: (client: pg.Client) => Promise<unknown>): Promise<void> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    await work(client);
  } finally {
    await client.end();
  }
}

/** Inserts files without their uploads and blobs, which no list reads. The indexes are made afterwards, which is faster. */
async function fill(client: pg.Client, count: number): Promise<void> {
  const { rows } = await client.query(
    `SELECT indexname AS name, indexdef AS definition FROM pg_indexes WHERE tablename = 'files' AND indexname <> 'files_pkey'`,
  );
  for (const { name } of rows) await client.query(`DROP INDEX ${name}`);
  await client.query(`SET session_replication_role = replica`);
  await client.query(
    `INSERT INTO files (id, owner_id, blob_id, filename, size, declared_type, detected_type, status, clean, created_at)
     SELECT gen_random_uuid(), users.id, gen_random_uuid(),
       (ARRAY['holiday', 'invoice', 'report', 'scan', 'IMG', 'letter', 'contract', 'backup'])[1 + n % 8]
         || CASE WHEN n % ($1 / 10) = 7 THEN ' needle ' ELSE ' ' END || left(md5(n::text), 8) || ' ' || n || '.jpg',
       CASE WHEN n % ($1 / 10) = 8 THEN 5 ELSE 1000 + (n::bigint * 7919) % 10000000 END, 'application/octet-stream',
       (ARRAY['image/jpeg', 'application/pdf', 'image/png', 'text/plain'])[1 + n % 4],
       CASE WHEN n % 100 = 0 THEN 'failed' ELSE 'completed' END, true, now() - n * interval '1 second'
     FROM users, generate_series(1, $1::integer) AS n`,
    [count],
  );
  for (const { definition } of rows) await client.query(definition);
  // The triggers that keep the sums have not run either.
  await client.query(
    `INSERT INTO file_totals (owner_id, trashed, status, type, files, bytes)
     SELECT owner_id, false, status, detected_type, count(*), sum(size) FROM files GROUP BY owner_id, status, detected_type`,
  );
  await client.query('VACUUM ANALYZE files');
}

async function addressOf(
  installation: Installation,
  query: Record<string, string>,
  far = false,
): Promise<string> {
  let cursor: string | null = null;
  // A cursor does not depend on the limit, so larger pages lead to it as well.
  for (let left = far ? PAGE * 999 : 0; left > 0; left -= 200) {
    const asked = { ...query, limit: String(Math.min(left, 200)), ...(cursor !== null && { cursor }) };
    const answer = await ask(installation, `/api/files?${new URLSearchParams(asked)}`);
    cursor = ((await answer.json()) as { nextCursor: string | null }).nextCursor;
    if (cursor === null) throw new Error('the list ended before page 1,000');
  }
  const asked = { ...query, limit: String(PAGE), ...(cursor !== null && { cursor }) };
  return `/api/files?${new URLSearchParams(asked)}`;
}

/** Milliseconds until the whole answer is here. */
async function measure(installation: Installation, address: string): Promise<number> {
  const began = performance.now();
  const answer = await ask(installation, address);
  const { items } = (await answer.json()) as { items?: unknown[] };
  const took = performance.now() - began;
  if (address.startsWith('/api/files') && items?.length !== PAGE) {
    throw new Error(`${address}: ${items?.length} files`);
  }
  return took;
}

async function ask({ url, token }: Installation, address: string): Promise<Response> {
  const answer = await fetch(url + address, { headers: { Authorization: `Bearer ${token}` } });
  if (!answer.ok) throw new Error(`${address}: ${answer.status} ${await answer.text()}`);
  return answer;
}
