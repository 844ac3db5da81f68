import {
  type DataSource,
  type EntityManager,
  type EntityTarget,
  type ObjectLiteral,
  QueryFailedError,
  type QueryResult,
  QueryRunnerProviderAlreadyReleasedError,
} from 'typeorm';
import { isConflict, isDatabaseAway, toAway } from './outage.js';

/*
 * All handwritten SQL goes through these functions. TypeORM's own query() answers UPDATE and DELETE in another shape
 * than INSERT, SELECT and WITH, and wraps each error. These functions give rows for every kind of statement. They throw
 * DatabaseAway when PostgreSQL cannot be used, and DatabaseConflict when it has aborted the statement because of
 * concurrent transactions.
 */

/** The database, or the manager of a transaction, which then includes the statement. */
export type Database = DataSource | EntityManager;

/**
 * Runs a statement and returns its rows, as pg gives them. A bigint is a string: select sizes and numbers as `float8`.
 * @throws {DatabaseAway}; {DatabaseConflict}; {QueryFailedError} when the statement is at fault
 */
export async function queryRows<Row extends object>(
  database: Database,
  sql: string,
  parameters: unknown[] = [],
): Promise<Row[]> {
  const { records } = await run(database, sql, parameters);
  return records as Row[];
}

/**
 * Runs a statement and returns its rows as entities.
 * @param sql its rows have all columns of the entity: `SELECT *`, `RETURNING *`
 * @throws like queryRows(), and {Error} when the rows lack a column
 */
export async function queryEntities<T extends ObjectLiteral>(
  database: Database,
  entity: EntityTarget<T>,
  sql: string,
  parameters: unknown[] = [],
): Promise<T[]> {
  return toEntities(database, entity, await queryRows(database, sql, parameters));
}

/** Runs a statement and returns how many rows it changed, or selected. @throws like queryRows() */
export async function countChanged(
  database: Database,
  sql: string,
  parameters: unknown[] = [],
): Promise<number> {
  const { affected } = await run(database, sql, parameters);
  return affected ?? 0;
}

/** Runs a statement for its effect. @throws like queryRows() */
export async function execute(database: Database, sql: string, parameters: unknown[] = []): Promise<void> {
  await run(database, sql, parameters);
}

/**
 * Rows of a statement as entities; columns that the entity does not have are left out.
 * @throws {Error} when a row lacks a column of the entity
 */
export function toEntities<T extends ObjectLiteral>(
  database: Database,
  entity: EntityTarget<T>,
  rows: object[],
): T[] {
  const manager = managerOf(database);
  const { columns, tableName } = manager.dataSource.getMetadata(entity);
  return rows.map((row) => {
    const values: Record<string, unknown> = {};
    for (const { databaseName, propertyName, transformer } of columns) {
      if (!(databaseName in row)) throw new Error(`a row of ${tableName} without the column ${databaseName}`);
      const value = (row as Record<string, unknown>)[databaseName];
      values[propertyName] = transformer && !Array.isArray(transformer) ? transformer.from(value) : value;
    }
    return manager.create(entity, values as never) as T;
  });
}

function managerOf(database: Database): EntityManager {
  return 'manager' in database ? database.manager : database;
}

async function run(database: Database, sql: string, parameters: unknown[]): Promise<QueryResult> {
  const { dataSource, queryRunner } = managerOf(database);
  try {
    if (queryRunner?.isReleased) throw new QueryRunnerProviderAlreadyReleasedError();
    const runner = queryRunner ?? dataSource.createQueryRunner();
    try {
      return await runner.query(sql, parameters, true);
    } finally {
      if (!queryRunner) await runner.release();
    }
  } catch (error) {
    const cause = error instanceof QueryFailedError ? error.driverError : error;
    if (isDatabaseAway(error)) throw toAway(cause);
    throw isConflict(error) ? cause : error;
  }
}
