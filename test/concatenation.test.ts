import { randomBytes } from 'node:crypto';
import { expectBlobsInOrder, findUpload, timeline } from './support/aftermath.js';
import { expectBooksRight, setQuota, usageOf } from './support/books.js';
import { encodeMetadata, idOf, registerUser, type TestUser, useAccount } from './support/client.js';
import { concatenate, postFinal } from './support/concatenated-upload.js';
import { makeJpeg } from './support/fixtures.js';
import { listBlobs } from './support/objects.js';
import { runPasses } from './support/passes.js';
import { sha256 } from './support/plain-client.js';
import { type Processes, startProcesses } from './support/processes.js';
import { createBucket, type TestBucket } from './support/s3.js';
import { registerAdmin, send } from './support/sign-in.js';
import { until } from './support/until.js';
import { makeDue, makeUsedUp } from './support/uploads.js';

const MIB = 1024 ** 2;
const PARTIAL = { 'Upload-Concat': 'partial' };
const OCTETS = { 'Content-Type': 'application/offset+octet-stream' };

/** A partial upload with these bytes. Returns its path. */
async function sendPartial(user: TestUser, bytes: Uint8Array | string): Promise<string> {
  const body = Buffer.from(bytes);
  const headers = { ...PARTIAL, 'Upload-Length': String(body.length), ...(body.length > 0 ? OCTETS : {}) };
  const answer = await user.tus('POST', '/uploads', headers, body.length > 0 ? body : undefined);
  expect(answer.status).toBe(201);
  return `/uploads/${idOf(answer.headers.get('Location') ?? '')}`;
}

const patch = (user: TestUser, path: string, offset: number, body: string | Buffer) =>
  user.tus('PATCH', path, { 'Upload-Offset': String(offset) }, body as BodyInit);

const head = (user: TestUser, path: string) => user.tus('HEAD', path);

async function contentOf(user: TestUser, id: string, headers: Record<string, string> = {}): Promise<Buffer> {
  const answer = await user.fetch(`/api/files/${id}/content`, { headers });
  expect([200, 206]).toContain(answer.status);
  return Buffer.from(await answer.arrayBuffer());
}

const remove = async (user: TestUser, id: string) =>
  expect((await user.fetch(`/api/files/${id}?permanent=1`, { method: 'DELETE' })).status).toBe(204);

