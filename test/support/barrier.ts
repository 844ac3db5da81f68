import type pg from 'pg';
import type { TestDatabase } from './database.js';
import { until } from './until.js';

/*
 * Stops the processes under test at a chosen statement by making PostgreSQL wait there, so that they can be killed
 * at exactly that point and the product needs no hook for it.
 */

export interface Barrier {
  /** Waits until `count` connections stand at the barrier, as until() does. */
  reached(count?: number, seconds?: number): Promise<void>;
  /**
   * Breaks the connections at the barrier, so that their statements never happened, and lets later ones pass.
   */
  cut(): Promise<void>;
  /** Lets all connections pass, now and later. */
  open(): Promise<void>;
}

/** Selects a row for each connection to this database that waits for a lock of another one. */
export const WAITING_FOR_LOCKS = `SELECT query FROM pg_stat_activity
  WHERE datname = current_database() AND wait_event_type = 'Lock'`;

let barriers = 0;

/**
 * Closes a barrier before each row that a table gets, changes or loses.
 * @param statement such as `UPDATE ON files`
 * @param when which rows, in terms of NEW and OLD
 */
export async function closeBarrier(
  database: TestDatabase,
  statement: string,
  when = 'true',
): Promise<Barrier> {
  const key = ++barriers;
  const holder = await database.connect();
  await holder.query('SELECT pg_advisory_lock($1)', [key]);
  await holder.query(`
    CREATE FUNCTION public.wait_at_barrier_${key}() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
      PERFORM pg_advisory_xact_lock_shared(${key});
      RETURN coalesce(NEW, OLD);
    END $$;
    CREATE TRIGGER barrier_${key} BEFORE ${statement}
      FOR EACH ROW WHEN (${when}) EXECUTE FUNCTION public.wait_at_barrier_${key}();`);

  const waiting = async () => {
    const { rows } = await holder.query<{ pid: number }>(
      `SELECT pid FROM pg_locks
       WHERE locktype = 'advisory' AND NOT granted AND (classid, objid, objsubid) = (0, $1, 1)
         AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`,
      [key],
    );
    return rows.map((row) => row.pid);
  };
  return {
    reached: async (count = 1, seconds) => {
      const what = `${count} to stand before ${statement} when ${when}`;
      await until(what, async () => (await waiting()).length >= count, seconds);
    },
    async cut() {
      const pids = await waiting();
      await holder.query('SELECT pg_terminate_backend(pid, 10000) FROM unnest($1::integer[]) AS pid', [pids]);
      await holder.query('SELECT pg_advisory_unlock($1)', [key]);
    },
    async open() {
      await holder.query('SELECT pg_advisory_unlock($1)', [key]);
    },
  };
}

/** Waits until a statement of another connection waits for a lock that `holder` has. */
export async function whenSomebodyWaitsFor(database: TestDatabase, holder: pg.Client): Promise<void> {
  const { rows } = await holder.query<{ pid: number }>('SELECT pg_backend_pid() AS pid');
  await until('somebody to wait for a lock', async () => {
    const { rowCount } = await database.query(
      'SELECT FROM pg_stat_activity WHERE datname = current_database() AND $1 = ANY (pg_blocking_pids(pid))',
      [rows[0]?.pid],
    );
    return rowCount;
  });
}

/**
 * Waits until `count` connections wait for locks of others. Connections at a barrier count.
 * @param isOver says that no more will come
 */
export async function waitingForLocks(
  database: TestDatabase,
  count: number,
  isOver = () => false,
): Promise<void> {
  await until(`${count} to wait for a lock`, async () => {
    const { rows } = await database.query(WAITING_FOR_LOCKS);
    return rows.length >= count || isOver();
  });
}
