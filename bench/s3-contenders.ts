import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { ROUNDS } from './figures.js';
import { type Measured, startProgram, startScript } from './programs.js';
import { startLandfall } from './s3-landfall.js';
import { createBucket, type Store } from './s3-stores.js';
import type { TusServer } from './tus-client.js';

/*
 * The contenders are servers in front of a store: Landfall, stock (@tus/server over @tus/s3-store), tusd (with its defaults, and
 * without content hashes) where there is one, and a bare pipe. Each has a process and a bucket of its own, and all have
 * the same client.
 */

export interface Contender extends Measured, TusServer {
  /** The contender's own bucket. */
  bucket: string;
  /** The folder of its temporary files, if it has one. */
  temporaryFolder?: string;
}

export type Starter = (store: Store) => Promise<Contender>;

/** Starts the contenders, and stops them when `work` is done or when one of them does not start. */
export async function withContenders<Name extends string, T>(
  store: Store,
  starters: Record<Name, Starter>,
  work: (contenders: Record<Name, Contender>) => Promise<T>,
): Promise<T> {
  const started: [string, Contender][] = [];
  try {
    for (const [name, start] of Object.entries<Starter>(starters)) started.push([name, await start(store)]);
    return await work(Object.fromEntries(started) as Record<Name, Contender>);
  } finally {
    for (const [, contender] of started) await contender.stop();
  }
}

/** The names of contenders. The environment variable BENCH_CONTENDERS chooses some of them, separated by commas. */
const NAMES = ['landfall', 'tusd', 'tusd-no-hashes', 'bare'];

/** The contenders of these names. Those called tusd are left out where tusd is not on the PATH. */
export function chooseContenders(names = NAMES): Record<string, Starter> {
  const tusd = findTusd();
  const all: Record<string, Starter> = {
    landfall: startLandfall,
    ...(tusd
      ? {
          tusd: (store) => startTusd(tusd, store, 'tusd', []),
          'tusd-no-hashes': (store) =>
            startTusd(tusd, store, 'tusd-no-hashes', ['-s3-disable-content-hashes']),
        }
      : {}),
    bare: startBare,
  };
  const chosen = process.env.BENCH_CONTENDERS?.split(',') ?? names;
  return Object.fromEntries(
    Object.entries(all).filter(([name]) => names.includes(name) && chosen.includes(name)),
  );
}

/**
 * Runs `work` with each contender in turn, ROUNDS times, each time in a new process: one that has held a gigabyte is
 * slower afterwards.
 * @returns the results by contender
 */
export async function runInTurns<T>(
  store: Store,
  starters: Record<string, Starter>,
  work: (contender: Contender) => Promise<T>,
): Promise<Map<string, T[]>> {
  const results = new Map<string, T[]>(Object.keys(starters).map((name) => [name, []]));
  for (let round = 0; round < ROUNDS; round++) {
    for (const [name, start] of Object.entries(starters)) {
      results.get(name)?.push(await withContenders(store, { only: start }, ({ only }) => work(only)));
    }
  }
  return results;
}

export function startStock(store: Store): Promise<Contender> {
  const checksums: Record<string, string> = store.takeCounts ? {} : { STOCK_CHECKSUMS: 'WHEN_REQUIRED' };
  return inFolder((folder) =>
    startOther('./stock-server.js', store, 'stock', { TMPDIR: folder, ...checksums }),
  );
}

function startBare(store: Store): Promise<Contender> {
  return startOther('./bare-s3.js', store, 'bare', {});
}

/** @returns the path of tusd, undefined where it is not on the PATH */
function findTusd(): string | undefined {
  return (process.env.PATH ?? '')
    .split(delimiter)
    .map((folder) => join(folder, 'tusd'))
    .find((path) => existsSync(path));
}

function startTusd(path: string, store: Store, bucket: string, flags: string[]): Promise<Contender> {
  return inFolder(async (folder) => {
    await createBucket(store, bucket);
    const address = ['-host', '127.0.0.1', '-port', '0', '-base-path', '/uploads/'];
    const storage = ['-s3-bucket', bucket, '-s3-endpoint', store.endpoint];
    const env = {
      AWS_ACCESS_KEY_ID: store.accessKeyId,
      AWS_SECRET_ACCESS_KEY: store.secretAccessKey,
      AWS_REGION: 'us-east-1',
      // Its SDK would print a warning for each answer of a store that sends no checksums.
      AWS_RESPONSE_CHECKSUM_VALIDATION: 'when_required',
      TMPDIR: folder,
    };
    const ready = /upload files to: (http:\/\/[^/]+)/;
    return {
      ...(await startProgram(path, [...address, ...storage, ...flags], env, ready)),
      bucket,
      headers: {},
    };
  });
}

/** Starts a contender with a folder for its temporary files, and deletes the folder when the contender has stopped. */
async function inFolder(start: (folder: string) => Promise<Contender>): Promise<Contender> {
  const temporaryFolder = await mkdtemp(join(tmpdir(), 'landfall-bench-other-'));
  const contender = await start(temporaryFolder);
  return {
    ...contender,
    temporaryFolder,
    async stop() {
      await contender.stop();
      await rm(temporaryFolder, { recursive: true, force: true });
    },
  };
}

async function startOther(
  script: string,
  store: Store,
  bucket: string,
  env: Record<string, string>,
): Promise<Contender> {
  await createBucket(store, bucket);
  const server = await startScript(script, {
    S3_ENDPOINT: store.endpoint,
    S3_BUCKET: bucket,
    S3_ACCESS_KEY_ID: store.accessKeyId,
    S3_SECRET_ACCESS_KEY: store.secretAccessKey,
    ...env,
  });
  return { ...server, bucket, headers: {} };
}
