import { randomBytes } from 'node:crypto';
import type { Detected } from '../core/media/types.js';
import { findTypeLimit, sizeError } from '../core/uploads/size-limits.js';
import { expectBooksRight } from './support/books.js';
import { encodeMetadata, idOf, registerUser, type TestUser, useAccount } from './support/client.js';
import { makeJpeg, makeTiff } from './support/fixtures.js';
import { open, PARTIAL, say } from './support/ietf-client.js';
import { filesOf, post, streamOf } from './support/plain-client.js';
import { type Processes, startProcesses } from './support/processes.js';
import { createBucket, type TestBucket } from './support/s3.js';
import { send } from './support/sign-in.js';

/* Limits of size by the type of the file, whichever protocol brings it. */

const MAX_TIFF = 40_000;
const MAX_IMAGE = 10_000;
const MAX_TEXT = 500;
const MAX_UNKNOWN = 50_000;
const LIMITS = {
  maxSizeByType: [
    { type: 'image/*', maxSize: MAX_IMAGE },
    { type: 'image/tiff', maxSize: MAX_TIFF },
    { type: 'text/plain', maxSize: MAX_TEXT },
    { type: 'application/octet-stream', maxSize: MAX_UNKNOWN },
  ],
};

describe('the limit of a type', () => {
  test.each([
    ['image/png', MAX_IMAGE],
    ['IMAGE/PNG; q=1', MAX_IMAGE],
    ['image/tiff', MAX_TIFF],
    ['text/plain; charset=utf-8', MAX_TEXT],
    ['text/csv', undefined],
    [null, MAX_UNKNOWN],
    ['', MAX_UNKNOWN],
    ['video/mp4', undefined],
  ])('%s', (type, maxSize) => {
    expect(findTypeLimit(LIMITS, type)?.maxSize).toBe(maxSize);
  });

  test('holds for other names of the same type', () => {
    const limits = { maxSizeByType: [{ type: 'image/jpg', maxSize: 1 }] };
    for (const type of ['image/jpeg', 'image/pjpeg', 'image/jpg']) {
      expect(findTypeLimit(limits, type)?.maxSize).toBe(1);
    }
  });
});

describe('the content of a file', () => {
  const detected = (mime: string, more: Partial<Detected> = {}): Detected => ({ mime, ext: 'x', ...more });

  test.each<[string, string | null, Detected | null, number | undefined]>([
    ['an image that says it is a video', 'video/mp4', detected('image/jpeg'), MAX_IMAGE],
    ['an image that says nothing', null, detected('image/jpeg'), MAX_IMAGE],
    ['a TIFF', 'image/tiff', detected('image/tiff'), MAX_TIFF],
    ['text that says it is a video', 'video/x-own', detected('text/plain'), MAX_TEXT],
    ['text that says it is an MP4', 'video/mp4', detected('text/plain'), MAX_TEXT],
    ['a table', 'text/csv', detected('text/plain'), undefined],
    ['an SVG', 'image/svg+xml', detected('application/xml', { root: 'svg' }), MAX_IMAGE],
    ['noise that says it is a video', 'video/mp4', null, MAX_UNKNOWN],
    ['noise of an own format', 'application/x-own', null, undefined],
    ['noise that says nothing', null, null, MAX_UNKNOWN],
  ])('%s', (_name, declaredType, type, most) => {
    const errorOf = (size: number) => sizeError(LIMITS, { size, declaredType }, type)?.code;
    if (most === undefined) expect(errorOf(Number.MAX_SAFE_INTEGER)).toBeUndefined();
    else expect([errorOf(most), errorOf(most + 1)]).toEqual([undefined, 'too_large']);
  });
});

