import { randomBytes } from 'node:crypto';
import pg from 'pg';

/** A TestDatabase or a TestLedger, for helpers that only change rows. */
export interface Queryable {
  query(sql: string, parameters?: unknown[]): Promise<unknown>;
}

export interface TestDatabase {
  url: string;
  /** Runs SQL on a connection of its own, one statement at a time. */
  query(sql: string, parameters?: unknown[]): Promise<pg.QueryResult>;
  /** A further connection, for holding locks; ended by drop(). */
  connect(): Promise<pg.Client>;
  drop(): Promise<void>;
}

/** Makes a database for one suite: migrated and empty, or a copy of `template`. */
export async function createDatabase(template = process.env.TEST_TEMPLATE_DATABASE): Promise<TestDatabase> {
  const server = process.env.TEST_DATABASE_URL ?? '';
  const name = `test_${randomBytes(6).toString('hex')}`;
  await administer(server, async (admin) => {
    // Two suites may copy the template at the same moment, which PostgreSQL refuses.
    await admin.query('SELECT pg_advisory_lock(1)');
    await admin.query(`CREATE DATABASE ${name} TEMPLATE ${template}`);
  });

  const url = new URL(server);
  url.pathname = name;
  const clients: pg.Client[] = [];
  const connect = async () => {
    const client = new pg.Client({ connectionString: url.href, application_name: 'test' });
    client.on('error', () => {});
    await client.connect();
    clients.push(client);
    return client;
  };
  const pool = new pg.Pool({ connectionString: url.href, application_name: 'test', max: 1 });
  pool.on('error', () => {});
  return {
    url: url.href,
    query: (sql, parameters) => pool.query(sql, parameters),
    connect,
    async drop() {
      await Promise.all([pool.end(), ...clients.map((open) => open.end().catch(() => {}))]);
      await administer(server, (admin) => admin.query(`DROP DATABASE ${name} WITH (FORCE)`));
    },
  };
}

/** On a connection of its own each time: some suites restart PostgreSQL. */
async function administer(server: string, work: (admin: pg.Client) => Promise<unknown>): Promise<void> {
  const admin = new pg.Client({ connectionString: server });
  await admin.connect();
  try {
    await work(admin);
  } finally {
    await admin.end();
  }
}
