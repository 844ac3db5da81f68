import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { MIB, peakMemory, resetPeakMemory, SCALE } from './figures.js';
import type { IdleJob, IdleOutcome } from './idle-clients.js';
import { medians } from './measure.js';
import { type Contender, chooseContenders, withContenders } from './s3-contenders.js';
import { type NullS3, startNullS3 } from './s3-stores.js';
import { type Load, type LoadResult, runLoad, toRows } from './slow-load.js';
import { atMost, type Row, row } from './table.js';

const LOAD: Load = {
  clients: Math.ceil(5000 * SCALE),
  processes: 4,
  bytesPerSecond: 16 * 1024,
  seconds: SCALE < 1 ? 10 : 60,
  beginMs: SCALE < 1 ? 5000 : 25_000,
};

/** Files that the server may open besides one for each connection and two for each slow upload. */
const OTHER_FILES = 1000;
const IDLE_PROCESSES = 2;
const IDLE = Math.max(
  0,
  Math.min(Math.ceil(10_000 * SCALE), openFilesAllowed() - 2 * LOAD.clients - OTHER_FILES),
);

const AIMS = { 'clients with an error': atMost(0) };

interface Result extends LoadResult {
  /** Peak memory in bytes when all idle connections were open and nothing else had happened. */
  memoryIdle: number;
  idle: IdleOutcome;
}

/**
 * Five thousand clients on very slow lines and ten thousand idle connections on one server: does it hold, and at what
 * cost? Fewer connections are idle where the limit of open files is low. The bare pipe does not take part, because it would open an S3 request for each client.
 */
export async function benchS3Many(): Promise<Row[]> {
  const contenders = chooseContenders(['landfall', 'tusd']);
  const results = new Map<string, Result[]>();
  for (const [name, start] of Object.entries(contenders)) {
    const store = await startNullS3();
    try {
      results.set(name, [await withContenders(store, { only: start }, ({ only }) => runOne(store, only))]);
    } finally {
      await store.stop();
    }
  }
  const figures = (figure: (result: Result) => number) => medians(results, figure);
  return [
    row(
      `idle connections, of ${IDLE}, at the end`,
      figures(({ idle }) => idle.open),
      0,
    ),
    row(
      'idle connections, lost',
      figures(({ idle }) => idle.lost),
      0,
      atMost(0),
    ),
    row(
      'peak memory with these alone, MiB',
      figures(({ memoryIdle }) => memoryIdle / MIB),
      0,
    ),
    ...toRows(results, LOAD, AIMS),
  ];
}

async function runOne(store: NullS3, server: Contender): Promise<Result> {
  resetPeakMemory(server.pid);
  const holders = Array.from({ length: IDLE_PROCESSES }, () =>
    fork(fileURLToPath(new URL('./idle-clients.js', import.meta.url))),
  );
  try {
    const connections = Math.ceil(IDLE / IDLE_PROCESSES);
    await tellAll(holders, (i) => ({ url: server.url, connections, localAddress: `127.0.1.${i + 1}` }));
    const memoryIdle = peakMemory(server.pid);
    const result = await runLoad(store, server, LOAD);
    const idle = await tellAll(holders, () => 'end');
    return { ...result, memoryIdle, idle };
  } finally {
    for (const holder of holders) holder.kill();
  }
}

/** Sends a message to each process. @returns the sum of their answers */
async function tellAll(
  holders: ChildProcess[],
  messageFor: (index: number) => IdleJob | 'end',
): Promise<IdleOutcome> {
  const outcomes = await Promise.all(
    holders.map(async (holder, i) => {
      const answered = once(holder, 'message');
      holder.send(messageFor(i));
      const [outcome] = (await answered) as [IdleOutcome];
      return outcome;
    }),
  );
  const sum = (figure: (outcome: IdleOutcome) => number) => outcomes.map(figure).reduce((a, b) => a + b, 0);
  return { open: sum(({ open }) => open), lost: sum(({ lost }) => lost) };
}

function openFilesAllowed(): number {
  const [, limit] = /Max open files\s+\d+\s+(\d+)/.exec(readFileSync('/proc/self/limits', 'utf8')) ?? [];
  return Number(limit);
}
