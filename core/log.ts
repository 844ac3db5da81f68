import { type Logger, pino, type SerializedError, stdSerializers, stdTimeFunctions } from 'pino';

export type { Logger };

/** One JSON object a line on stdout. */
export function createLogger(level: string, name: string): Logger {
  return pino({
    level,
    base: { name },
    timestamp: stdTimeFunctions.isoTime,
    serializers: { err: withoutValues },
  });
}

/**
 * The properties of an error that are logged. Others are left out: errors of the database drivers carry the values of
 * the statement, among them hashes and addresses, or a whole client with its keys.
 */
function withoutValues(error: Error): object {
  const { type, message, stack, code } = stdSerializers.err(error) as SerializedError & { code?: unknown };
  return { type, message, stack, code };
}
