import { GIB, MIB, SCALE } from './figures.js';
import { measure, medians, type Run } from './measure.js';
import { type Contender, chooseContenders, runInTurns } from './s3-contenders.js';
import { emptyBucket, onEachStore, type Store } from './s3-stores.js';
import { AGAIN, type Aim, atLeast, atMost, type Row, row } from './table.js';
import { terminateUpload, upload } from './tus-client.js';

interface Shape {
  name: string;
  uploads: number;
  /** Bytes of one upload. */
  length: number;
  /** Bytes of one PATCH. */
  patch: number;
}

const PATCH = 16 * MIB;
const WARM_UP = 64 * MIB;
const LARGE = Math.ceil(1024 * SCALE) * MIB;
const EIGHTH = LARGE / 8;
const SIZE = { large: `${LARGE / MIB} MiB`, eighth: `8 × ${EIGHTH / MIB} MiB` };

const SHAPES: Shape[] = [
  { name: `${SIZE.large} in one PATCH`, uploads: 1, length: LARGE, patch: LARGE },
  { name: `${SIZE.large} in 16 MiB`, uploads: 1, length: LARGE, patch: PATCH },
  { name: `${SIZE.eighth} in one PATCH`, uploads: 8, length: EIGHTH, patch: EIGHTH },
  { name: `${SIZE.eighth} in 16 MiB`, uploads: 8, length: EIGHTH, patch: PATCH },
];

/** The requests that begin and end a multipart upload. */
const REQUESTS_AROUND = 2;

/** Large uploads, one and eight at a time, in one PATCH and in many. The aims hold on the store that discards. */
export function benchS3Large(): Promise<Row[]> {
  return onEachStore(async (store) => {
    const contenders = chooseContenders();
    const rows: Row[] = [];
    for (const shape of SHAPES) {
      const pairs = await runInTurns(store, contenders, async (server) => {
        // Let V8 compile the code first: it costs more than a small upload does.
        await upload(server, WARM_UP, PATCH);
        const first = await runOne(store, server, shape);
        return {
          first,
          again: server.bucket === 'landfall' ? await runOne(store, server, shape) : undefined,
        };
      });
      const runs = new Map([...pairs].map(([name, all]) => [name, all.map(({ first }) => first)]));
      const again = pairs.get('landfall')?.flatMap((pair) => pair.again ?? []);
      if (again) runs.set(AGAIN, again);
      rows.push(...toRows(store, shape, runs));
    }
    return rows;
  });
}

function toRows(
  store: Store,
  { name: shape, uploads, length, patch }: Shape,
  runs: Map<string, Run[]>,
): Row[] {
  const total = uploads * length;
  const patches = uploads * Math.ceil(length / patch);
  const isNull = store.takeCounts !== undefined;
  const toRow = (name: string, figure: (run: Run) => number, digits: number, aim?: Aim) =>
    row(`${store.name}, ${shape}, ${name}`, medians(runs, figure), digits, isNull ? aim : undefined);
  const rows = [
    toRow('MB/s', (run) => total / MIB / run.seconds, 0, atLeast(0.95, 'bare')),
    toRow('CPU s/GiB', (run) => (run.cpu * GIB) / total, 2, atMost(1.15, 'bare')),
    toRow('peak memory, MiB', (run) => run.memory / MIB, 0, atMost(180)),
  ];
  if (isNull && patch === PATCH) {
    const requests = (run: Run) => (run.requests - REQUESTS_AROUND * uploads) / patches;
    rows.push(toRow('S3 requests a PATCH', requests, 1, atMost(2)));
  } else if (isNull) {
    rows.push(toRow('S3 requests an upload', (run) => run.requests / uploads, 1));
  }
  return rows;
}

async function runOne(store: Store, server: Contender, { uploads, length, patch }: Shape): Promise<Run> {
  let locations: string[] = [];
  const run = await measure(server, store, uploads * length, async () => {
    locations = await Promise.all(Array.from({ length: uploads }, () => upload(server, length, patch)));
  });
  // Landfall deletes the object itself; the others leave theirs.
  if (server.bucket === 'landfall') for (const location of locations) await terminateUpload(server, location);
  else await emptyBucket(store, server.bucket);
  return run;
}