describe.each(['files', 'S3 with redirects'])('concatenation in %s', (kind) => {
  let bucket: TestBucket | undefined;
  let processes: Processes;
  let user: TestUser;
  /** The same user, at another server where there is one. */
  let other: TestUser;

  beforeAll(async () => {
    bucket = kind === 'files' ? undefined : await createBucket();
    const env = { ...bucket?.env, ...(bucket ? { S3_REDIRECT: 'true' } : {}) };
    processes = await startProcesses(env, bucket ? ['server', 'server-2', 'worker'] : undefined);
    user = await registerUser(() => processes.url);
    other = bucket ? user.at(() => processes.urlOf('server-2')) : user;
  });
  afterAll(async () => {
    await processes?.close();
    await bucket?.drop();
  });
  afterEach(() => expectBooksRight(processes.database));

  it('makes a file like any other of partial uploads', async () => {
    const content = Buffer.concat([await makeJpeg({ width: 1400, height: 900 }), randomBytes(6 * MIB)]);
    const borders = [0, 1000, 1000, 6 * MIB, content.length];
    const paths: string[] = [];
    for (const [index, start] of borders.slice(0, -1).entries()) {
      const sender = index % 2 === 0 ? user : other;
      paths.push(await sendPartial(sender, content.subarray(start, borders[index + 1])));
    }
    expect(await usageOf(user)).toEqual({ bytes: content.length, files: 0 });
    const id = await concatenate(user, paths, {
      filename: 'photo.jpg',
      filetype: 'image/jpeg',
      sha256: sha256(content),
    });
    expect(await usageOf(user)).toEqual({ bytes: content.length, files: 1 });

    const file = await user.settled(id);
    expect(file).toMatchObject({
      status: 'completed',
      filename: 'photo.jpg',
      size: content.length,
      sha256: sha256(content),
      detectedType: 'image/jpeg',
    });
    expect(Object.keys(file.links.thumbnails ?? {})).toHaveLength(3);
    expect(sha256(await contentOf(user, id))).toBe(sha256(content));
    const range = await contentOf(user, id, { Range: `bytes=900-${6 * MIB + 5}` });
    expect(range.equals(content.subarray(900, 6 * MIB + 6))).toBe(true);
    expect(await timeline(processes, id)).toEqual(
      expect.arrayContaining(['upload.created', 'file.created', 'file.completed']),
    );
    expect((await user.get('/api/files')).items.map((item: { id: string }) => item.id)).toEqual([id]);
    await remove(user, id);
    expect(await usageOf(user)).toEqual({ bytes: 0, files: 0 });
    // The partial uploads can still be used.
    const again = await concatenate(user, paths);
    expect((await user.settled(again)).sha256).toBe(sha256(content));
    await remove(user, again);
  });

  it('finds the SHA-256 that the client has announced, or fails', async () => {
    const paths = [await sendPartial(user, 'hello '), await sendPartial(user, 'world')];
    const id = await concatenate(user, paths, { filename: 'a.txt', sha256: sha256('hello worlds') });
    expect(await user.settled(id)).toMatchObject({ status: 'failed', error: { code: 'checksum_mismatch' } });
    await remove(user, id);
  });

  it('keeps the bytes of a file whatever else is deleted, and nothing after it', async () => {
    const [a, b] = [randomBytes(300_000), randomBytes(200_000)];
    const paths = [await sendPartial(user, a), await sendPartial(user, b)];
    const [first, twice, empty] = [
      await concatenate(user, paths),
      await concatenate(user, [paths[1], paths[0], paths[1]] as string[]),
      await concatenate(user, [await sendPartial(user, ''), await sendPartial(user, '')]),
    ];
    for (const id of [first, twice, empty]) await user.settled(id);
    expect(await usageOf(user)).toEqual({ bytes: 1_200_000, files: 3 });
    expect((await user.tus('DELETE', paths[0] ?? '')).status).toBe(204);
    expect((await head(user, paths[0] ?? '')).status).toBe(410);
    expect((await contentOf(user, first)).equals(Buffer.concat([a, b]))).toBe(true);
    await remove(user, first);
    expect((await contentOf(user, twice)).equals(Buffer.concat([b, a, b]))).toBe(true);
    expect(await contentOf(user, empty)).toHaveLength(0);
    await remove(user, twice);
    await remove(user, empty);

    // After their time the used partial uploads give up their bytes.
    await makeUsedUp(processes.database);
    await runPasses(processes, async () => (await head(user, paths[1] ?? '')).status === 410);
    await expectBlobsInOrder(processes, bucket);
    await until('all blobs to be deleted', async () => (await listBlobs(processes)).length === 0);
  });

  it('finishes a final upload that was created first', async () => {
    const paths = [await user.create(6, PARTIAL), await user.create(null, PARTIAL)] as [string, string];
    const id = await concatenate(other, [...paths, paths[0]], { filename: 'hello.txt' });
    const waits = await head(user, `/uploads/${id}`);
    expect(waits.status).toBe(200);
    expect(waits.headers.get('Upload-Offset')).toBeNull();
    expect(waits.headers.get('Upload-Length')).toBeNull();
    expect(waits.headers.get('Upload-Concat')).toBe(`final;${[...paths, paths[0]].join(' ')}`);
    expect(await usageOf(user)).toEqual({ bytes: 6, files: 1 });

    expect((await patch(user, paths[0], 0, 'hello ')).status).toBe(204);
    const last = await user.tus('PATCH', paths[1], { 'Upload-Offset': '0', 'Upload-Length': '5' }, 'wor');
    expect(last.status).toBe(204);
    expect((await head(user, `/uploads/${id}`)).headers.get('Upload-Length')).toBe('17');
    expect((await user.fetch(`/api/files/${id}`)).status).toBe(404);
    expect((await patch(other, paths[1], 3, 'ld')).status).toBe(204);
    // The request that brought the last byte has made the file.
    expect((await user.fetch(`/api/files/${id}`)).status).toBe(200);
    const done = await head(user, `/uploads/${id}`);
    expect(done.headers.get('Upload-Offset')).toBe('17');
    expect(done.headers.get('Upload-Length')).toBe('17');
    expect((await user.settled(id)).sha256).toBe(sha256('hello worldhello '));
    expect(await usageOf(user)).toEqual({ bytes: 17, files: 1 });
    await remove(user, id);
  });
});

