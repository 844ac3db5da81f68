import type { EntityManager, EntityTarget, ObjectLiteral } from 'typeorm';

/**
 * Runs a handwritten INSERT, UPDATE, DELETE or SELECT and returns its rows (`RETURNING *`, `SELECT *`) as entities. For
 * writes that are guarded by their WHERE.
 */
export async function queryEntities<T extends ObjectLiteral>(
  manager: EntityManager,
  entity: EntityTarget<T>,
  sql: string,
  parameters: unknown[],
): Promise<T[]> {
  const result = await manager.query(sql, parameters);
  // TypeORM answers UPDATE and DELETE with [rows, count], everything else with the rows.
  return toEntities(manager, entity, /^\s*(UPDATE|DELETE)/i.test(sql) ? result[0] : result);
}

/** Rows of a statement as entities; columns that the entity does not have are left out. */
export function toEntities<T extends ObjectLiteral>(
  manager: EntityManager,
  entity: EntityTarget<T>,
  rows: Record<string, unknown>[],
): T[] {
  const { columns } = manager.connection.getMetadata(entity);
  return rows.map((row) => {
    const values: Record<string, unknown> = {};
    for (const column of columns) {
      const value = row[column.databaseName];
      const transformer = column.transformer;
      values[column.propertyName] =
        transformer && !Array.isArray(transformer) ? transformer.from(value) : value;
    }
    return manager.create(entity, values as never) as T;
  });
}

/** Runs an UPDATE or DELETE and returns how many rows it changed. */
export async function countChanged(
  manager: EntityManager,
  sql: string,
  parameters: unknown[],
): Promise<number> {
  const [, count] = (await manager.query(sql, parameters)) as [unknown[], number];
  return count;
}
