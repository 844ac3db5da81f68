import pg from 'pg';
import { ConfigError } from '../config.js';

/**
 * Opens one connection of its own.
 * @throws {ConfigError} naming DATABASE_URL, with why the database cannot be used
 */
export async function connectOnce(databaseUrl: string): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: databaseUrl, connectionTimeoutMillis: 10_000 });
  // A connection that breaks while nothing is asked of it would otherwise end the process.
  client.on('error', () => {});
  try {
    await client.connect();
    return client;
  } catch (error) {
    // Where a name has several addresses, each has failed for a reason of its own.
    const reason = error instanceof AggregateError ? error.errors[0] : error;
    throw new ConfigError(`DATABASE_URL: ${reason instanceof Error ? reason.message : reason}`, {
      cause: error,
    });
  }
}
