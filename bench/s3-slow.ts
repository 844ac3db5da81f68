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
  SCALE,
  temporaryBytes,
} from './figures.js';
import { medians } from './measure.js';
import { type Contender, chooseContenders, runInTurns } from './s3-contenders.js';
import { type NullS3, startNullS3, sumRequests } from './s3-stores.js';
import type { SlowJob, SlowOutcome } from './slow-clients.js';
import { atMost, type Row, row } from './table.js';
import { createUpload, headUpload } from './tus-client.js';

const CLIENTS = Math.ceil(500 * SCALE);
const BYTES_PER_SECOND = 64 * 1024;
const SECONDS = SCALE < 1 ? 5 : 30;
/** How many uploads stand still, and the pause between the HEADs for them, in milliseconds. */
const IDLE = 20;
const ASK_MS = 50;
/** One look at the temporary files for so many HEADs: it goes through all open files of the server. */
const HEADS_PER_LOOK = 10;

interface Round extends SlowOutcome {
  /** CPU seconds of the server process. */
  cpu: number;
  /** Bytes. */
  memory: number;
  /** Milliseconds. */
  heads: number[];
  /** Bytes in temporary files, at most. */
  temporary: number;
  /** S3 requests for one upload, from its creation to the last answer. */
  requests: number;
}

/** Five hundred clients on slow lines at once: the cost to the server, and the time of HEADs for other uploads. */
export async function benchS3Slow(): Promise<Row[]> {
  const store = await startNullS3();
  try {
    return toRows(await runInTurns(store, chooseContenders(), (server) => runClients(store, server)));
  } finally {
    await store.stop();
  }
}

function toRows(rounds: Map<string, Round[]>): Row[] {
  const figures = (figure: (round: Round) => number) => medians(rounds, figure);
  const answers = (figure: (times: number[]) => number) => figures((round) => figure(round.answerMs));
  for (const [name, all] of rounds) {
    for (const error of new Set(all.flatMap(({ errors }) => errors))) console.error(`${name}: ${error}`);
  }
  return [
    row(
      'CPU s',
      figures(({ cpu }) => cpu),
      1,
      atMost(1.3, 'tusd'),
    ),
    row(
      'HEAD to others, median, ms',
      figures(({ heads }) => median(heads)),
    ),
    row(
      'HEAD to others, p99, ms',
      figures(({ heads }) => percentile99(heads)),
      0,
      atMost(50),
    ),
    row('last byte to answer, median, ms', answers(median), 0),
    row('last byte to answer, p99, ms', answers(percentile99), 0, atMost(1000)),
    row(
      'peak memory, MiB',
      figures(({ memory }) => memory / MIB),
      0,
      atMost(200),
    ),
    row(
      'temporary files, peak, MiB',
      figures(({ temporary }) => temporary / MIB),
      0,
    ),
    row(
      'S3 requests an upload',
      figures(({ requests }) => requests),
      1,
      atMost(3),
    ),
    row(
      `slowest client, s, at best ${SECONDS}`,
      figures(({ slowestSeconds }) => slowestSeconds),
    ),
    row(
      'clients with an error',
      figures(({ errors }) => errors.length),
      0,
      atMost(0),
    ),
  ];
}

async function runClients(store: NullS3, server: Contender): Promise<Round> {
  const length = BYTES_PER_SECOND * SECONDS;
  const idle = await createMany(server, IDLE, length);
  const requestsOfHead = await countRequests(store, () => headUpload(server, idle[0] ?? ''));
  await store.takeCounts();
  const locations = await createMany(server, CLIENTS, length);
  resetPeakMemory(server.pid);
  const cpu = cpuSeconds(server.pid);
  const clients = fork(fileURLToPath(new URL('./slow-clients.js', import.meta.url)));
  const job: SlowJob = { locations, headers: server.headers, length, bytesPerSecond: BYTES_PER_SECOND };
  clients.send(job);
  let outcome: SlowOutcome | undefined;
  const answered = once(clients, 'message').then(([message]: SlowOutcome[]) => {
    outcome = message;
  });
  const heads: number[] = [];
  let temporary = 0;
  while (!outcome) {
    const began = performance.now();
    await headUpload(server, idle[heads.length % idle.length] ?? '');
    heads.push(performance.now() - began);
    if (heads.length % HEADS_PER_LOOK === 0) {
      temporary = Math.max(temporary, temporaryBytes(server.pid, server.temporaryFolder));
    }
    await Promise.race([answered, pause(ASK_MS)]);
  }
  const requests = sumRequests(await store.takeCounts()) - heads.length * requestsOfHead;
  return {
    ...outcome,
    cpu: cpuSeconds(server.pid) - cpu,
    memory: peakMemory(server.pid),
    heads,
    temporary,
    requests: requests / CLIENTS,
  };
}

async function countRequests(store: NullS3, work: () => Promise<unknown>): Promise<number> {
  await store.takeCounts();
  await work();
  return sumRequests(await store.takeCounts());
}

/** Creates the uploads one after the other, so that no load is left when the measurement begins. */
async function createMany(server: Contender, count: number, length: number): Promise<string[]> {
  const locations: string[] = [];
  while (locations.length < count) locations.push(await createUpload(server, length));
  return locations;
}
