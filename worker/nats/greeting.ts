import { once } from 'node:events';
import { createConnection } from 'node:net';
import { within } from '../../core/concurrency.js';

/**
 * Finds a server that greets a new connection, as servers of NATS do. The library forgets connections on which nothing
 * ever arrives, and leaves them open; so it is only sent to a server that answers.
 * @param servers `host:port`
 * @param limitMs how long each of them may take
 * @throws the last server's error when none greets
 */
export async function findServer(servers: string[], limitMs: number): Promise<string> {
  let reason: unknown;
  for (const server of inAnyOrder(servers)) {
    try {
      await waitForGreeting(server, limitMs);
      return server;
    } catch (error) {
      reason = error;
    }
  }
  throw reason;
}

async function waitForGreeting(server: string, limitMs: number): Promise<void> {
  const { hostname, port } = new URL(`nats://${server}`);
  const socket = createConnection({ host: hostname.replace(/^\[|\]$/g, ''), port: Number(port) });
  try {
    await within(limitMs, once(socket, 'data'), `NATS at ${server}`);
  } finally {
    socket.on('error', () => {});
    socket.destroy();
  }
}

/** So that the workers of several installations do not all go to the same server. */
function inAnyOrder(servers: string[]): string[] {
  const first = Math.floor(Math.random() * servers.length);
  return [...servers.slice(first), ...servers.slice(0, first)];
}
