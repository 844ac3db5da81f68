import { type Logger, pino, type SerializedError, stdSerializers, stdTimeFunctions } from 'pino';
import { type LogFiles, openLogFile } from './log-files.js';
import { gatherLines, writeToStdout } from './log-lines.js';

export type { Logger };

/**
 * One JSON object a line.
 * @param files where the lines go; undefined: to stdout
 * @throws {ConfigError} when the files cannot be written
 */
export function createLogger(level: string, name: string, files?: LogFiles): Logger {
  const write = files ? openLogFile(files, name, writeToStdout) : writeToStdout;
  return pino(
    {
      level,
      base: { name },
      timestamp: stdTimeFunctions.isoTime,
      serializers: { err: withoutValues },
    },
    gatherLines(write),
  );
}

/**
 * The properties of an error that are logged. Others are left out: errors of the database drivers carry the values of
 * the statement, among them hashes and addresses, or a whole client with its keys.
 */
function withoutValues(error: Error): object {
  const { type, message, stack, code } = stdSerializers.err(error) as SerializedError & { code?: unknown };
  return { type, message, stack, code };
}
