import type { DataSource } from 'typeorm';
import type { z } from 'zod';
import { readLastDay, readSavedBytes, sumByStatus, sumByType, sumOf } from '../../core/files/statistics.js';
import { fileStatus } from '../answers/files.js';
import { stats, typeStats } from '../answers/stats.js';
import { EMPTY } from './answers.js';
import { type AnyRoute, route, userOf } from './route.js';

/** More types than people have; a client could declare one for each of its files. */
const MAX_TYPES = 100;

/** Counts of the caller's own files. */
export function statsRoutes({ database }: { database: DataSource }): AnyRoute[] {
  return [
    route({
      method: 'get',
      path: '/api/stats',
      access: 'read',
      limit: 'status',
      summary: 'How many files I have, by status, and what happened to them in the last day',
      answers: { 200: stats },
      async handle(call) {
        return readStats(database, userOf(call).userId);
      },
    }),
    route({
      method: 'get',
      path: '/api/stats/types',
      access: 'read',
      limit: 'status',
      summary: 'How many files I have, by media type, the most frequent first',
      answers: { 200: typeStats, 304: EMPTY },
      async handle(call) {
        const { types, others } = await sumByType(database, userOf(call).userId, MAX_TYPES);
        return { items: types, nextCursor: null, others };
      },
    }),
  ];
}

/** @param ownerId undefined: all owners */
export async function readStats(
  database: DataSource,
  ownerId: string | undefined,
): Promise<z.output<typeof stats>> {
  const totals = await sumByStatus(database, ownerId);
  const kept = totals.filter(({ trashed }) => !trashed);
  const { since, hours, averageMs, p95Ms, ...day } = await readLastDay(database, ownerId);
  return {
    ...sumOf(kept),
    byStatus: Object.fromEntries(
      fileStatus.options.map((name) => [name, sumOf(kept.filter(({ status }) => status === name))]),
    ) as Record<(typeof fileStatus.options)[number], { files: number; bytes: number }>,
    trash: sumOf(totals.filter(({ trashed }) => trashed)),
    savedBytes: await readSavedBytes(database, ownerId),
    lastDay: {
      since,
      ...day,
      throughput: {
        filesPerHour: day.completed.files / hours,
        bytesPerHour: day.completed.bytes / hours,
      },
      processingSeconds: { average: toSeconds(averageMs), p95: toSeconds(p95Ms) },
    },
  };
}

function toSeconds(ms: number | null): number | null {
  return ms === null ? null : ms / 1000;
}
