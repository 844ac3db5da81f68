import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { open, rename } from 'node:fs/promises';
import { promisify } from 'node:util';
import { encodeMetadata, registerUser, type TestUser } from './support/client.js';
import { makePng } from './support/fixtures.js';
import { PARTIAL, say } from './support/ietf-client.js';
import { uploadPathOf } from './support/objects.js';
import { expectProblem, filesOf, post, sha256 } from './support/plain-client.js';
import { type Processes, startProcesses } from './support/processes.js';
import { send } from './support/sign-in.js';
import { until } from './support/until.js';

/*
 * The times that users are given for processing: the estimate while it runs, and the time of each step
 * afterwards.
 */

const PIECE = 64 * 1024;

/** Of an upload of five bytes in one request. */
const CREATION = { 'Upload-Length': '5', 'Content-Type': 'application/offset+octet-stream' };

let processes: Processes;
let user: TestUser;

beforeAll(async () => {
  processes = await startProcesses({}, ['server']);
  user = await registerUser(() => processes.url);
});
afterAll(() => processes?.close());

const statusOf = (id: string) => user.get(`/api/files/${id}/status`);
const estimateFor = (query: string) => user.get(`/api/processing/estimate?${query}`);
const NOTHING = { etaSeconds: null, waitSeconds: expect.any(Number), basis: null };

test('nothing is promised as long as no file has been processed', async () => {
  for (const query of ['size=5', 'size=0&type=image/png', `size=${2 ** 40}&type=video/mp4`]) {
    expect(await estimateFor(query)).toEqual(NOTHING);
  }
  const sent = await user.tus('POST', '/uploads', CREATION, 'words');
  expect(sent.status).toBe(201);
  expect(sent.headers.get('Upload-Processing-Estimate')).toBeNull();
  const [file] = await filesOf(await post(user, 'words'));
  expect(file).toMatchObject({ etaSeconds: null, sha256: sha256('words') });
  expect(await statusOf(file?.id ?? '')).toMatchObject({ status: 'pending', etaSeconds: null });
});

test('a file has an estimate while it is read, and its steps take no longer than the whole', async () => {
  const content = randomBytes(100 * PIECE);
  const id = await user.upload(content, { filename: 'slow.bin' });
  // A pipe in the object's place makes the read as slow as the test fills it.
  const path = await uploadPathOf(processes, id);
  await rename(path, `${path}.kept`);
  await promisify(execFile)('mkfifo', [path]);
  await processes.start('worker');
  const pipe = await until('the file to be read', () =>
    open(path, constants.O_WRONLY | constants.O_NONBLOCK).catch(() => undefined),
  );
  const status = () => statusOf(id);
  let sent = 0;
  /** Sends no more bytes than these, and none while the pipe is full. */
  const send = async (bytes: number) => {
    sent += await pipe
      .write(content, sent, bytes)
      .then(({ bytesWritten }) => bytesWritten)
      .catch((error) => (error.code === 'EAGAIN' ? 0 : Promise.reject(error)));
  };
  const told = await until('an estimate', async () => {
    if (sent < content.length / 2) await send(PIECE);
    const { etaSeconds } = await status();
    return etaSeconds === null ? undefined : { etaSeconds };
  });
  expect(Number.isInteger(told.etaSeconds) && told.etaSeconds >= 1).toBe(true);

  // Now files of this size turn out to take long after they were read.
  await processes.database.query(
    `INSERT INTO processing_durations VALUES ('', floor(log(2, $1::bigint)), 0, $1::bigint, 1, 100000)`,
    [content.length],
  );
  await until('the time of later steps to count', async () => {
    await send(4096);
    const { etaSeconds, step } = await status();
    return step === 'verify' && etaSeconds > 100;
  });
  await processes.database.query('DELETE FROM processing_durations');
  while (sent < content.length) await send(content.length - sent);
  await pipe.close();

  const file = await user.settled(id);
  expect(file.status).toBe('completed');
  expect((await status()).etaSeconds).toBe(0);
  const { items } = await user.get(`/api/files/${id}/events`);
  const at = (type: string) =>
    Date.parse(items.find((item: { type: string }) => item.type === type).createdAt);
  const took = Object.values(file.steps).map(({ ms }) => ms);
  // The time of each step is rounded, by up to a millisecond.
  const all = at('file.completed') - at('file.processing') + took.length;
  expect(took.reduce((sum, ms) => sum + ms)).toBeLessThanOrEqual(all);
  expect(file.steps.verify?.ms).toBeGreaterThan(file.steps.sniff?.ms ?? 0);
  const steps = items.filter(({ type }: { type: string }) => type === 'file.step');
  for (const { data } of steps) expect(data).toMatchObject(file.steps[data.step] ?? {});
});

