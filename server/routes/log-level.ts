import type { DataSource } from 'typeorm';
import { z } from 'zod';
import {
  type LevelForNow,
  LOG_LEVELS,
  readLogLevel,
  resetLogLevel,
  setLogLevel,
} from '../../core/log-level.js';
import { logLevel } from '../answers/admin.js';
import { type AnyRoute, route, signedInActor } from './route.js';

/** How long a level holds if the admin does not say it, and how long at most, in seconds. */
const HOUR = 3600;
const DAY = 86_400;

const LEVEL = `must be ${LOG_LEVELS.join(', ')} or null`;
const SECONDS = `must be a whole number from 1 to ${DAY}`;

const levelChange = z.strictObject({
  level: z.enum(LOG_LEVELS, LEVEL).nullable(),
  seconds: z.int(SECONDS).min(1, SECONDS).max(DAY, SECONDS).default(HOUR),
});

/** The level of the logs of all servers and workers, for admins. */
export function logLevelRoutes({ database }: { database: DataSource }): AnyRoute[] {
  const path = '/api/admin/log-level';
  return [
    route({
      method: 'get',
      path,
      access: 'admin',
      limit: 'status',
      summary: 'The level that all logs have for now',
      answers: { 200: logLevel },
      async handle() {
        return toJson(await readLogLevel(database));
      },
    }),
    route({
      method: 'put',
      path,
      access: 'admin',
      limit: 'processing',
      summary: 'Set the level of all logs for a time, or let each process go back to its own (null)',
      body: levelChange,
      answers: { 200: logLevel },
      async handle(call) {
        const { level, seconds } = call.body;
        const actor = signedInActor(call);
        if (level !== null) return toJson(await setLogLevel(database, { level, seconds }, actor));
        await resetLogLevel(database, actor);
        return toJson(undefined);
      },
    }),
  ];
}

function toJson(forNow: LevelForNow | undefined): z.output<typeof logLevel> {
  return { level: forNow?.level ?? null, until: forNow?.until ?? null };
}
