import type { DataSource } from 'typeorm';
import { TimedOut, within } from '../../core/concurrency.js';
import { countChanged } from '../../core/database/rows.js';
import type { Logger } from '../../core/log.js';

/*
 * One of all workers leads: it runs the passes over what crashes have left half done. It holds a lease, one row of the
 * database, which it renews; the others try to take it. One that dies or hangs loses it within seconds, one that stops
 * gives it back. This saves work and is no lock: what the leader has begun goes on when it loses the lease, and two
 * passes at once are harmless.
 */

interface Times {
  /** Milliseconds that the lease lasts without being renewed. */
  leaseMs: number;
  /** How often the leader renews it, and the others try to take it. */
  everyMs: number;
}

const TIMES: Times = { leaseMs: 8_000, everyMs: 2_000 };

export interface Leader {
  leads(): boolean;
  /** Settles when this worker has tried for the first time. */
  tried: Promise<void>;
  /** Gives the lease back. */
  close(): Promise<void>;
}

interface LeaderDeps {
  database: DataSource;
  log: Logger;
}

/**
 * Takes part in choosing the leader from now on.
 * @param holder a name that no other living worker has
 * @param onElected called when this worker has become the leader
 */
export function joinLeadership(
  { database, log }: LeaderDeps,
  holder: string,
  onElected: () => void,
  { leaseMs, everyMs }: Times = TIMES,
): Leader {
  /** By the clock of this process, not later than by the database's. */
  let until = 0;
  let trying: Promise<void> | undefined;

  const leads = () => Date.now() < until;

  async function tryToLead(): Promise<void> {
    const led = leads();
    const asked = Date.now();
    const taken = countChanged(
      database.manager,
      `UPDATE pass_leader SET holder = $1, expires_at = now() + $2 * interval '1 millisecond'
       WHERE holder = $1 OR expires_at < now()`,
      [holder, leaseMs],
    );
    try {
      until = (await within(leaseMs, taken, 'lease of the leader')) > 0 ? asked + leaseMs : 0;
    } catch (error) {
      // A database that is away says so elsewhere. One that hangs is asked again when it has answered.
      log.debug({ err: error }, 'leader');
      if (error instanceof TimedOut) await taken.catch(() => {});
    }
    if (leads() && !led) {
      log.info('this worker leads');
      onElected();
    }
  }
  function run(): Promise<void> {
    trying ??= tryToLead().finally(() => {
      trying = undefined;
    });
    return trying;
  }

  const tried = run();
  const timer = setInterval(run, everyMs);
  return {
    leads,
    tried,
    async close() {
      clearInterval(timer);
      await trying;
      if (!leads()) return;
      until = 0;
      await database
        .query(`UPDATE pass_leader SET expires_at = '-infinity' WHERE holder = $1`, [holder])
        .catch((error: unknown) => log.debug({ err: error }, 'leader'));
    },
  };
}
