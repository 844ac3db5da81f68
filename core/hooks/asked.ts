import type { DataSource } from 'typeorm';
import { queryRows } from '../database/rows.js';
import { AppError } from '../errors.js';

/**
 * Notes, before a hook is asked about an upload, that it is asked. A process that dies before the answer has taken effect
 * leaves the number behind, so the next question says that it is a repetition.
 * @returns how often the hook has been asked, including this time
 * @throws {AppError} not_found
 */
export async function countAsking(
  database: DataSource,
  column: 'finish_asked' | 'end_asked',
  uploadId: string,
): Promise<number> {
  const [row] = await queryRows<{ asked: number }>(
    database,
    `UPDATE uploads SET ${column} = ${column} + 1 WHERE id = $1 RETURNING ${column} AS asked`,
    [uploadId],
  );
  if (!row) throw new AppError('not_found');
  return row.asked;
}
