import pg from 'pg';
import {
  QueryFailedError,
  QueryRunnerAlreadyReleasedError,
  QueryRunnerProviderAlreadyReleasedError,
} from 'typeorm';

/*
 * Errors of PostgreSQL that are not the fault of the statement. The clients and pools of client.ts give them their
 * classes, so that a failure of another service is never mistaken for one of the database.
 */

/** PostgreSQL cannot be used: the same call may work when it is back. */
export class DatabaseAway extends Error {
  override name = 'DatabaseAway';
}

/** PostgreSQL has aborted a statement because of concurrent transactions: the same call may work now. */
class DatabaseConflict extends Error {
  override name = 'DatabaseConflict';
}

/**
 * SQLSTATEs, or their classes, for these cases: the server lost a connection; lacks memory, disk or connections; cannot
 * read or write its files; shuts down, crashed or is starting; ended an idle transaction; cancelled a statement that ran
 * too long; or is a read-only standby.
 *
 * A statement that ran too long (57014) is not at fault: ours are short, so the server is overloaded or its disk stalls.
 */
const AWAY = ['08', '53', '58', '57P01', '57P02', '57P03', '25P03', '57014', '25006'];

/** SQLSTATEs of a deadlock, a serialisation failure, and a lock that was not available in time. */
const CONFLICTS = ['40P01', '40001', '55P03'];

/**
 * Gives an error of a query its class.
 * @param over whether the connection has ended: then every error that is not an answer of the server is an outage
 */
export function translate(error: unknown, over: boolean): unknown {
  if (!(error instanceof pg.DatabaseError)) return over ? toAway(error) : error;
  const code = error.code ?? '';
  if (AWAY.some((prefix) => code.startsWith(prefix))) return toAway(error);
  return CONFLICTS.includes(code) ? new DatabaseConflict(error.message, { cause: error }) : error;
}

export function toAway(error: unknown): DatabaseAway {
  if (error instanceof DatabaseAway) return error;
  // If a host name has several addresses, there is an error for each address. Report the first.
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

/** Whether an error is only a conflict with concurrent transactions: the same call may work now. */
export function isConflict(error: unknown): boolean {
  return causeOf(error) instanceof DatabaseConflict;
}

/** TypeORM wraps the error of a query. */
function causeOf(error: unknown): unknown {
  return error instanceof QueryFailedError ? error.driverError : error;
}
