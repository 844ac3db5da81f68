import { setImmediate } from 'node:timers/promises';
import pg from 'pg';
import { ConfigError } from '../config.js';

/**
 * For `onConnect` of a pool. PostgreSQL may say that it shuts down in the same packet in which it says that a connection
 * is ready. Nobody listens to it then: the pool does not any more, and who asked for it does not yet. Such a connection is
 * not handed out.
 */
export async function refuseStillborn(client: pg.ClientBase): Promise<void> {
  let error: Error | undefined;
  const note = (thrown: Error) => {
    error = thrown;
  };
  client.once('error', note);
  await setImmediate();
  client.off('error', note);
  if (error) throw error;
}

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
