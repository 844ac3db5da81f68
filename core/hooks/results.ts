import type { DataSource } from 'typeorm';
import { execute, queryRows } from '../database/rows.js';
import type { Logger } from '../log.js';
import { HOOK_TYPES, type HookType } from './question.js';

/*
 * How the hooks have answered lately, over all processes, for admins. Each process counts by itself and adds its counts to
 * the table every few seconds, so that no question waits for it. Counts of the last seconds of a killed process are lost.
 */

const WRITE_EVERY_MS = 2_000;

/** Characters of an error that are kept. */
const MAX_ERROR = 300;

export type HookOutcome = 'answered' | 'refused' | 'failed';

/** The results of one type of hook since the installation began. */
export interface HookResult {
  type: HookType;
  /** Questions and reports, without repetitions after a failed attempt. */
  asked: number;
  refused: number;
  failed: number;
  lastAt: Date | null;
  /** Milliseconds. */
  lastMs: number | null;
  lastFailedAt: Date | null;
  lastError: string | null;
}

export interface HookResults {
  /** @param ms how long the answer took, with all attempts. @param error why there is none */
  note(type: HookType, outcome: HookOutcome, ms: number, error?: string): void;
  /** Writes what is not written yet. Never throws. */
  flush(): Promise<void>;
}

interface Counted {
  asked: number;
  refused: number;
  failed: number;
  lastAt: Date;
  lastMs: number;
  lastFailedAt: Date | null;
  lastError: string | null;
}

export function openHookResults({ database, log }: { database: DataSource; log: Logger }): HookResults {
  let counted = new Map<HookType, Counted>();
  let timer: NodeJS.Timeout | undefined;

  async function flush(): Promise<void> {
    clearTimeout(timer);
    timer = undefined;
    const written = counted;
    counted = new Map();
    if (written.size === 0) return;
    await write(database, written).catch((error: unknown) =>
      log.warn({ err: error }, 'results of hooks not written down'),
    );
  }

  return {
    note(type, outcome, ms, error) {
      const before = counted.get(type);
      const now = new Date();
      const failed = outcome === 'failed';
      counted.set(type, {
        asked: (before?.asked ?? 0) + 1,
        refused: (before?.refused ?? 0) + Number(outcome === 'refused'),
        failed: (before?.failed ?? 0) + Number(failed),
        lastAt: now,
        lastMs: Math.round(ms),
        lastFailedAt: failed ? now : (before?.lastFailedAt ?? null),
        lastError: failed ? (error ?? '').slice(0, MAX_ERROR) : (before?.lastError ?? null),
      });
      timer ??= setTimeout(flush, WRITE_EVERY_MS).unref();
    },
    flush,
  };
}

async function write(database: DataSource, counted: Map<HookType, Counted>): Promise<void> {
  const rows = [...counted].map(([type, one]) => ({ type, ...one }));
  await execute(
    database,
    `INSERT INTO hook_results AS kept (type, asked, refused, failed, last_at, last_ms, last_failed_at, last_error)
     SELECT type, asked, refused, failed, "lastAt", "lastMs", "lastFailedAt", "lastError"
     FROM jsonb_to_recordset($1::jsonb) AS one (
       type text, asked bigint, refused bigint, failed bigint, "lastAt" timestamptz, "lastMs" integer,
       "lastFailedAt" timestamptz, "lastError" text)
     ORDER BY type
     ON CONFLICT (type) DO UPDATE SET
       asked = kept.asked + excluded.asked, refused = kept.refused + excluded.refused,
       failed = kept.failed + excluded.failed, last_at = excluded.last_at, last_ms = excluded.last_ms,
       last_failed_at = coalesce(excluded.last_failed_at, kept.last_failed_at),
       last_error = coalesce(excluded.last_error, kept.last_error)`,
    [JSON.stringify(rows)],
  );
}

/** The results of all types of hooks, also of those that were never asked. */
export async function listHookResults(database: DataSource): Promise<HookResult[]> {
  const found = await queryRows<HookResult>(
    database,
    `SELECT type, asked::float8 AS asked, refused::float8 AS refused, failed::float8 AS failed, last_at AS "lastAt",
       last_ms AS "lastMs", last_failed_at AS "lastFailedAt", last_error AS "lastError"
     FROM hook_results`,
  );
  const none = {
    asked: 0,
    refused: 0,
    failed: 0,
    lastAt: null,
    lastMs: null,
    lastFailedAt: null,
    lastError: null,
  };
  return HOOK_TYPES.map((type) => found.find((one) => one.type === type) ?? { type, ...none });
}
