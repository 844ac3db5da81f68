import { fork } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as pause } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import {
  cpuSeconds,
  MIB,
  median,
  peakMemory,
  percentile99,
  resetPeakMemory,
  temporaryBytes,
} from './figures.js';
import { medians } from './measure.js';
import type { Contender } from './s3-contenders.js';
import { type NullS3, sumRequests } from './s3-stores.js';
import type { SlowJob, SlowOutcome } from './slow-clients.js';
import { type Aim, type Row, row } from './table.js';
import { createUpload, headUpload } from './tus-client.js';

/* Loads a server with many slow clients, and measures the cost to the server and to its other clients meanwhile. */

export interface Load {
  clients: number;
  /** Processes in which the clients run. */
  processes: number;
  /** Of each client. */
  bytesPerSecond: number;
  /** The time that a client needs for its upload. */
  seconds: number;
  /** The milliseconds over which the clients begin, one after the other. */
  beginMs: number;
}

export interface LoadResult {
  /** One error for each client that failed. */
  errors: string[];
  /** From the start of the slowest client to its answer. */
  slowestSeconds: number;
  /** Of each client that got its answer, from its last byte on, in milliseconds. */
  answerMs: number[];
  /** CPU seconds of the server process. */
  cpu: number;
  /** Bytes. */
  memory: number;
  /** The times of HEADs for other uploads, in milliseconds, and how many of them failed. */
  heads: number[];
  headsFailed: number;
  /** Bytes in temporary files, at most. */
  temporary: number;
  /** S3 requests for one upload, from its creation to the last answer. */
  requests: number;
}

/** How many uploads stand still, and the pause between the HEADs for them, in milliseconds. */
const IDLE = 20;
const ASK_MS = 50;
/** One look at the temporary files for so many HEADs: it goes through all open files of the server. */
const HEADS_PER_LOOK = 10;
const CREATED_AT_A_TIME = 8;

/** Runs the clients against the server until the last has its answer. */
export async function runLoad(store: NullS3, server: Contender, load: Load): Promise<LoadResult> {
  const length = load.bytesPerSecond * load.seconds;
  const idle = await createMany(server, IDLE, length);
  const requestsOfHead = await countRequests(store, () => headUpload(server, idle[0] ?? ''));
  await store.takeCounts();
  const locations = await createMany(server, load.clients, length);
  resetPeakMemory(server.pid);
  const cpu = cpuSeconds(server.pid);
  let outcome: SlowOutcome | undefined;
  const ended = runClients(server, locations, length, load).then((all) => {
    outcome = all;
  });
  const heads: number[] = [];
  let headsFailed = 0;
  let temporary = 0;
  while (!outcome) {
    const began = performance.now();
    await headUpload(server, idle[heads.length % idle.length] ?? '').catch(() => headsFailed++);
    heads.push(performance.now() - began);
    if (heads.length % HEADS_PER_LOOK === 0) {
      temporary = Math.max(temporary, temporaryBytes(server.pid, server.temporaryFolder));
    }
    await Promise.race([ended, pause(ASK_MS)]);
  }
  const requests = sumRequests(await store.takeCounts()) - heads.length * requestsOfHead;
  return {
    ...outcome,
    cpu: cpuSeconds(server.pid) - cpu,
    memory: peakMemory(server.pid),
    heads,
    headsFailed,
    temporary,
    requests: requests / load.clients,
  };
}

/** The rows of the table, and the errors of clients on the console. @param aims by the name of the row */
export function toRows(
  results: Map<string, LoadResult[]>,
  { seconds }: Load,
  aims: Record<string, Aim>,
): Row[] {
  for (const [name, all] of results) {
    for (const error of new Set(all.flatMap(({ errors }) => errors))) console.error(`${name}: ${error}`);
  }
  const toRow = (name: string, figure: (result: LoadResult) => number, digits = 0) =>
    row(name, medians(results, figure), digits, aims[name]);
  return [
    toRow('CPU s', ({ cpu }) => cpu, 1),
    toRow('HEAD to others, median, ms', ({ heads }) => median(heads), 1),
    toRow('HEAD to others, p99, ms', ({ heads }) => percentile99(heads)),
    toRow('HEADs to others that failed', ({ headsFailed }) => headsFailed),
    toRow('last byte to answer, median, ms', ({ answerMs }) => median(answerMs)),
    toRow('last byte to answer, p99, ms', ({ answerMs }) => percentile99(answerMs)),
    toRow('peak memory, MiB', ({ memory }) => memory / MIB),
    toRow('temporary files, peak, MiB', ({ temporary }) => temporary / MIB),
    toRow('S3 requests an upload', ({ requests }) => requests, 1),
    row(
      `slowest client, s, at best ${seconds}`,
      medians(results, ({ slowestSeconds }) => slowestSeconds),
    ),
    toRow('clients with an error', ({ errors }) => errors.length),
  ];
}

/** Divides the uploads among the processes. @returns the outcome of all clients */
async function runClients(
  { headers }: Contender,
  locations: string[],
  length: number,
  { processes, bytesPerSecond, beginMs }: Load,
): Promise<SlowOutcome> {
  const outcomes = await Promise.all(
    Array.from({ length: processes }, async (_, i) => {
      const child = fork(fileURLToPath(new URL('./slow-clients.js', import.meta.url)));
      const own = locations.filter((_location, k) => k % processes === i);
      const localAddress = `127.0.0.${i + 1}`;
      child.send({
        locations: own,
        headers,
        length,
        bytesPerSecond,
        beginMs,
        localAddress,
      } satisfies SlowJob);
      const [outcome] = (await once(child, 'message')) as [SlowOutcome];
      return outcome;
    }),
  );
  return {
    errors: outcomes.flatMap(({ errors }) => errors),
    answerMs: outcomes.flatMap(({ answerMs }) => answerMs),
    slowestSeconds: Math.max(...outcomes.map(({ slowestSeconds }) => slowestSeconds)),
  };
}

async function countRequests(store: NullS3, work: () => Promise<unknown>): Promise<number> {
  await store.takeCounts();
  await work();
  return sumRequests(await store.takeCounts());
}

/** Creates uploads of `length` bytes. @returns their addresses */
async function createMany(server: Contender, count: number, length: number): Promise<string[]> {
  const locations: string[] = [];
  let left = count;
  await Promise.all(
    Array.from({ length: CREATED_AT_A_TIME }, async () => {
      while (left-- > 0) locations.push(await createUpload(server, length));
    }),
  );
  return locations;
}
