import { type Logger, pino, stdTimeFunctions } from 'pino';

export type { Logger };

/** One JSON object a line on stdout. */
export function createLogger(level: string, name: string): Logger {
  return pino({ level, base: { name }, timestamp: stdTimeFunctions.isoTime });
}
