import type pg from 'pg';
import { ConfigError } from '../config-error.js';
import { type ClientConfig, DatabaseClient } from './client.js';
import { toAway } from './outage.js';

/**
 * Opens a single connection, outside of any pool.
 * @param limits undefined: a query may take as long as it needs
 * @param name shown in pg_stat_activity
 * @throws {ConfigError} naming DATABASE_URL, with why the database cannot be used
 */
export async function connectOnce(
  databaseUrl: string,
  limits?: ClientConfig['limits'],
  name?: string,
): Promise<pg.Client> {
  const client = new DatabaseClient({
    connectionString: databaseUrl,
    limits,
    ...(name ? { application_name: name } : {}),
  });
  // Without a listener, a connection that breaks while it is idle would end the process.
  client.on('error', () => {});
  try {
    await client.connect();
    return client;
  } catch (error) {
    throw new ConfigError(`DATABASE_URL: ${toAway(error).message}`, { cause: error });
  }
}
