import { randomInt } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:net';

/**
 * Ports below those that the system hands out to outgoing connections and to servers that ask for any port, so that a
 * port is still free when a service that was stopped starts again.
 */
const FIRST = 16_000;

/** Each of Jest's workers has ports of its own, so that no other suite takes a port before its service listens. */
const PORTS_OF_A_WORKER = 1000;
const SHARES = 16;

// The workers of one run have the same parent. Another run on this machine has another one.
const share = (process.ppid + Number(process.env.JEST_WORKER_ID ?? 0)) % SHARES;
let next = randomInt(PORTS_OF_A_WORKER);

/**
 * Finds a port of 127.0.0.1 on which nothing listens.
 * @returns {Promise<number>}
 */
export async function freePort() {
  for (;;) {
    const port = FIRST + share * PORTS_OF_A_WORKER + (next++ % PORTS_OF_A_WORKER);
    const server = createServer();
    try {
      server.listen(port, '127.0.0.1');
      await once(server, 'listening');
      server.close();
      await once(server, 'close');
      return port;
    } catch {
      // Taken: try another.
    }
  }
}
