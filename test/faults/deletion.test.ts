import { randomBytes } from 'node:crypto';
import { expectBlobsInOrder } from '../support/aftermath.js';
import { type Installation, install } from '../support/installation.js';
import type { KillPoint } from '../support/kill.js';
import { ageUnreferenced, storageKeyOf } from '../support/objects.js';
import { beginUpload, MIB } from '../support/piecewise-upload.js';
import { until } from '../support/until.js';
import { makeDue } from '../support/uploads.js';

/*
 * A deleted upload or file stays deleted and leaves nothing in the bucket, at whatever moment the server
 * dies.
 */

let installation: Installation;

beforeEach(async () => {
  installation = await install({ parts: ['server'] });
});
afterEach(() => installation?.close());

/** Makes an unfinished upload of one part and a tail of two segments. */
async function makeUnfinished() {
  const { user } = installation;
  const content = randomBytes(10 * MIB);
  const upload = await beginUpload(user, content, []);
  for (const [from, to] of [
    [0, 8.5 * MIB],
    [8.5 * MIB, 9 * MIB],
  ] as const) {
    const body = content.subarray(from, to) as BodyInit;
    expect((await user.tus('PATCH', upload.path, { 'Upload-Offset': String(from) }, body)).status).toBe(204);
  }
  return upload;
}

async function makeFinished(sizes: number[]) {
  const { user } = installation;
  const length = sizes.reduce((sum, size) => sum + size, 0);
  const upload = await beginUpload(user, randomBytes(length), sizes);
  await upload.finish();
  return upload;
}

const KINDS = [
  ['an unfinished upload', makeUnfinished],
  ['a finished file', () => makeFinished([100_000])],
  ['a finished file of parts', () => makeFinished([3 * MIB, 6 * MIB])],
] as const;

type Make = (typeof KINDS)[number][1];

const remove = (path: string) =>
  installation.user
    .tus('DELETE', path)
    .then((answer) => answer.status)
    .catch(() => undefined);

const keyOf = (id: string) => storageKeyOf(installation.processes, id);

/** Whether a call to S3 is about this upload; lists count. */
const isAbout = (key: string) => (request: { key: string; query: URLSearchParams }) =>
  (request.key || (request.query.get('prefix') ?? '')).startsWith(key);

async function countCalls(make: Make): Promise<number> {
  const { s3 } = installation;
  const upload = await make();
  const key = await keyOf(upload.id);
  await until('deletions that nobody waits for', async () => (await stored(key)).length <= 3);
  const before = s3.requests.length;
  expect(await remove(upload.path)).toBe(204);
  expect(await stored(key)).toEqual([]);
  return s3.requests.slice(before).filter(isAbout(key)).length;
}

async function stored(key: string): Promise<string[]> {
  const { bucket } = installation;
  const multiparts = await bucket.listMultipartUploads();
  return [...(await bucket.listKeys()), ...multiparts.map((upload) => upload.key)].filter((each) =>
    each.startsWith(key),
  );
}

/** Begins a deletion that will stand still at this call. */
async function beginRemoval(make: Make, { number, place }: KillPoint) {
  const upload = await make();
  const key = await keyOf(upload.id);
  const matches = isAbout(key);
  let calls = 0;
  const pause = installation.s3.pauseAt((request) => {
    if (!matches(request)) return false;
    calls++;
    return calls === number;
  }, place);
  return { upload, key, pause, removal: remove(upload.path) };
}

async function expectGone(path: string): Promise<void> {
  const { user } = installation;
  expect([404, 410]).toContain((await user.tus('HEAD', path)).status);
  expect([404, 410]).toContain((await user.tus('PATCH', path, { 'Upload-Offset': '0' }, 'x')).status);
  expect((await user.fetch(path.replace('/uploads/', '/api/files/'))).status).toBe(404);
}

test.each(KINDS)('the server is killed before and after each call while it deletes %s', async (_, make) => {
  const { processes, bucket } = installation;
  const calls = await countCalls(make);
  expect(calls).toBeGreaterThan(0);
  const points = Array.from({ length: calls }, (_, index) => index + 1).flatMap((number): KillPoint[] => [
    { number, place: 'before' },
    { number, place: 'after' },
  ]);
  const removals = await Promise.all(points.map((point) => beginRemoval(make, point)));
  await Promise.all(removals.map(({ pause }) => pause.reached));
  await processes.kill('server');
  for (const { pause } of removals) pause.open();
  await processes.start('server');
  for (const { upload, removal } of removals) {
    // A deletion that had waited long enough for the store was answered before the kill.
    expect([undefined, 204]).toContain(await removal);
    await expectGone(upload.path);
  }
  // Blobs that nothing refers to are swept after an hour.
  await ageUnreferenced(processes);
  await processes.start('worker');
  await until('all to be gone', async () => (await bucket.listKeys()).length === 0);
  await expectBlobsInOrder(processes, bucket);
  expect(await bucket.listMultipartUploads()).toEqual([]);
  for (const { upload } of removals) await expectGone(upload.path);
});

test('an upload that expires leaves nothing, also when S3 fails at the first try', async () => {
  const { processes, bucket, s3 } = installation;
  const upload = await makeUnfinished();
  expect((await stored(await keyOf(upload.id))).length).toBeGreaterThan(1);
  await makeDue(processes.database);
  const heal = s3.rule(({ operation }) => /Abort|Delete/.test(operation), { fail: 503 });
  await processes.start('worker');
  await until('the reconciler to have tried', () => s3.requests.some(({ status }) => status === 503));
  await expectGone(upload.path);
  await processes.stop('worker');
  heal();
  await processes.start('worker');
  await until('all to be gone', async () => (await bucket.listKeys()).length === 0);
  expect(await bucket.listMultipartUploads()).toEqual([]);
  await expectGone(upload.path);
});
