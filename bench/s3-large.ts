import {
  type Contender,
  measure,
  type Row,
  type Run,
  row,
  startBare,
  startLandfall,
  startStock,
  withContenders,
} from './s3-contenders.js';
import { emptyBucket, onEachStore, type Store } from './s3-stores.js';
import { GIB, MIB, median, SCALE } from './system.js';
import { terminateUpload, upload } from './tus-client.js';

const ROUNDS = 3;
const PATCH = 16 * MIB;

const LARGE = Math.ceil(1024 * SCALE) * MIB;
const QUARTER = Math.ceil(256 * SCALE) * MIB;

/** `length` and `patch` in bytes. */
const SHAPES = [
  { what: '1 GiB in one PATCH', uploads: 1, length: LARGE, patch: LARGE },
  { what: '1 GiB in 16 MiB', uploads: 1, length: LARGE, patch: PATCH },
  { what: '8 × 256 MiB in one PATCH', uploads: 8, length: QUARTER, patch: QUARTER },
  { what: '8 × 256 MiB in 16 MiB', uploads: 8, length: QUARTER, patch: PATCH },
];

/** Large uploads, one and eight at a time, in one PATCH and in many. */
export function benchS3Large(): Promise<Row[]> {
  return onEachStore((store) =>
    withContenders(store, { landfall: startLandfall, stock: startStock, bare: startBare }, (contenders) =>
      measureAll(store, contenders),
    ),
  );
}

async function measureAll(store: Store, contenders: Record<string, Contender>): Promise<Row[]> {
  const names = Object.keys(contenders);
  const rows: Row[] = [];
  for (const { what, uploads, length, patch } of SHAPES) {
    const runs = new Map<string, Run[]>(names.map((name) => [name, []]));
    for (let round = 0; round < ROUNDS; round++) {
      for (const [name, contender] of Object.entries(contenders)) {
        runs.get(name)?.push(await runOne(store, contender, uploads, length, patch));
      }
    }
    const medians = (figure: (run: Run) => number) =>
      Object.fromEntries([...runs].map(([name, all]) => [name, median(all.map(figure))]));
    const total = uploads * length;
    const label = `${store.name}, ${what}`;
    rows.push(
      row(
        `${label}, MB/s`,
        medians((run) => total / MIB / run.seconds),
        0,
      ),
    );
    rows.push(
      row(
        `${label}, CPU s/GiB`,
        medians((run) => (run.cpu * GIB) / total),
        2,
      ),
    );
    rows.push(
      row(
        `${label}, peak RSS, MiB`,
        medians((run) => run.memory / MIB),
        0,
      ),
    );
    if (store.takeCounts)
      rows.push(
        row(
          `${label}, S3 requests each`,
          medians((run) => run.requests / uploads),
        ),
      );
  }
  return rows;
}

async function runOne(
  store: Store,
  server: Contender,
  uploads: number,
  length: number,
  patch: number,
): Promise<Run> {
  let locations: string[] = [];
  const run = await measure(server, store, uploads * length, async () => {
    locations = await Promise.all(Array.from({ length: uploads }, () => upload(server, length, patch)));
  });
  // Landfall deletes its objects by itself.
  if (server.bucket === 'landfall') for (const location of locations) await terminateUpload(server, location);
  else await emptyBucket(store, server.bucket);
  return run;
}
