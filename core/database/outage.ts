import pg from 'pg';
import {
  QueryFailedError,
  QueryRunnerAlreadyReleasedError,
  QueryRunnerProviderAlreadyReleasedError,
} from 'typeorm';

/*
 * Errors of PostgreSQL that are not the fault of the statement. They get their class where they arise, in the clients and
 * pools of client.ts, so that nobody mistakes a failure of another service for one of the database.
 */

/** PostgreSQL cannot be used: the same call may work when it is back. */
export class DatabaseAway extends Error {
  override name = 'DatabaseAway';
}

/** PostgreSQL has undone a statement because others were in its way: the same call may work now. */
class DatabaseConflict extends Error {
  override name = 'DatabaseConflict';
}

/**
 * SQLSTATEs, or the classes that they begin with, of a server that loses a connection, lacks memory, disk or connections,
 * cannot read or write its files, shuts down, has crashed or is starting, has ended a transaction that stood still or a
 * statement that ran for too long, or is a standby that only reads.
 */
const AWAY = ['08', '53', '58', '57P01', '57P02', '57P03', '25P03', '57014', '25006'];

/** Of a deadlock, a failure to serialise, a lock that was not to be had in time. */
const CONFLICTS = ['40P01', '40001', '55P03'];

/**
 * Gives an error of a query its class.
 * @param over whether the connection has ended: then whatever is not an answer of the server comes from that
 */
export function translate(error: unknown, over: boolean): unknown {
  if (!(error instanceof pg.DatabaseError)) return over ? toAway(error) : error;
  const code = error.code ?? '';
  if (AWAY.some((prefix) => code.startsWith(prefix))) return toAway(error);
  return CONFLICTS.includes(code) ? new DatabaseConflict(error.message, { cause: error }) : error;
}

export function toAway(error: unknown): DatabaseAway {
  if (error instanceof DatabaseAway) return error;
  // Where a name has several addresses, each has failed for a reason of its own.
  const reason = error instanceof AggregateError ? error.errors[0] : error;
  return new DatabaseAway(reason instanceof Error ? reason.message : String(reason), { cause: error });
}

/** Whether an error only says that PostgreSQL is away: the same call may work when it is back. */
export function isDatabaseAway(error: unknown): boolean {
  return (
    causeOf(error) instanceof DatabaseAway ||
    // The connection was lost between two statements of a transaction.
    error instanceof QueryRunnerAlreadyReleasedError ||
    error instanceof QueryRunnerProviderAlreadyReleasedError
  );
}

/** Whether an error only says that others were in the way: the same call may work now. */
export function isConflict(error: unknown): boolean {
  return causeOf(error) instanceof DatabaseConflict;
}

/** TypeORM wraps what a query fails with. */
function causeOf(error: unknown): unknown {
  return error instanceof QueryFailedError ? error.driverError : error;
}
