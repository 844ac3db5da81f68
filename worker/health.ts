import { createServer, type Server } from 'node:http';
import { listenOn } from '../core/listen-on.js';

/**
 * Answers every request with 200, so that an orchestrator can tell a working process from one that hangs.
 * @throws {ConfigError} when the port is not available
 */
export async function openHealth(host: string, port: number): Promise<Server> {
  const server = createServer((_request, response) => {
    response
      .writeHead(200, { 'Content-Type': 'application/json', Connection: 'close' })
      .end('{"status":"ok"}\n');
  });
  await listenOn(server, host, port, 'HEALTH_PORT');
  return server;
}