describe('when files were processed', () => {
  let png: Buffer;
  /** An upload of this length, by tus, whose bytes follow. */
  const create = (length: number, headers: Record<string, string> = {}) => user.create(length, headers);
  const patch = (path: string, body: Buffer) =>
    user.tus('PATCH', path, { 'Upload-Offset': '0' }, body as BodyInit);
  const estimateIn = (answer: Response) => answer.headers.get('Upload-Processing-Estimate');
  const SECONDS = expect.stringMatching(/^[1-9]\d*$/);

  beforeAll(async () => {
    png = await makePng({ width: 50, height: 50 });
    // One after the other: two files that are completed at the same moment may take the same place.
    for (let count = 0; count < 6; count++) {
      expect((await user.settled(await user.upload(png))).status).toBe('completed');
    }
    await until('their durations to be known', async () => {
      const { basis } = await estimateFor(`size=${png.length}&type=image/png`);
      return basis?.files === 6 && basis.types === 'image/png';
    });
    // From here on all files wait.
    await processes.stop('worker');
  });

  test('the estimate before an upload names the files that it goes by', async () => {
    const known = { etaSeconds: expect.any(Number), waitSeconds: 0 };
    expect(await estimateFor(`size=${png.length}&type=image/png`)).toEqual({
      ...known,
      basis: { types: 'image/png', files: 6 },
    });
    expect(await estimateFor('size=1&type=image/webp')).toEqual({
      ...known,
      basis: { types: 'image/*', files: 6 },
    });
    expect(await estimateFor('size=1')).toEqual({
      ...known,
      basis: { types: '*/*', files: expect.any(Number) },
    });
    expect(await estimateFor(`size=${png.length * 1000}&type=image/png`)).toEqual({
      ...NOTHING,
      waitSeconds: 0,
    });
    expect(await estimateFor('size=1&type=video/mp4')).toEqual({ ...NOTHING, waitSeconds: 0 });
  });

  test.each([
    '',
    'size=',
    'size=-1',
    'size=1.5',
    'size=1e3',
    'size=9007199254740993',
    'size=1&size=2',
    'type=image/png',
    'size=1&type=',
    'size=1&type=png',
    'size=1&type=image/*%0A',
    `size=1&type=a/${'b'.repeat(300)}`,
  ])('the question ?%s is refused', async (query) => {
    const answer = await user.fetch(`/api/processing/estimate?${query}`);
    await expectProblem(answer, 400, 'invalid_request');
  });

  test('every answer to the last byte tells the estimate', async () => {
    const metadata = { 'Upload-Metadata': encodeMetadata({ filetype: 'image/png' }) };
    const created = await user.tus(
      'POST',
      '/uploads',
      { ...CREATION, ...metadata, 'Upload-Length': String(png.length) },
      png as BodyInit,
    );
    expect([created.status, estimateIn(created)]).toEqual([201, SECONDS]);
    expect(created.headers.get('Access-Control-Expose-Headers')).toContain('Upload-Processing-Estimate');
    const patched = await patch(await create(png.length, metadata), png);
    expect([patched.status, estimateIn(patched)]).toEqual([204, SECONDS]);
    // A piece that is not the last, and a partial upload, become no file.
    expect(estimateIn(await patch(await create(png.length + 1, metadata), png))).toBeNull();
    const part = await create(png.length, { ...metadata, 'Upload-Concat': 'partial' });
    expect(estimateIn(await patch(part, png))).toBeNull();
    const joined = await user.tus('POST', '/uploads', { 'Upload-Concat': `final;${part}`, ...metadata });
    expect([joined.status, estimateIn(joined)]).toEqual([201, SECONDS]);

    const [plain] = await filesOf(await post(user, png, { 'Content-Type': 'image/png' }));
    expect(plain).toMatchObject({ etaSeconds: expect.any(Number), sha256: sha256(png) });
    const begun = await say(processes.url, user, 'POST', '/uploads', {
      headers: { 'Upload-Complete': '?0', 'Content-Type': 'image/png' },
      body: png.subarray(0, 10),
    });
    const ended = await say(processes.url, user, 'PATCH', String(begun?.headers.location), {
      headers: { 'Upload-Complete': '?1', 'Upload-Offset': '10', 'Content-Type': PARTIAL },
      body: png.subarray(10),
    });
    expect(JSON.parse(ended?.body ?? '').files).toEqual([
      expect.objectContaining({ etaSeconds: expect.any(Number) }),
    ]);
  });

  test('a file waits about as long as the one that has waited longest', async () => {
    const older = await user.upload(png, { filetype: 'image/png' });
    await processes.database.query(
      `UPDATE files SET updated_at = now() - interval '100 seconds' WHERE id = $1`,
      [older],
    );
    await until('the wait to be known', async () => {
      const { etaSeconds, waitSeconds } = await estimateFor('size=1&type=image/png');
      return waitSeconds >= 100 && etaSeconds >= waitSeconds;
    });
    // The older one is the next.
    expect((await statusOf(older)).etaSeconds).toBeLessThan(50);
    const newer = await user.upload(png, { filetype: 'image/png' });
    expect((await statusOf(newer)).etaSeconds).toBeGreaterThanOrEqual(100);
    expect((await statusOf(await user.upload(png, { filetype: 'video/mp4' }))).etaSeconds).toBeNull();
    await send(user, 'POST', `/api/files/${newer}/pause`, {});
    expect(await statusOf(newer)).toMatchObject({ status: 'paused', etaSeconds: null });
  });

  test('a file that has just begun has the time of its kind; one that waits for another attempt has none', async () => {
    const id = await user.upload(png, { filetype: 'image/png' });
    const set = (columns: string, seconds = 0) =>
      processes.database.query(
        `UPDATE files SET status = 'processing', updated_at = now() - $2 * interval '1 second', ${columns} WHERE id = $1`,
        [id, seconds],
      );
    await set('eta_seconds = NULL');
    expect((await statusOf(id)).etaSeconds).toBeGreaterThanOrEqual(1);
    // What the worker has reckoned counts, less the time since then.
    await set('eta_seconds = 1000', 400);
    expect((await statusOf(id)).etaSeconds).toBeLessThanOrEqual(600);
    expect((await statusOf(id)).etaSeconds).toBeGreaterThan(500);
    await set(`eta_seconds = NULL, error = '{"step": "verify", "code": "unavailable", "detail": "d"}'`);
    expect(await statusOf(id)).toMatchObject({
      etaSeconds: null,
      error: { code: 'unavailable', message: expect.stringMatching(/tried again by itself/) },
    });
  });

  test('a file that has failed says why in words', async () => {
    await processes.start('worker');
    const id = await user.upload(png, { sha256: sha256('something else') });
    expect((await user.settled(id)).status).toBe('failed');
    expect(await statusOf(id)).toMatchObject({
      status: 'failed',
      etaSeconds: 0,
      error: { step: 'verify', code: 'checksum_mismatch', message: expect.stringMatching(/upload it again/) },
    });
  });
});