describe('an upload', () => {
  let bucket: TestBucket;
  let processes: Processes;
  let user: TestUser;

  beforeAll(async () => {
    bucket = await createBucket();
    const limits = LIMITS.maxSizeByType.map(({ type, maxSize }) => `${type}=${maxSize}`);
    processes = await startProcesses({ ...bucket.env, MAX_UPLOAD_SIZE_BY_TYPE: limits.join(',') });
    user = await registerUser(() => processes.url);
  });
  afterAll(async () => {
    await processes?.close();
    await bucket?.drop();
  });
  afterEach(() => expectBooksRight(processes.database));

  const PNG = { 'Upload-Metadata': encodeMetadata({ filetype: 'image/png' }) };
  const create = (length: number | null, headers: Record<string, string> = PNG, as = user) => {
    const known = length === null ? { 'Upload-Defer-Length': '1' } : { 'Upload-Length': String(length) };
    return as.tus('POST', '/uploads', { ...known, ...headers });
  };
  const patch = (path: string, offset: number, body: Uint8Array, headers: Record<string, string> = {}) =>
    user.tus('PATCH', path, { 'Upload-Offset': String(offset), ...headers }, body as BodyInit);

  test('of a declared type and a known length is refused at its creation by every protocol', async () => {
    const tooMuch = MAX_IMAGE + 1;
    const body = Buffer.alloc(tooMuch);
    const asPng = { 'Content-Type': 'image/png' };
    const ietf = await say(processes.url, user, 'POST', '/api/files', {
      headers: { ...asPng, 'Upload-Complete': '?0', 'Upload-Length': String(tooMuch) },
      body: Buffer.alloc(1),
    });
    const direct = await send(user, 'POST', '/api/uploads/presign', { size: tooMuch, type: 'image/png' });
    const refused = [await create(tooMuch), await post(user, body, asPng), direct];
    expect(refused.map(({ status }) => status)).toEqual([413, 413, 413]);
    expect(await refused[0]?.text()).toBe(`At most ${MAX_IMAGE} bytes of image/* are taken\n`);
    expect(ietf?.status).toBe(413);
    expect(JSON.parse(ietf?.body ?? '')).toMatchObject({ code: 'too_large' });
    expect((await user.get('/api/uploads')).items).toEqual([]);

    const taken = [
      await create(MAX_IMAGE),
      await create(tooMuch, {}),
      await create(tooMuch, { 'Upload-Metadata': encodeMetadata({ filetype: 'image/tiff' }) }),
      await send(user, 'POST', '/api/uploads/presign', { size: MAX_IMAGE, type: 'image/png' }),
    ];
    expect(taken.map(({ status }) => status)).toEqual([201, 201, 201, 200]);
  });

  test('of unknown length is cut off by tus where the limit of its type is reached', async () => {
    const path = `/uploads/${idOf((await create(null)).headers.get('Location') ?? '')}`;
    expect((await patch(path, 0, Buffer.alloc(MAX_IMAGE))).status).toBe(204);
    expect((await patch(path, MAX_IMAGE, Buffer.alloc(1))).status).toBe(413);
    const declared = await patch(path, MAX_IMAGE, Buffer.alloc(0), {
      'Upload-Length': String(MAX_IMAGE + 1),
    });
    expect(declared.status).toBe(413);
    expect((await patch(path, MAX_IMAGE, Buffer.alloc(0), { 'Upload-Length': `${MAX_IMAGE}` })).status).toBe(
      204,
    );
  });

  test('of unknown length is refused by a plain POST and by the IETF draft, which tells the limit', async () => {
    const before = (await user.get('/api/uploads')).items.length;
    const asPng = { 'Content-Type': 'image/png' };
    const plain = await post(user, streamOf(Buffer.alloc(MAX_IMAGE + 1), 1000), asPng);
    expect(plain.status).toBe(413);
    const request = open(processes.url, user, 'POST', '/uploads', {
      headers: { ...asPng, 'Upload-Complete': '?1' },
    });
    expect(await request.told('upload-limit')).toContain(`max-size=${MAX_IMAGE}`);
    request.outgoing.end(Buffer.alloc(MAX_IMAGE + 1));
    expect((await request.answer)?.status).toBe(413);
    expect((await user.get('/api/uploads')).items).toHaveLength(before);

    const [small] = await filesOf(await post(user, streamOf(Buffer.alloc(MAX_IMAGE), 1000), asPng));
    expect(small?.size).toBe(MAX_IMAGE);
  });

  test('that goes on by the IETF draft must keep the limit too', async () => {
    const created = await say(processes.url, user, 'POST', '/uploads', {
      headers: { 'Content-Type': 'image/png', 'Upload-Complete': '?0' },
      body: Buffer.alloc(10),
    });
    const address = String(created?.headers.location);
    const appended = await say(processes.url, user, 'PATCH', address, {
      headers: { 'Content-Type': PARTIAL, 'Upload-Offset': '10', 'Upload-Complete': '?1' },
      body: Buffer.alloc(MAX_IMAGE),
    });
    expect(appended?.status).toBe(413);
  });

  test('that is made of partial uploads must keep the limit of its own type', async () => {
    const parts = await Promise.all(
      [MAX_IMAGE, 1].map(async (size) => {
        const answer = await create(size, { 'Upload-Concat': 'partial' });
        const path = `/uploads/${idOf(answer.headers.get('Location') ?? '')}`;
        expect((await patch(path, 0, Buffer.alloc(size))).status).toBe(204);
        return path;
      }),
    );
    const join = (headers: Record<string, string>) =>
      user.tus('POST', '/uploads', { 'Upload-Concat': `final;${parts.join(' ')}`, ...headers });
    expect((await join(PNG)).status).toBe(413);
    expect((await join({})).status).toBe(201);
  });

  test('that waits for partial uploads of unknown length ends when they are too large for its type', async () => {
    const part = await create(null, { 'Upload-Concat': 'partial' });
    const path = `/uploads/${idOf(part.headers.get('Location') ?? '')}`;
    const final = await user.tus('POST', '/uploads', { 'Upload-Concat': `final;${path}`, ...PNG });
    expect(final.status).toBe(201);
    const length = MAX_IMAGE + 1;
    await patch(path, 0, Buffer.alloc(length), { 'Upload-Length': String(length) });
    const { status, error } = await user.get(`/api/uploads/${idOf(final.headers.get('Location') ?? '')}`);
    expect({ status, error }).toMatchObject({ status: 'terminated', error: { code: 'too_large' } });
  });

  test('by an upload token has the smaller one of both limits', async () => {
    const invite = async (maxSize: number) => {
      const { token } = await (await send(user, 'POST', '/api/upload-tokens', { maxSize })).json();
      return useAccount({ id: '', email: '', role: 'guest' }, token, () => processes.url);
    };
    const asPng = { 'Content-Type': 'image/png' };
    const chunked = (as: TestUser, size: number) => post(as, streamOf(Buffer.alloc(size), 1000), asPng);
    const [narrow, wide] = [await invite(100), await invite(MAX_IMAGE * 2)];
    expect((await chunked(narrow, 101)).status).toBe(413);
    expect((await chunked(narrow, 100)).status).toBe(201);
    expect((await chunked(wide, MAX_IMAGE + 1)).status).toBe(413);
    expect((await chunked(wide, MAX_IMAGE)).status).toBe(201);
  });

  test.each<[string, string | undefined, () => Promise<Buffer> | Buffer]>([
    ['an image that is declared as a video', 'video/mp4', () => makeLargeJpeg()],
    ['an image of no declared type', undefined, () => makeLargeJpeg()],
    ['noise that is declared as a video', 'video/mp4', () => randomBytes(MAX_UNKNOWN + 1)],
    ['text that is declared as a video', 'video/mp4', () => Buffer.from('words '.repeat(100))],
  ])('of %s is a failed file that is never served', async (_name, filetype, make) => {
    const id = await user.upload(await make(), filetype === undefined ? {} : { filetype });
    const file = await user.settled(id);
    expect(file).toMatchObject({
      status: 'failed',
      error: { step: 'sniff', code: 'too_large' },
      attempts: 1,
    });
    expect((await user.fetch(`/api/files/${id}/content`)).status).toBe(409);
    // Processing again does not help.
    expect((await send(user, 'POST', `/api/files/${id}/retry`, {})).status).toBe(200);
    expect(await user.settled(id)).toMatchObject({ status: 'failed', error: { code: 'too_large' } });
  });

  test('of an allowed size is processed', async () => {
    const tiff = Buffer.concat([await makeTiff({ width: 10, height: 10 }), Buffer.alloc(MAX_IMAGE)]);
    for (const filetype of ['image/tiff', 'video/mp4']) {
      expect(await user.settled(await user.upload(tiff, { filetype }))).toMatchObject({
        status: 'completed',
        detectedType: 'image/tiff',
      });
    }
  });

  test('that a guest sent as another type leaves the token usable', async () => {
    const { token } = await (await send(user, 'POST', '/api/upload-tokens', {})).json();
    const guest = useAccount({ id: '', email: '', role: 'guest' }, token, () => processes.url);
    const id = await guest.upload(await makeLargeJpeg(), { filetype: 'video/mp4' });
    expect((await user.settled(id)).error?.code).toBe('too_large');
    const next = await guest.upload(await makeJpeg({ width: 10, height: 10 }), { filetype: 'image/jpeg' });
    expect((await user.settled(next)).status).toBe('completed');
    expect((await user.fetch(`/api/files/${id}`)).status).toBe(404);
  });
});

/** A small JPEG, with bytes behind its end. */
async function makeLargeJpeg(): Promise<Buffer> {
  return Buffer.concat([await makeJpeg({ width: 10, height: 10 }), Buffer.alloc(MAX_IMAGE)]);
}
