import { request } from 'node:http';
import { setTimeout as pause } from 'node:timers/promises';

/*
 * Many clients on slow lines, in one process: each sends its upload in one PATCH, slowly and in small pieces.
 * The process gets a job from its parent and answers with an outcome.
 */

export interface SlowJob {
  locations: string[];
  headers: Record<string, string>;
  /** Bytes of each upload. */
  length: number;
  bytesPerSecond: number;
  /** The milliseconds over which the clients begin, one after the other, and so also end. */
  beginMs: number;
  /** The address from which they connect: the ports of one address are not enough for all. */
  localAddress: string;
}

export interface SlowOutcome {
  /** One error for each client that failed. */
  errors: string[];
  /** From the start of the slowest client to its answer. */
  slowestSeconds: number;
  /** Of each client that got its answer, from its last byte on, in milliseconds. */
  answerMs: number[];
}

const PIECE = Buffer.alloc(8 * 1024, 'landfall');

process.once('message', async (job: SlowJob) => {
  const taken: number[] = [];
  const errors: string[] = [];
  const answerMs: number[] = [];
  await Promise.all(
    job.locations.map(async (location, i) => {
      await pause((i / job.locations.length) * job.beginMs);
      const began = performance.now();
      await send(location, job).then(
        (ms) => answerMs.push(ms),
        (error) => errors.push(String(error)),
      );
      taken.push((performance.now() - began) / 1000);
    }),
  );
  process.send?.({ errors, answerMs, slowestSeconds: Math.max(...taken) } satisfies SlowOutcome);
});

/** Sends one upload. @returns the milliseconds from its last byte to the answer */
async function send(
  location: string,
  { headers, length, bytesPerSecond, localAddress }: SlowJob,
): Promise<number> {
  const outgoing = request(location, {
    method: 'PATCH',
    agent: false,
    localAddress,
    headers: {
      ...headers,
      'Tus-Resumable': '1.0.0',
      'Upload-Offset': '0',
      'Content-Type': 'application/offset+octet-stream',
      'Content-Length': length,
    },
  });
  let sent = 0;
  let ended = 0;
  const timer = setInterval(
    () => {
      if (outgoing.writableNeedDrain) return;
      const piece = PIECE.subarray(0, length - sent);
      sent += piece.length;
      outgoing.write(piece);
      if (sent < length) return;
      clearInterval(timer);
      outgoing.end();
      ended = performance.now();
    },
    (PIECE.length / bytesPerSecond) * 1000,
  );
  await new Promise<void>((resolve, reject) => {
    outgoing.once('error', reject);
    outgoing.once('response', (response) => {
      response.resume().once('error', reject);
      if (response.statusCode === 204) response.once('end', resolve);
      else reject(new Error(`answered ${response.statusCode}`));
    });
  }).finally(() => clearInterval(timer));
  return performance.now() - ended;
}
