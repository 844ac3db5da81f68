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

/** An error of TypeORM carries the values of its statement: passwords' hashes, addresses, tokens. */
function withoutValues(error: Error): object {
  const {
    parameters: _,
    driverError: __,
    ...rest
  } = stdSerializers.err(error) as SerializedError & {
    parameters?: unknown;
    driverError?: unknown;
  };
  return rest;
}
