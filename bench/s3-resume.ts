import { GIB, MIB, median, SCALE } from './figures.js';
import { type Contender, startStock, withContenders } from './s3-contenders.js';
import { startLandfall } from './s3-landfall.js';
import { type NullS3, startNullS3, sumRequests } from './s3-stores.js';
import { atMost, type Row, row } from './table.js';
import { createUpload, headUpload, patchUpload } from './tus-client.js';

const PART = 8 * MIB;
const LEVELS = [10, 1000, 5000].map((parts) => Math.ceil(parts * SCALE));
const ROUNDS = 15;

/** So many times longer may a HEAD or a PATCH take after the most parts than after the fewest, because times vary. */
const FLAT = 1.3;

/** The cost of resuming an upload that has many parts: one HEAD, and a PATCH of 8 MiB. */
export async function benchS3Resume(): Promise<Row[]> {
  const store = await startNullS3();
  try {
    return await withContenders(store, { landfall: startLandfall, stock: startStock }, async (contenders) => {
      const levels: Level[] = [];
      for (const parts of LEVELS) levels.push(await measureLevel(store, parts, contenders));
      return [...levels.flatMap(toRows), ...compareLevels(levels)];
    });
  } finally {
    await store.stop();
  }
}

/** Sends large PATCHes until the upload has `parts` parts. @returns its address */
async function growUpload(server: Contender, parts: number): Promise<string> {
  const location = await createUpload(server, lengthFor(parts));
  for (let offset = 0; offset < parts * PART; offset += GIB) {
    await patchUpload(server, location, offset, Math.min(GIB, parts * PART - offset));
  }
  return location;
}

/** Stock asks the store for its parts, so the bench can invent them there and need not send 40 GiB. */
async function pretendUpload(store: NullS3, stock: Contender, parts: number): Promise<string> {
  const location = await createUpload(stock, lengthFor(parts));
  const key = encodeURIComponent(`${stock.bucket}/${location.split('/').at(-1)}`);
  await fetch(`${store.endpoint}/__parts?key=${key}&count=${parts}&size=${PART}`, { method: 'POST' });
  return location;
}

/** A length beyond the bytes that will be sent, so that the upload stays unfinished. */
function lengthFor(parts: number): number {
  return parts * PART + GIB;
}

/** The times and S3 requests of one contender's HEADs and PATCHes. */
interface Sample {
  headMs: number[];
  headRequests: number[];
  patchMs: number[];
  patchRequests: number[];
}

/** The medians of both contenders for uploads of so many parts. */
interface Level {
  parts: number;
  /** The parts that Landfall sent for them. */
  partsSent: number;
  medians: Record<keyof Sample, Record<'landfall' | 'stock', number>>;
}

async function measureLevel(
  store: NullS3,
  parts: number,
  servers: Record<'landfall' | 'stock', Contender>,
): Promise<Level> {
  await store.takeCounts();
  const landfall = await growUpload(servers.landfall, parts);
  const { requests } = await store.takeCounts();
  const locations = { landfall, stock: await pretendUpload(store, servers.stock, parts) };
  const newSample = (): Sample => ({ headMs: [], headRequests: [], patchMs: [], patchRequests: [] });
  const samples = { landfall: newSample(), stock: newSample() };
  for (let round = 0; round < ROUNDS; round++) {
    for (const name of ['landfall', 'stock'] as const) {
      const [server, location] = [servers[name], locations[name]];
      const sample = samples[name];
      let offset = 0;
      const head = await time(store, async () => {
        offset = await headUpload(server, location);
      });
      const patch = await time(store, () => patchUpload(server, location, offset, PART));
      sample.headMs.push(head.ms);
      sample.headRequests.push(head.requests);
      sample.patchMs.push(patch.ms);
      sample.patchRequests.push(patch.requests);
    }
  }
  const medianOf = (figure: keyof Sample) => ({
    landfall: median(samples.landfall[figure]),
    stock: median(samples.stock[figure]),
  });
  return {
    parts,
    partsSent: requests.UploadPart ?? 0,
    medians: {
      headMs: medianOf('headMs'),
      headRequests: medianOf('headRequests'),
      patchMs: medianOf('patchMs'),
      patchRequests: medianOf('patchRequests'),
    },
  };
}

function toRows({ parts, partsSent, medians }: Level): Row[] {
  return [
    row(`parts when there should be ${parts}`, { landfall: partsSent, stock: parts }, 0),
    row(`HEAD after ${parts} parts, ms`, medians.headMs),
    row(`HEAD after ${parts} parts, S3 requests`, medians.headRequests, 0, atMost(0)),
    row(`PATCH of 8 MiB after ${parts} parts, ms`, medians.patchMs),
    row(`PATCH of 8 MiB after ${parts} parts, S3 requests`, medians.patchRequests, 0, atMost(1)),
  ];
}

/** The times after the most parts, as multiples of those after the fewest. */
function compareLevels(levels: Level[]): Row[] {
  const [fewest, most] = [levels.at(0), levels.at(-1)];
  if (!fewest || !most) return [];
  const growth = (figure: 'headMs' | 'patchMs') => ({
    landfall: most.medians[figure].landfall / fewest.medians[figure].landfall,
    stock: most.medians[figure].stock / fewest.medians[figure].stock,
  });
  const label = `after ${most.parts} parts, as a multiple of that after ${fewest.parts}`;
  return [
    row(`HEAD ${label}`, growth('headMs'), 2, atMost(FLAT)),
    row(`PATCH of 8 MiB ${label}`, growth('patchMs'), 2, atMost(FLAT)),
  ];
}

async function time(store: NullS3, work: () => Promise<void>): Promise<{ ms: number; requests: number }> {
  await store.takeCounts();
  const began = performance.now();
  await work();
  const ms = performance.now() - began;
  return { ms, requests: sumRequests(await store.takeCounts()) };
}
