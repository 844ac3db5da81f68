import { fork } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { type Contender, type Row, row, startLandfall, startStock, withContenders } from './s3-contenders.js';
import { emptyBucket, startNullS3 } from './s3-stores.js';
import type { SlowJob, SlowOutcome } from './slow-clients.js';
import { MIB, median, peakMemory, resetPeakMemory, SCALE } from './system.js';
import { createUpload, headUpload } from './tus-client.js';

const ROUNDS = 3;
const CLIENTS = Math.ceil(500 * SCALE);
const BYTES_PER_SECOND = 64 * 1024;
const SECONDS = SCALE < 1 ? 5 : 30;
/** How many uploads stand still, and the pause between the HEADs for them, in milliseconds. */
const IDLE = 20;
const ASK_MS = 50;

interface Round extends SlowOutcome {
  /** Bytes. */
  memory: number;
  /** Milliseconds. */
  headP99: number;
  headMedian: number;
  /** Bytes in temporary files, at most. */
  temporary: number;
}

/**
 * Five hundred clients on slow lines at once: the memory they cost, and the time of HEADs for other uploads.
 */
export async function benchS3Slow(): Promise<Row[]> {
  const store = await startNullS3();
  const rounds: Record<'landfall' | 'stock', Round[]> = { landfall: [], stock: [] };
  try {
    await withContenders(
      store,
      { landfall: startLandfall, stock: startStock },
      async ({ landfall, stock }) => {
        for (let i = 0; i < ROUNDS; i++) {
          rounds.landfall.push(await runClients(landfall));
          rounds.stock.push(await runClients(stock, stock.folder));
          await emptyBucket(store, stock.bucket);
        }
      },
    );
  } finally {
    await store.stop();
  }
  const medians = (figure: (round: Round) => number) => ({
    landfall: median(rounds.landfall.map(figure)),
    stock: median(rounds.stock.map(figure)),
  });
  for (const error of new Set([...rounds.landfall, ...rounds.stock].flatMap(({ errors }) => errors))) {
    console.error(error);
  }
  return [
    row(
      'peak RSS, MiB',
      medians((round) => round.memory / MIB),
      0,
    ),
    row(
      'temporary files, peak, MiB',
      medians((round) => round.temporary / MIB),
      0,
    ),
    row(
      'HEAD to others, median, ms',
      medians((round) => round.headMedian),
    ),
    row(
      'HEAD to others, p99, ms',
      medians((round) => round.headP99),
    ),
    row(
      `slowest client, s, at best ${SECONDS}`,
      medians((round) => round.slowestSeconds),
    ),
    row(
      'clients with an error',
      medians((round) => round.errors.length),
      0,
    ),
  ];
}

async function runClients(server: Contender, temporaryFolder?: string): Promise<Round> {
  const length = BYTES_PER_SECOND * SECONDS;
  const idle = await createMany(server, IDLE, length);
  const locations = await createMany(server, CLIENTS, length);
  resetPeakMemory(server.pid);
  const clients = fork(fileURLToPath(new URL('./slow-clients.js', import.meta.url)));
  const job: SlowJob = { locations, headers: server.headers, length, bytesPerSecond: BYTES_PER_SECOND };
  clients.send(job);
  let outcome: SlowOutcome | undefined;
  const answered = once(clients, 'message').then(([message]: SlowOutcome[]) => {
    outcome = message;
  });
  const times: number[] = [];
  let temporary = 0;
  for (let i = 0; !outcome; i++) {
    const began = performance.now();
    await headUpload(server, idle[i % idle.length] ?? '');
    times.push(performance.now() - began);
    if (temporaryFolder) temporary = Math.max(temporary, sizeOf(temporaryFolder));
    await Promise.race([answered, pause(ASK_MS)]);
  }
  const headP99 = [...times].sort((a, b) => a - b)[Math.floor(times.length * 0.99)] ?? NaN;
  return { ...outcome, memory: peakMemory(server.pid), headP99, headMedian: median(times), temporary };
}

/** Creates the uploads one after the other, so that no load is left when the measurement begins. */
async function createMany(server: Contender, count: number, length: number): Promise<string[]> {
  const locations: string[] = [];
  while (locations.length < count) locations.push(await createUpload(server, length));
  return locations;
}

/** The bytes of the files in a folder, some of which come and go meanwhile. */
function sizeOf(folder: string): number {
  return readdirSync(folder)
    .map((name) => statSync(join(folder, name), { throwIfNoEntry: false })?.size ?? 0)
    .reduce((sum, size) => sum + size, 0);
}
