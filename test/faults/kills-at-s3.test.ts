import { UploadPartCommand } from '@aws-sdk/client-s3';
import { findUpload } from '../support/aftermath.js';
import { beginConcatenation } from '../support/concatenated-upload.js';
import { type Dialect, IETF } from '../support/dialects.js';
import { type Installation, install } from '../support/installation.js';
import { groupPoints, type KillPoint, killAtAll, type Target, takeContent } from '../support/kill.js';
import { objectKeyOf, storageKeyOf } from '../support/objects.js';
import { beginUpload, MIB, type PiecewiseUpload, UNEVEN } from '../support/piecewise-upload.js';
import { until } from '../support/until.js';

/* The server is killed before and after every call to S3 that an upload makes. */

/** How many uploads stand still at a time. */
const ABREAST = 10;

let installation: Installation;

beforeAll(async () => {
  installation = await install({ parts: ['server'], env: { UPLOAD_MEMORY_BUDGET: '512MiB' } });
});
afterAll(() => installation?.close());

/** The kind of upload of one test. */
interface Way {
  sizes: number[];
  /** Sizes of the pieces of further partial uploads; `sizes` are then those of the first one. */
  further?: number[][];
  /** Whether the upload gets parts that no row names, as if a server had died just after it sent them. */
  strays?: boolean;
  /** Whether each PATCH carries a checksum, and so counts as a whole or not at all. */
  checksum?: boolean;
  /** Undefined: tus. */
  dialect?: Dialect;
}

async function begin(way: Way) {
  return way.further ? beginPartials([way.sizes, ...way.further]) : beginOne(way);
}

async function beginPartials(parts: number[][]) {
  const { processes, user } = installation;
  const content = takeContent(parts.flat());
  const upload = await beginConcatenation(user, content, parts);
  const ids = upload.partials.map(({ id }) => id);
  const keys = await Promise.all(ids.map((id) => storageKeyOf(processes, id)));
  async function finish(gate?: () => Promise<void>): Promise<PiecewiseUpload> {
    await upload.finish(gate);
    return upload;
  }
  return { content, ids, keys, finish };
}

async function beginOne({ sizes, strays, ...manner }: Way) {
  const { processes, user } = installation;
  const content = takeContent(sizes);
  const upload = await beginUpload(user, content, sizes, manner);
  const key = await storageKeyOf(processes, upload.id);
  let missing = strays;
  async function finish(gate = async () => {}): Promise<PiecewiseUpload> {
    await upload.finish(async () => {
      if (missing && (upload.acknowledged.at(-1) ?? 0) > 0) {
        missing = false;
        await addStrays(upload.id, key);
      }
      await gate();
    });
    return upload;
  }
  return { content, ids: [upload.id], keys: [key], finish };
}

/**
 * Adds a small part, which S3 refuses before the last part, and a large one, as the next two part numbers.
 */
async function addStrays(id: string, Key: string): Promise<void> {
  const { bucket, processes } = installation;
  const { multipartId: UploadId, nextPart } = (await findUpload(processes, id)).storage_state;
  for (const [index, size] of [MIB / 10, 6 * MIB].entries()) {
    const part = { Bucket: bucket.bucket, Key, UploadId, PartNumber: nextPart + index };
    await bucket.client.send(new UploadPartCommand({ ...part, Body: Buffer.alloc(size, 'stray') }));
  }
  await processes.database.query('UPDATE uploads SET storage_state = storage_state || $2 WHERE id = $1', [
    id,
    { nextPart: nextPart + 2 },
  ]);
}

/** Makes an upload without faults. @returns its calls */
async function listCalls(way: Way): Promise<string[]> {
  const { s3, bucket, processes } = installation;
  const { ids, keys, finish } = await begin(way);
  await finish();
  for (const [index, id] of ids.entries()) {
    const objectKey = await objectKeyOf(processes, id);
    const { untidy } = await findUpload(processes, id);
    // The upload does not wait for the deletion of consumed segments, so the test does.
    await until('only the object to be there', async () => {
      const stored = (await bucket.listKeys()).filter((each) => each.startsWith(keys[index] ?? '-'));
      return stored.includes(objectKey) && (untidy || stored.length === 1);
    });
  }
  return s3.requests.filter(isOf(keys)).map(({ operation }) => operation);
}

/** A predicate that picks the calls to S3 for these uploads. */
function isOf(keys: string[]): (request: { key: string }) => boolean {
  return (request) => keys.some((key) => request.key.startsWith(key));
}

/** Begins an upload that will stand still at this call. */
async function aimAt({ number, place }: KillPoint, way: Way): Promise<Target> {
  const { content, keys, finish } = await begin(way);
  const isMine = isOf(keys);
  let calls = 0;
  const pause = installation.s3.pauseAt((request) => {
    if (!isMine(request)) return false;
    calls++;
    return calls === number;
  }, place);
  return { content, reached: pause.reached, release: pause.open, upload: finish };
}

const WAYS: (Way & { name: string })[] = [
  { name: '24 MiB in uneven pieces', sizes: UNEVEN },
  { name: 'a small file', sizes: [100_000] },
  { name: 'a small file in two pieces', sizes: [100_000, 50_000] },
  { name: 'two partial uploads', sizes: [6 * MIB], further: [[100_000, 50_000]] },
  { name: '12 MiB with strays', sizes: [9 * MIB, 3 * MIB], strays: true },
  { name: '24 MiB in uneven pieces with checksums', sizes: UNEVEN, checksum: true },
  { name: '10 MiB in two pieces by the IETF draft', sizes: [MIB, 9 * MIB], dialect: IETF },
  { name: 'a small file in one POST by the IETF draft', sizes: [100_000], dialect: IETF },
];

test.each(WAYS)('killed before and after each call: $name', async (way) => {
  const calls = await listCalls(way);
  expect(calls.length).toBeGreaterThan(0);
  await killAtAll(installation, groupPoints(calls.length, ABREAST), (point) => aimAt(point, way));
});
