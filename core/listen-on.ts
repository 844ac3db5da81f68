import { once } from 'node:events';
import type { Server } from 'node:http';
import { ConfigError } from './config-error.js';

/**
 * Lets a server listen on the port that a variable names.
 * @param variable such as `HEALTH_PORT`
 * @throws {ConfigError} when the port is not available
 */
export async function listenOn(server: Server, host: string, port: number, variable: string): Promise<void> {
  try {
    await once(server.listen(port, host), 'listening');
  } catch (error) {
    throw new ConfigError(`${variable}=${port}: ${error instanceof Error ? error.message : error}`, {
      cause: error,
    });
  }
}
