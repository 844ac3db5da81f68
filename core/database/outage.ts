import { hasCode } from '../errors.js';

/**
 * Of sockets, and SQLSTATEs of a server that shuts down, has crashed or is starting, has ended a transaction that stood
 * still, has no connection left, or is a standby that only reads.
 */
const CODES = [
  ...['ECONNREFUSED', 'ECONNRESET', 'EPIPE', 'ETIMEDOUT', 'ENOTFOUND'],
  ...['08000', '08001', '08003', '08006', '57P01', '57P02', '57P03', '25P03', '53300', '25006'],
];

/** What pg, its pool and TypeORM say without a code; the last where a connection was lost between two statements. */
const MESSAGES =
  /Connection terminated|timeout exceeded when trying to connect|not queryable|connection error|query runner (was )?already released/i;

/** Whether an error only says that PostgreSQL is away: the same call may work when it is back. */
export function isDatabaseAway(error: unknown): boolean {
  return (
    CODES.some((code) => hasCode(error, code)) || (error instanceof Error && MESSAGES.test(error.message))
  );
}

/** SQLSTATEs of a transaction that PostgreSQL has undone because of others: a deadlock, a failure to serialise. */
const CONFLICTS = ['40P01', '40001'];

/** Whether an error only says that others were in the way: the same call may work now. */
export function isConflict(error: unknown): boolean {
  return CONFLICTS.some((code) => hasCode(error, code));
}
