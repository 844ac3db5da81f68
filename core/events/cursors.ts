import { countChanged, type Database, queryRows } from '../database/rows.js';

/*
 * How far each durable reader has read the event log. A reader handles the events after its cursor, in order, and then
 * moves the cursor. A reader that dies in between handles them again, so it must bear repetition: it moves the cursor in
 * the transaction that holds its effect, or its receiver knows an event by its id.
 */

/**
 * The number of the last event that a reader has handled. A new reader begins at the present end of the log.
 * @param lock `FOR UPDATE` keeps other processes from the cursor until the transaction ends
 */
export async function readCursor(
  database: Database,
  name: string,
  lock: '' | 'FOR UPDATE' = '',
): Promise<number> {
  const select = `SELECT seq::float8 AS seq FROM event_cursors WHERE name = $1 ${lock}`;
  const [row] = await queryRows<{ seq: number }>(database, select, [name]);
  if (row) return row.seq;
  await countChanged(
    database,
    'INSERT INTO event_cursors (name, seq) SELECT $1, seq FROM event_head ON CONFLICT DO NOTHING',
    [name],
  );
  const [created] = await queryRows<{ seq: number }>(database, select, [name]);
  if (!created) throw new Error('event_head is empty');
  return created.seq;
}

/**
 * Moves the cursor of a reader, unless another process has moved it meanwhile.
 * @param from the number that this reader began with
 * @returns whether it was moved
 */
export async function moveCursor(
  database: Database,
  name: string,
  from: number,
  to: number,
): Promise<boolean> {
  const moved = await countChanged(
    database,
    'UPDATE event_cursors SET seq = $3 WHERE name = $1 AND seq = $2',
    [name, from, to],
  );
  return moved > 0;
}