describe('the small print of concatenation', () => {
  const MAX = 1000;
  const PUBLIC = 'https://files.example.org';
  let processes: Processes;
  let user: TestUser;
  let stranger: TestUser;
  let admin: TestUser;

  beforeAll(async () => {
    processes = await startProcesses({ MAX_UPLOAD_SIZE: String(MAX), PUBLIC_URL: `${PUBLIC}/base` });
    admin = await registerAdmin(() => processes.url, processes.database);
    user = await registerUser(() => processes.url);
    stranger = await registerUser(() => processes.url);
  });
  afterAll(() => processes?.close());
  afterEach(() => expectBooksRight(processes.database));

  const countFiles = async () => (await user.get('/api/files')).items.length;

  it('is announced', async () => {
    const answer = await fetch(`${processes.url}/uploads`, { method: 'OPTIONS' });
    const extensions = answer.headers.get('Tus-Extension')?.split(',');
    expect(extensions).toEqual(expect.arrayContaining(['concatenation', 'concatenation-unfinished']));
    expect(answer.headers.get('Access-Control-Allow-Headers')).toContain('Upload-Concat');
    expect(answer.headers.get('Access-Control-Expose-Headers')).toContain('Upload-Concat');
  });

  it('answers HEAD of a partial upload with its offset and its kind, before and after its use', async () => {
    const path = await user.create(5, { ...PARTIAL, 'Upload-Metadata': encodeMetadata({ of: 'a part' }) });
    const expectOffset = async (offset: number) => {
      const answer = await head(user, path);
      expect(answer.status).toBe(200);
      expect(Object.fromEntries(answer.headers)).toMatchObject({
        'upload-concat': 'partial',
        'upload-offset': String(offset),
        'upload-length': '5',
      });
    };
    await expectOffset(0);
    await patch(user, path, 0, 'abc');
    await expectOffset(3);
    await patch(user, path, 3, 'de');
    await expectOffset(5);
    expect((await user.fetch(`/api/files/${idOf(path)}`)).status).toBe(404);
    const id = await concatenate(user, [path]);
    await expectOffset(5);
    // "the partial uploads' metadata SHALL NOT be transferred to the new final upload"
    expect((await head(user, `/uploads/${id}`)).headers.get('Upload-Metadata')).toBeNull();
    await remove(user, id);
  });

  it('takes absolute and relative addresses, and gives them back as they came', async () => {
    const [a, b] = [await sendPartial(user, 'a'), await sendPartial(user, 'b')];
    const addresses = [`${processes.url}${a}`, `https://another.example.org${b}/`, a];
    const id = idOf((await postFinal(user, addresses)).headers.get('Location') ?? '');
    expect((await head(user, `/uploads/${id}`)).headers.get('Upload-Concat')).toBe(
      `final;${addresses.join(' ')}`,
    );
    expect((await user.settled(id)).sha256).toBe(sha256('aba'));
    await remove(user, id);
  });

  it('takes addresses with the path of PUBLIC_URL, as it gives them', async () => {
    const created = await user.tus('POST', '/uploads', { ...PARTIAL, 'Upload-Length': '0' });
    const given = created.headers.get('Location') ?? '';
    expect(given).toMatch(`${PUBLIC}/base/uploads/`);
    const path = await sendPartial(user, 'ab');
    const id = await concatenate(user, [given, `/base${path}`, path]);
    expect((await user.settled(id)).sha256).toBe(sha256('abab'));
    await remove(user, id);
    expect((await postFinal(user, [`/other${path}`])).status).toBe(404);
    expect((await postFinal(user, [`/base/base${path}`])).status).toBe(404);
  });

  it('refuses PATCH of a final upload, and changes nothing', async () => {
    const partial = await user.create(3, PARTIAL);
    const waiting = await concatenate(user, [partial]);
    const done = await concatenate(user, [await sendPartial(user, 'abc')]);
    for (const [id, offset] of [
      [waiting, 0],
      [done, 3],
    ] as const) {
      expect((await patch(user, `/uploads/${id}`, offset, 'x')).status).toBe(403);
      expect((await patch(user, `/uploads/${id}`, 0, '')).status).toBe(403);
    }
    expect((await head(user, partial)).headers.get('Upload-Offset')).toBe('0');
    expect((await user.tus('DELETE', `/uploads/${waiting}`)).status).toBe(204);
    expect((await patch(user, partial, 0, 'abc')).status).toBe(204);
    await remove(user, done);
    expect(await countFiles()).toBe(0);
  });

  it.each([
    ['an unknown value', 'whole', {}, 400],
    ['a list without an address', 'final;', {}, 400],
    ['an address of no upload', 'final;/api/files/1', {}, 404],
    ['an upload that does not exist', 'final;/uploads/019aa9a8-0000-7000-8000-000000000000', {}, 404],
  ])('refuses %s', async (_, value, headers, status) => {
    expect((await user.tus('POST', '/uploads', { 'Upload-Concat': value, ...headers })).status).toBe(status);
    expect(await countFiles()).toBe(0);
  });

  it('refuses a final upload with a length or a body', async () => {
    const path = await sendPartial(user, 'abc');
    expect((await postFinal(user, [path], { 'Upload-Length': '3' })).status).toBe(400);
    const withBody = await user.tus('POST', '/uploads', { 'Upload-Concat': `final;${path}`, ...OCTETS }, 'x');
    expect(withBody.status).toBe(403);
    expect(await countFiles()).toBe(0);
  });

  it('refuses uploads of others, of another kind, and those that have ended', async () => {
    const foreign = await sendPartial(stranger, 'secret');
    expect((await postFinal(user, [foreign])).status).toBe(404);
    const whole = await user.create(5);
    expect((await postFinal(user, [whole])).status).toBe(400);
    await user.tus('DELETE', whole);
    const ended = await sendPartial(user, 'abc');
    expect((await user.tus('DELETE', ended)).status).toBe(204);
    expect((await postFinal(user, [await sendPartial(user, 'abc'), ended])).status).toBe(410);
    expect(await countFiles()).toBe(0);
    const { rows } = await processes.database.query(
      `SELECT FROM all_events WHERE subject_id = $1 AND result = 'refused'`,
      [idOf(foreign)],
    );
    expect(rows).toHaveLength(1);
  });

  it('refuses a holder of an upload token', async () => {
    const made = await send(user, 'POST', '/api/upload-tokens', {});
    const guest = useAccount(user, (await made.json()).token, () => processes.url);
    const path = await sendPartial(user, 'abc');
    expect((await guest.tus('POST', '/uploads', { ...PARTIAL, 'Upload-Length': '3' })).status).toBe(403);
    expect((await postFinal(guest, [path])).status).toBe(403);
    // The token can still be used.
    expect((await guest.tus('POST', '/uploads', { 'Upload-Length': '3' })).status).toBe(201);
  });

  it('holds a final upload to the largest size and to the quota', async () => {
    const tooMuch = [await sendPartial(user, 'a'.repeat(600)), await sendPartial(user, 'b'.repeat(600))];
    expect((await postFinal(user, tooMuch)).status).toBe(413);
    const unknown = await user.create(null, PARTIAL);
    const waiting = await concatenate(user, [tooMuch[0] ?? '', unknown]);
    await user.tus('PATCH', unknown, { 'Upload-Offset': '0', 'Upload-Length': '500' }, 'c'.repeat(500));
    expect(await user.get(`/api/uploads/${waiting}`)).toMatchObject({
      status: 'terminated',
      error: { code: 'too_large' },
    });

    const tight = await registerUser(() => processes.url);
    await setQuota(admin, tight, { maxBytes: 1000, maxFiles: 1 });
    const halves = [await sendPartial(tight, 'a'.repeat(500)), await sendPartial(tight, 'b'.repeat(500))];
    expect((await tight.tus('POST', '/uploads', { ...PARTIAL, 'Upload-Length': '1' })).status).toBe(413);
    // The bytes move from the partial uploads to the file.
    const id = await concatenate(tight, halves);
    expect(await usageOf(tight)).toEqual({ bytes: 1000, files: 1 });
    expect((await postFinal(tight, [halves[0] ?? ''])).status).toBe(413);
    await remove(tight, id);
    expect(await usageOf(tight)).toEqual({ bytes: 0, files: 0 });
  });

  it('makes a file of two hundred partial uploads', async () => {
    const paths: string[] = [];
    for (let number = 0; number < 200; number++) paths.push(await sendPartial(user, String(number % 10)));
    const id = await concatenate(user, paths, { filename: 'digits.txt' });
    expect((await user.settled(id)).sha256).toBe(sha256('0123456789'.repeat(20)));
    expect((await contentOf(user, id, { Range: 'bytes=95-104' })).toString()).toBe('5678901234');
    await remove(user, id);
  });

  it('shows partial uploads among those under way, with their kind', async () => {
    const path = await user.create(3, PARTIAL);
    const { items } = await user.get('/api/uploads?limit=1');
    expect(items).toEqual([expect.objectContaining({ id: idOf(path), kind: 'partial' })]);
    await user.tus('DELETE', path);
  });

  it('lets unused partial uploads expire, and a final upload whose partial uploads have ended', async () => {
    const used = await usageOf(user);
    const [kept, unused, slow] = [
      await sendPartial(user, 'abc'),
      await sendPartial(user, 'abc'),
      await user.create(3, PARTIAL),
    ];
    const waiting = await concatenate(user, [kept, slow]);
    for (const path of [kept, unused]) await makeDue(processes.database, idOf(path));
    const statusOf = async (id: string) => (await findUpload(processes, id)).status;
    await runPasses(processes, async () => (await statusOf(idOf(unused))) === 'expired');
    expect((await head(user, unused)).status).toBe(410);
    expect((await head(user, kept)).status).toBe(200);
    expect((await head(user, `/uploads/${waiting}`)).status).toBe(200);

    expect((await user.tus('DELETE', slow)).status).toBe(204);
    await runPasses(processes, async () => (await head(user, `/uploads/${waiting}`)).status === 410);
    await runPasses(processes, async () => (await statusOf(idOf(kept))) === 'expired');
    expect((await head(user, kept)).status).toBe(410);
    await until('everything to be given back', async () => (await usageOf(user)).files === used.files);
    await expectBlobsInOrder(processes);
  });
});
