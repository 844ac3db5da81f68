import type { DataSource } from 'typeorm';
import { TimedOut, within } from '../../core/concurrency.js';
import { countChanged, execute } from '../../core/database/rows.js';
import type { Logger } from '../../core/log.js';

/*
 * Elects one worker as the leader: it runs the passes that repair what crashes have left half done. The
 * leader holds a lease, one row of the database, and renews it; the others try to take it. A leader that dies
 * or hangs loses the lease within seconds, and one that stops gives it back. The lease saves work and is no
 * lock: a pass continues when its worker loses the lease, and two passes at once are harmless.
 */

interface Times {
  /** Milliseconds that the lease lasts without renewal. */
  leaseMs: number;
  /** How often the leader renews the lease, and the others try to take it. */
  everyMs: number;
}

const TIMES: Times = { leaseMs: 8_000, everyMs: 2_000 };

export interface Leader {
  leads(): boolean;
  /** Settles after the first attempt of this worker. */
  tried: Promise<void>;
  /** Gives the lease back. */
  close(): Promise<void>;
}

interface LeaderDeps {
  database: DataSource;
  log: Logger;
}

/**
 * Takes part in the election of the leader from now on.
 * @param holder a name that no other living worker has
 * @param onElected called when this worker becomes the leader
 */
export function joinLeadership(
  { database, log }: LeaderDeps,
  holder: string,
  onElected: () => void,
  { leaseMs, everyMs }: Times = TIMES,
): Leader {
  /** End of the lease by the clock of this process; never later than in the database. */
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
      // Other parts report a database that is away. If it hangs, wait for its answer before the next attempt.
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
      await execute(database, `UPDATE pass_leader SET expires_at = '-infinity' WHERE holder = $1`, [
        holder,
      ]).catch((error: unknown) => log.debug({ err: error }, 'leader'));
    },
  };
}
