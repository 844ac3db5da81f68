import { Agent, request } from 'node:http';
import { setTimeout as pause } from 'node:timers/promises';

/*
 * Holds many connections open in one process and seldom uses them. It gets a job from its parent and answers twice with
 * an outcome: when all connections are open, and when the parent has asked for the end.
 */

export interface IdleJob {
  url: string;
  connections: number;
  /** The address from which they connect: the ports of one address are not enough for all. */
  localAddress: string;
}

export interface IdleOutcome {
  /** Connections that are open. */
  open: number;
  /** Connections that the server closed or refused, and requests that failed. */
  lost: number;
}

const OPENED_AT_A_TIME = 50;
/** Below the 65 seconds after which Landfall closes a connection that is not used. */
const ASK_EVERY_MS = 40_000;

let open = 0;
let lost = 0;
let running = true;

process.once('message', async (job: IdleJob) => {
  let left = job.connections;
  await Promise.all(
    Array.from({ length: OPENED_AT_A_TIME }, async () => {
      while (left-- > 0) {
        const agent = new Agent({ keepAlive: true, maxSockets: 1 });
        await ask(agent, job);
        void askNowAndThen(agent, job);
      }
    }),
  );
  process.send?.({ open, lost } satisfies IdleOutcome);
  process.once('message', () => {
    running = false;
    process.send?.({ open, lost } satisfies IdleOutcome, () => process.exit(0));
  });
});

async function askNowAndThen(agent: Agent, job: IdleJob): Promise<void> {
  await pause(Math.random() * ASK_EVERY_MS);
  while (running) {
    await ask(agent, job);
    await pause(ASK_EVERY_MS);
  }
}

/** Sends a request that costs the server little. */
function ask(agent: Agent, { url, localAddress }: IdleJob): Promise<void> {
  return new Promise((resolve) => {
    const outgoing = request(`${url}/uploads`, { method: 'OPTIONS', agent, localAddress });
    outgoing.once('socket', (socket) => {
      if (!socket.connecting) return;
      socket.once('connect', () => open++);
      socket.once('close', () => {
        open--;
        if (running) lost++;
      });
    });
    outgoing.once('error', () => {
      lost++;
      resolve();
    });
    outgoing.once('response', (response) => response.resume().once('close', resolve));
    outgoing.end();
  });
}
