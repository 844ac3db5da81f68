import type { DataSource, EntityManager } from 'typeorm';
import type { Actor } from './database/entities/event.js';
import type { Listener } from './database/listen.js';
import { execute, queryRows } from './database/rows.js';
import { appendEvents } from './events/append.js';
import type { Logger } from './log.js';

/*
 * The level of the logs while the processes run. An admin sets it for all servers and workers, for a time: it is a row
 * that every process reads when it starts, when it is notified, and from time to time, because notifications can be lost.
 * The signal SIGUSR2 turns `debug` on and off in one process, also while the database is away.
 */

/** The levels that an admin can choose, fewest lines first. None of them hides errors. */
export const LOG_LEVELS = ['error', 'warn', 'info', 'debug', 'trace'] as const;

export type LogLevel = (typeof LOG_LEVELS)[number];

/** A level for all processes, and its end. */
export interface LevelForNow {
  level: LogLevel;
  until: Date;
  /** Milliseconds to the end, by the clock of the database. */
  msLeft: number;
}

const CHANNEL = 'log_level';

/** How often a process reads the level without being notified. */
const LOOK_EVERY_MS = 30_000;

const COLUMNS = 'level, until, extract(epoch FROM until - now())::float8 * 1000 AS "msLeft"';

/** @returns undefined when every process has the level of its configuration */
export async function readLogLevel(database: DataSource): Promise<LevelForNow | undefined> {
  const [row] = await queryRows<LevelForNow>(
    database,
    `SELECT ${COLUMNS} FROM log_level WHERE until > now()`,
  );
  return row;
}

/** Sets the level of all processes for a time, and writes that to the event log. */
export async function setLogLevel(
  database: DataSource,
  { level, seconds }: { level: LogLevel; seconds: number },
  actor: Actor,
): Promise<LevelForNow | undefined> {
  return database.transaction(async (manager) => {
    const [row] = await queryRows<LevelForNow>(
      manager,
      `INSERT INTO log_level (level, until) VALUES ($1, now() + $2 * interval '1 second')
       ON CONFLICT (single) DO UPDATE SET level = excluded.level, until = excluded.until
       RETURNING ${COLUMNS}`,
      [level, seconds],
    );
    await tellOf(manager, { level, seconds }, actor);
    return row;
  });
}

/** Lets every process go back to the level of its configuration, and writes that to the event log. */
export async function resetLogLevel(database: DataSource, actor: Actor): Promise<void> {
  await database.transaction(async (manager) => {
    await execute(manager, 'DELETE FROM log_level');
    await tellOf(manager, { level: null }, actor);
  });
}

async function tellOf(
  manager: EntityManager,
  data: { level: LogLevel | null; seconds?: number },
  actor: Actor,
): Promise<void> {
  await appendEvents(manager, [{ type: 'log.level', subjectId: null, ownerId: null, data, actor }]);
  await execute(manager, 'SELECT pg_notify($1, $2)', [CHANNEL, '']);
}

export interface LevelOfLog {
  /** Follows the level that an admin sets. Until then, and while the database is away, only the signal counts. */
  follow(database: DataSource, listener: Listener): Promise<void>;
  close(): void;
}

/** Keeps the level of a log as the signal and the admin want it. */
export function openLogLevel(log: Logger): LevelOfLog {
  const configured = log.level;
  let forNow: LogLevel | undefined;
  let isDebugging = false;
  let ending: NodeJS.Timeout | undefined;
  let looking: NodeJS.Timeout | undefined;

  function apply(): void {
    const change = { from: log.level, to: isDebugging ? 'debug' : (forNow ?? configured) };
    if (change.from === change.to) return;
    // One of the two levels may hide the warning.
    const isSaid = log.isLevelEnabled('warn');
    if (isSaid) log.warn(change, 'the level of the log changes');
    log.level = change.to;
    if (!isSaid) log.warn(change, 'the level of the log has changed');
  }

  async function look(database: DataSource): Promise<void> {
    try {
      const found = await readLogLevel(database);
      clearTimeout(ending);
      if (found) ending = setTimeout(end, found.msLeft).unref();
      forNow = found?.level;
      apply();
    } catch (error) {
      log.debug({ err: error }, 'the level of the log could not be read');
    }
  }

  function end(): void {
    forNow = undefined;
    apply();
  }

  function toggle(): void {
    isDebugging = !isDebugging;
    apply();
  }

  process.on('SIGUSR2', toggle);
  return {
    async follow(database, listener) {
      await listener.subscribe(CHANNEL, () => void look(database));
      await look(database);
      looking = setInterval(() => void look(database), LOOK_EVERY_MS).unref();
    },
    close() {
      process.off('SIGUSR2', toggle);
      clearInterval(looking);
      clearTimeout(ending);
    },
  };
}
