import { createHash, randomBytes } from 'node:crypto';
import { v7 as uuidv7 } from 'uuid';
import { expectCompletedOnce, findUpload } from './support/aftermath.js';
import { usageOf } from './support/books.js';
import { encodeMetadata, idOf, registerUser, type TestUser } from './support/client.js';
import { FORMS, type Form } from './support/forms.js';
import { open, PARTIAL, type Spoken, say, type Utterance } from './support/ietf-client.js';
import { type Processes, startProcesses } from './support/processes.js';
import { until } from './support/until.js';

/* Resumable uploads for HTTP, draft-ietf-httpbis-resumable-upload. docs/ietf-resumable-uploads.md says what differs. */

const MIB = 1024 ** 2;
const MAX = 48 * MIB;

/** Files are committed every 32 MiB, and S3 more often. */
const COMMITTED = 36 * MIB;

/** A PNG of one pixel. */
const PIXEL = Buffer.from(
  'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg==',
  'base64',
);

let processes: Processes;
let user: TestUser;

async function start(env: Record<string, string>): Promise<void> {
  processes = await startProcesses({ ...env, MAX_UPLOAD_SIZE: String(MAX) });
  user = await registerUser(() => processes.url);
}

const digest = (name: string, content: Uint8Array) =>
  `${name}=:${createHash(name.replace('-', '')).update(content).digest('base64')}:`;

/** A request that is answered. */
async function ask(method: string, address: string, utterance: Utterance = {}): Promise<Spoken> {
  const answer = await say(processes.url, user, method, address, utterance);
  if (!answer) throw new Error(`${method} ${address}: the connection ended without an answer`);
  return answer;
}

interface Piece extends Utterance {
  offset: number;
  last: boolean;
}

const isLast = (version: number | null | undefined, last: boolean): Record<string, string> =>
  version === 3 ? { 'Upload-Incomplete': last ? '?0' : '?1' } : { 'Upload-Complete': last ? '?1' : '?0' };

function patch(address: string, { offset, last, headers, ...rest }: Piece): Promise<Spoken> {
  return ask('PATCH', address, {
    body: new Uint8Array(),
    ...rest,
    headers: {
      'Content-Type': PARTIAL,
      'Upload-Offset': String(offset),
      ...isLast(rest.version, last),
      ...headers,
    },
  });
}

/** Creates an upload without content. Returns its address. */
async function careful(version = 8, headers: Record<string, string> = {}): Promise<string> {
  const answer = await ask('POST', '/uploads', {
    version,
    headers: { ...isLast(version, false), ...headers },
  });
  expect(answer.status).toBe(201);
  return String(answer.headers.location);
}

async function offsetOf(address: string): Promise<number> {
  const { status, headers } = await ask('HEAD', address);
  expect(status).toBe(204);
  return Number(headers['upload-offset']);
}

describe.each(FORMS)('on %s', (_name, openForm) => {
  let form: Form;
  beforeAll(async () => {
    form = await openForm();
    await start(form.env);
  });
  afterAll(async () => {
    await processes?.close();
    await form?.close();
  });

  test('a plain POST becomes resumable: 104 tells where, and how far, before the usual answer', async () => {
    const content = randomBytes(40 * MIB);
    const sent = open(processes.url, user, 'POST', '/api/files?filename=all.bin', {
      headers: { 'Upload-Complete': '?1', 'Content-Length': String(content.length), 'Content-Type': 'a/b' },
    });
    sent.outgoing.write(content.subarray(0, COMMITTED));
    const location = await sent.told('location');
    expect(sent.interim[0]).toMatchObject({
      'upload-draft-interop-version': '8',
      'upload-limit': expect.stringMatching(new RegExp(`^max-size=${MAX}, max-age=\\d+$`)),
    });
    expect(Number(await sent.told('upload-offset'))).toBeGreaterThan(0);
    sent.outgoing.end(content.subarray(COMMITTED));
    const answer = await sent.answer;
    expect(answer).toMatchObject({
      status: 201,
      headers: { 'upload-complete': '?1', location, 'upload-draft-interop-version': '8' },
    });
    for (const { location: where, ...progress } of sent.interim.slice(1)) {
      expect(where).toBeUndefined();
      expect(Number(progress['upload-offset'])).toBeLessThanOrEqual(content.length);
    }
    const [file] = JSON.parse(answer?.body ?? '').files;
    expect(file).toMatchObject({
      id: idOf(location),
      filename: 'all.bin',
      declaredType: 'a/b',
      size: content.length,
      sha256: createHash('sha256').update(content).digest('hex'),
    });
    await expectCompletedOnce(processes, user, file.id, content);
  });

  test('an upload whose server is killed goes on where it was', async () => {
    const content = randomBytes(40 * MIB);
    const sent = open(processes.url, user, 'PUT', '/api/files', {
      headers: { 'Upload-Complete': '?1', 'Content-Length': String(content.length) },
    });
    sent.outgoing.write(content.subarray(0, COMMITTED));
    const location = await sent.told('location');
    const told = Number(await sent.told('upload-offset'));
    await processes.kill('server');
    expect(await sent.answer).toBeUndefined();
    await processes.start('server');
    const offset = await offsetOf(location);
    expect(offset).toBeGreaterThanOrEqual(told);
    const answer = await patch(location, { offset, last: true, body: content.subarray(offset) });
    expect(answer).toMatchObject({ status: 201, headers: { 'upload-complete': '?1' } });
    expect(JSON.parse(answer.body).files[0]).toMatchObject({ id: idOf(location), size: content.length });
    await expectCompletedOnce(processes, user, idOf(location), content);
  });

  test('a body that does not fit its Content-Digest counts for nothing, and may be sent again', async () => {
    const content = randomBytes(200_000);
    const location = await careful();
    for (const name of ['sha-256', 'sha-512']) {
      const wrong = { 'Content-Digest': digest(name, Buffer.from('another')) };
      const refused = await patch(location, { offset: 0, last: true, body: content, headers: wrong });
      expect(refused).toMatchObject({ status: 422, headers: { 'upload-complete': '?0' } });
      expect(JSON.parse(refused.body).code).toBe('checksum_mismatch');
      expect(await offsetOf(location)).toBe(0);
    }
    const half = content.subarray(0, 100_000);
    const headers = { 'Content-Digest': `${digest('sha-256', half)}, md5=:AAAA:` };
    const piece = await patch(location, { offset: 0, last: false, body: half, chunked: true, headers });
    expect(piece).toMatchObject({ status: 204, headers: { 'upload-offset': '100000' } });
    await patch(location, { offset: half.length, last: true, body: content.subarray(half.length) });
    await expectCompletedOnce(processes, user, idOf(location), content);

    const wrong = { 'Upload-Complete': '?1', 'Content-Digest': digest('sha-256', half) };
    const created = await ask('POST', '/api/files', { headers: wrong, body: content });
    expect(created).toMatchObject({ status: 422, headers: { 'upload-complete': '?0' } });
    expect(await offsetOf(String(created.interim[0]?.location))).toBe(0);
  });

  test('a newer request ends the older one, which gets no answer', async () => {
    const content = randomBytes(300_000);
    const sent = open(processes.url, user, 'POST', '/uploads', {
      headers: { 'Upload-Complete': '?1', 'Content-Length': String(content.length) },
    });
    const location = await sent.told('location');
    sent.outgoing.write(content.subarray(0, 100_000));
    const [offset, answered] = await Promise.all([offsetOf(location), sent.answer]);
    expect(answered).toBeUndefined();
    expect(offset).toBeLessThanOrEqual(100_000);
    const rest = content.subarray(offset);
    const answer = await patch(location, { offset, last: true, body: rest, chunked: true });
    expect(answer.status).toBe(201);
    await expectCompletedOnce(processes, user, idOf(location), content);
  });
});

describe('on files', () => {
  beforeAll(() => start({}));
  afterAll(() => processes?.close());

  test('pieces of an upload of unknown length', async () => {
    const location = await careful();
    const first = await patch(location, { offset: 0, last: false, body: Buffer.from('abc') });
    expect(first).toMatchObject({ status: 204, headers: { 'upload-complete': '?0', 'upload-offset': '3' } });
    const head = await ask('HEAD', location);
    expect(head).toMatchObject({
      status: 204,
      headers: { 'upload-offset': '3', 'upload-complete': '?0', 'cache-control': 'no-store' },
    });
    expect(head.headers['upload-length']).toBeUndefined();
    expect(head.headers['upload-limit']).toMatch(/^max-size=\d+, max-age=\d+$/);
    const second = await patch(location, { offset: 3, last: true, body: Buffer.from('def') });
    expect(second).toMatchObject({ status: 201, headers: { 'upload-complete': '?1' } });
    // The client that has lost the answer asks, and gets it again.
    expect((await ask('HEAD', location)).headers).toMatchObject({
      'upload-complete': '?1',
      'upload-offset': '6',
      'upload-length': '6',
    });
    const again = await patch(location, { offset: 6, last: true });
    expect([again.status, JSON.parse(again.body).files[0].id]).toEqual([201, idOf(location)]);
    const chunked = { offset: 6, last: true, chunked: true };
    expect((await patch(location, chunked)).status).toBe(201);
    expect((await patch(location, { ...chunked, body: Buffer.from('g') })).status).toBe(400);
    const right = await patch(location, { ...chunked, headers: { 'Upload-Length': '6' } });
    expect(right.status).toBe(201);
    for (const length of ['5', '7']) {
      const wrong = await patch(location, { offset: 6, last: true, headers: { 'Upload-Length': length } });
      expect(wrong).toMatchObject({ status: 400, headers: { 'upload-complete': '?0' } });
      expect(JSON.parse(wrong.body).type).toMatch(/#inconsistent-upload-length$/);
    }
    await expectCompletedOnce(processes, user, idOf(location), Buffer.from('abcdef'));
  });

  test('the length that was announced arrives without the word that it is complete', async () => {
    // It would complete the upload, which nobody holds.
    await processes.stop('worker');
    const location = await careful(8, { 'Upload-Length': '3' });
    const piece = await patch(location, { offset: 0, last: false, body: Buffer.from('abc') });
    expect(piece).toMatchObject({ status: 204, headers: { 'upload-complete': '?0' } });
    expect(await ask('HEAD', location)).toMatchObject({
      headers: { 'upload-complete': '?0', 'upload-offset': '3', 'upload-length': '3' },
    });
    expect(await patch(location, { offset: 3, last: true })).toMatchObject({
      status: 201,
      headers: { 'upload-complete': '?1' },
    });
    await processes.start('worker');
    await expectCompletedOnce(processes, user, idOf(location), Buffer.from('abc'));
  });

  test('an empty upload', async () => {
    const answer = await ask('POST', '/uploads', { headers: { 'Upload-Complete': '?1' } });
    expect(answer).toMatchObject({ status: 201, headers: { 'upload-complete': '?1' } });
    expect(JSON.parse(answer.body).files[0]).toMatchObject({ size: 0 });
  });

  test('a wrong offset, a complete upload, inconsistent lengths', async () => {
    const TYPES = 'https://iana.org/assignments/http-problem-types#';
    const location = await careful(8, { 'Upload-Length': '5' });
    const wrong = await patch(location, { offset: 2, last: true, body: Buffer.from('cde') });
    expect(wrong).toMatchObject({ status: 409, headers: { 'upload-offset': '0', 'upload-complete': '?0' } });
    expect(wrong.headers['content-type']).toMatch(/^application\/problem\+json/);
    expect(JSON.parse(wrong.body)).toMatchObject({
      type: `${TYPES}mismatching-upload-offset`,
      'expected-offset': 0,
      'provided-offset': 2,
    });

    const inconsistent = { status: 400, headers: { 'upload-complete': '?0' } };
    const short = await patch(location, { offset: 0, last: true, body: Buffer.from('abc') });
    expect(short).toMatchObject(inconsistent);
    expect(JSON.parse(short.body).type).toBe(`${TYPES}inconsistent-upload-length`);
    const other = { 'Upload-Length': '6' };
    expect(
      await patch(location, { offset: 0, last: false, body: Buffer.from('abc'), headers: other }),
    ).toMatchObject(inconsistent);
    const shortChunked = { offset: 0, last: true, body: Buffer.from('abc'), chunked: true };
    expect(await patch(location, shortChunked)).toMatchObject(inconsistent);
    expect(await offsetOf(location)).toBe(3);
    await patch(location, { offset: 3, last: true, body: Buffer.from('de') });

    const complete = await patch(location, { offset: 5, last: true, body: Buffer.from('f') });
    expect(complete).toMatchObject(inconsistent);
    expect(JSON.parse(complete.body).type).toBe(`${TYPES}completed-upload`);
    expect(await patch(location, { offset: 3, last: true })).toMatchObject({ status: 409 });
    expect(
      await ask('POST', '/uploads', {
        headers: { 'Upload-Complete': '?1', 'Upload-Length': '9' },
        body: Buffer.from('abc'),
      }),
    ).toMatchObject(inconsistent);
  });

  test.each([false, true])('a body beyond the length ends the upload (chunked: %s)', async (chunked) => {
    const location = await careful(8, { 'Upload-Length': '5' });
    const long = { offset: 0, last: false, body: Buffer.from('abcdef'), chunked };
    expect(await patch(location, long)).toMatchObject({ status: 400, headers: { 'upload-complete': '?0' } });
    expect((await ask('HEAD', location)).status).toBe(410);
    const older = await careful(6, { 'Upload-Length': '5' });
    expect(await patch(older, { ...long, version: 6 })).toMatchObject({ status: 400 });
    expect((await ask('HEAD', older, { version: 6 })).headers).toMatchObject({ 'upload-offset': '0' });
  });

  test('a request that lacks something, or has something wrong, is refused', async () => {
    const location = await careful();
    const { version: _, ...none } = { version: 8, body: Buffer.from('a') };
    const status = async (headers: Record<string, string>) =>
      (await ask('PATCH', location, { ...none, headers })).status;
    const right = { 'Content-Type': PARTIAL, 'Upload-Offset': '0', 'Upload-Complete': '?0' };
    const unknown = await say(processes.url, { token: 'x' }, 'PATCH', location, { ...none, headers: right });
    expect(unknown).toMatchObject({ status: 401, headers: { 'upload-complete': '?0' } });
    expect(await status({ ...right, 'Content-Type': 'text/plain' })).toBe(415);
    expect(await status({ ...right, 'Content-Encoding': 'gzip' })).toBe(415);
    expect(await status({ ...right, 'Upload-Offset': '-1' })).toBe(400);
    expect(await status({ ...right, 'Upload-Offset': '1e0' })).toBe(400);
    expect(await status({ ...right, 'Upload-Complete': 'true' })).toBe(400);
    expect(await status({ ...right, 'Content-Digest': 'sha-256=:AAAA:' })).toBe(400);
    expect(await offsetOf(location)).toBe(0);
    expect((await ask('POST', '/uploads', { body: Buffer.from('a') })).status).toBe(400);
    expect((await ask('POST', location)).status).toBe(405);
    expect((await ask('DELETE', '/uploads')).status).toBe(405);
    expect((await ask('HEAD', '/uploads/none')).status).toBe(404);
  });

  test('a client that names no version resumes and cancels, and needs no field for a question', async () => {
    const complete = { 'Upload-Complete': '?0' };
    const created = await ask('POST', '/uploads', {
      version: null,
      headers: complete,
      body: Buffer.from('abc'),
    });
    expect(created).toMatchObject({ status: 201, interim: [], headers: { 'upload-offset': '3' } });
    const location = String(created.headers.location);
    for (const method of ['HEAD', 'GET']) {
      const asked = await ask(method, location, { version: null });
      expect(asked).toMatchObject({
        status: 204,
        headers: { 'upload-offset': '3', 'upload-complete': '?0' },
      });
      expect(asked.headers['tus-resumable']).toBeUndefined();
    }
    const lacking = { 'Content-Type': PARTIAL, 'Upload-Offset': '3' };
    const refused = await ask('PATCH', location, { version: null, headers: lacking, body: Buffer.from('d') });
    expect(refused).toMatchObject({ status: 400, headers: { 'upload-complete': '?0' } });
    const done = await patch(location, { version: null, offset: 3, last: true, body: Buffer.from('def') });
    expect(done).toMatchObject({ status: 201, headers: { 'upload-complete': '?1' } });
    await expectCompletedOnce(processes, user, idOf(location), Buffer.from('abcdef'));

    const cancelled = await careful();
    expect((await ask('DELETE', cancelled, { version: null })).status).toBe(204);
    expect((await ask('HEAD', cancelled, { version: null })).status).toBe(410);
    for (const id of [uuidv7(), 'none']) {
      expect((await ask('DELETE', `/uploads/${id}`, { version: null })).status).toBe(404);
    }
  });

  test('DELETE ends an upload, also one to which bytes are still sent', async () => {
    const before = await usageOf(user);
    const sent = open(processes.url, user, 'POST', '/uploads', {
      headers: { 'Upload-Complete': '?1', 'Content-Length': '1000' },
    });
    const location = await sent.told('location');
    expect((await ask('DELETE', location)).status).toBe(204);
    expect(await sent.answer).toBeUndefined();
    expect((await ask('HEAD', location)).status).toBe(410);
    expect((await ask('HEAD', location, { version: 5 })).status).toBe(404);
    expect(await usageOf(user)).toEqual(before);
  });

  test('both protocols go on with each other’s uploads', async () => {
    const byTus = await user.create(null, { 'Upload-Metadata': encodeMetadata({ filename: 'both.txt' }) });
    await patch(byTus, { offset: 0, last: false, body: Buffer.from('abc') });
    const rest = { 'Upload-Offset': '3', 'Upload-Length': '6' };
    expect((await user.tus('PATCH', byTus, rest, 'def')).status).toBe(204);
    const file = await expectCompletedOnce(processes, user, idOf(byTus), Buffer.from('abcdef'));
    expect(file.filename).toBe('both.txt');

    const part = await user.create(3, { 'Upload-Concat': 'partial' });
    expect((await ask('HEAD', part)).status).toBe(409);

    const other = await careful(8, { 'Upload-Length': '6' });
    expect((await user.tus('PATCH', other, { 'Upload-Offset': '0' }, 'abc')).status).toBe(204);
    expect(await patch(other, { offset: 3, last: true, body: Buffer.from('def') })).toMatchObject({
      status: 201,
    });
  });

  test('the name comes from Content-Disposition, the query or Upload-Metadata', async () => {
    const nameOf = async (path: string, headers: Record<string, string>) => {
      const all = { 'Upload-Complete': '?1', 'Content-Type': 'text/plain; charset=utf-8', ...headers };
      const answer = await ask('POST', path, { headers: all, body: Buffer.from('words') });
      const [file] = JSON.parse(answer.body).files;
      return `${file.filename} ${file.declaredType}`;
    };
    const disposition = `inline; filename="file name.txt"; filename*=UTF-8''f%C3%BCr.txt`;
    const type = 'text/plain; charset=utf-8';
    expect(await nameOf('/uploads', { 'Content-Disposition': disposition })).toBe(`für.txt ${type}`);
    expect(await nameOf('/api/files?filename=a.txt', {})).toBe(`a.txt ${type}`);
    const metadata = encodeMetadata({ filename: 'm.txt', filetype: 'text/markdown' });
    const partial = { 'Upload-Metadata': metadata, 'Content-Type': PARTIAL };
    expect(await nameOf('/uploads', partial)).toBe('m.txt text/markdown');
  });

  test('Repr-Digest is checked, and told on request', async () => {
    const content = Buffer.from('the whole');
    const create = (headers: Record<string, string>) =>
      ask('POST', '/api/files', { headers: { 'Upload-Complete': '?1', ...headers }, body: content });
    const right = await create({
      'Repr-Digest': `${digest('sha-256', content)}, ${digest('sha-512', content)}, md5=:AAAA:`,
      'Want-Repr-Digest': 'sha-256=1',
    });
    expect(right).toMatchObject({ status: 201, headers: { 'repr-digest': digest('sha-256', content) } });
    const before = await usageOf(user);
    for (const name of ['sha-256', 'sha-512']) {
      const wrong = await create({ 'Repr-Digest': digest(name, Buffer.from('another')) });
      expect(wrong).toMatchObject({ status: 422, headers: { 'upload-complete': '?1' } });
      expect(JSON.parse(wrong.body).code).toBe('checksum_mismatch');
    }
    const other = createHash('sha256').update('another').digest('hex');
    const asked = { headers: { 'Upload-Complete': '?1' }, body: content };
    expect(await ask('POST', `/api/files?sha256=${other}`, asked)).toMatchObject({
      status: 422,
      headers: { 'upload-complete': '?1' },
    });
    expect(await usageOf(user)).toEqual(before);
    // The worker checks uploads that came in pieces.
    const location = await careful(8, { 'Repr-Digest': digest('sha-256', Buffer.from('another')) });
    await patch(location, { offset: 0, last: true, body: content });
    expect(await user.settled(idOf(location))).toMatchObject({ status: 'failed' });
  });

  test('a guest’s token is checked for its types, and counts only for what is kept', async () => {
    const made = await user.fetch('/api/upload-tokens', {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ types: ['image/png'] }),
    });
    const guest = { token: (await made.json()).token };
    const headers = { 'Upload-Complete': '?1' };
    const body = Buffer.from('%PDF-1.7 and no picture');
    const refused = await say(processes.url, guest, 'POST', '/api/files', { headers, body });
    expect(refused).toMatchObject({ status: 422, headers: { 'upload-complete': '?1' } });
    expect(JSON.parse(refused?.body ?? '').code).toBe('type_not_allowed');

    const sent = open(processes.url, guest, 'POST', '/api/files', {
      headers: { ...headers, 'Content-Length': String(PIXEL.length) },
    });
    sent.outgoing.write(PIXEL.subarray(0, 20));
    const location = await sent.told('location');
    sent.outgoing.destroy();
    const head = await say(processes.url, guest, 'HEAD', location);
    const offset = Number(head?.headers['upload-offset']);
    // Nobody else may go on with it, and the token begins no other upload.
    const stranger = await registerUser(() => processes.url);
    expect(await say(processes.url, stranger, 'HEAD', location)).toMatchObject({ status: 404 });
    expect(await say(processes.url, guest, 'POST', '/uploads', { headers })).toMatchObject({ status: 401 });
    const rest = PIXEL.subarray(offset);
    const done = await say(processes.url, guest, 'PATCH', location, {
      headers: { ...headers, 'Content-Type': PARTIAL, 'Upload-Offset': String(offset) },
      body: rest,
    });
    expect(done).toMatchObject({ status: 201, headers: { 'upload-complete': '?1' } });
    expect(await user.settled(idOf(location))).toMatchObject({ detectedType: 'image/png' });
  });

  test('limits are told before they are met, and with 413', async () => {
    for (const path of ['/uploads', '/api/files']) {
      const answer = await fetch(processes.url + path, { method: 'OPTIONS' });
      expect(answer.ok).toBe(true);
      expect(answer.headers.get('Upload-Limit')).toBe(`max-size=${MAX}`);
    }
    const headers = { 'Upload-Complete': '?0', 'Upload-Length': String(MAX + 1) };
    expect(await ask('POST', '/api/files', { headers })).toMatchObject({
      status: 413,
      headers: { 'upload-limit': `max-size=${MAX}`, 'upload-complete': '?1' },
    });
  });

  test('pages of other origins may use it', async () => {
    for (const path of ['/uploads', '/api/files']) {
      const answer = await fetch(processes.url + path, {
        method: 'OPTIONS',
        headers: { Origin: 'https://page.example', 'Access-Control-Request-Method': 'PUT' },
      });
      expect(answer.headers.get('Access-Control-Allow-Methods')).toMatch(/PUT/);
      const allowed = answer.headers.get('Access-Control-Allow-Headers')?.toLowerCase();
      for (const name of ['upload-complete', 'upload-draft-interop-version', 'content-digest']) {
        expect(allowed).toContain(name);
      }
    }
    const { headers } = await ask('POST', '/uploads', { headers: { 'Upload-Complete': '?0' } });
    for (const name of ['Location', 'Upload-Complete', 'Upload-Limit', 'Upload-Offset']) {
      expect(headers['access-control-expose-headers']).toContain(name);
    }
  });

  test('a request that cannot become resumable stays a plain upload', async () => {
    const body = Buffer.from('plain');
    const complete = { 'Upload-Complete': '?1' };
    // Without a version that is known here, no 104 may be sent.
    for (const version of [null, 2, 99]) {
      const answer = await ask('POST', '/api/files', { version, headers: complete, body });
      expect(answer).toMatchObject({ status: 201, interim: [] });
      expect(answer.headers['upload-complete']).toBeUndefined();
    }
    const form = Buffer.from(
      '--B\r\nContent-Disposition: form-data; name="f"; filename="a.txt"\r\n\r\ncontent\r\n--B--\r\n',
    );
    const type = { 'Content-Type': 'multipart/form-data; boundary=B' };
    const answer = await ask('POST', '/api/files', { headers: { ...complete, ...type }, body: form });
    expect(JSON.parse(answer.body).files[0]).toMatchObject({ filename: 'a.txt', size: 7 });
    const half = await ask('POST', '/api/files', {
      headers: { 'Upload-Complete': '?0', ...type },
      body: form,
    });
    expect(half.status).toBe(415);
    const put = await ask('PUT', '/api/files', { version: null, body });
    expect(put.status).toBe(405);
    // A first piece would become a file of its own.
    const piece = await ask('POST', '/api/files', {
      version: null,
      headers: { 'Upload-Complete': '?0' },
      body,
    });
    expect(piece).toMatchObject({ status: 201, interim: [], headers: { 'upload-complete': '?0' } });
    expect(await offsetOf(String(piece.headers.location))).toBe(5);
  });

  test('a server that stops cuts uploads off, and the client goes on at the next start', async () => {
    const sent = open(processes.url, user, 'POST', '/uploads', {
      headers: { 'Upload-Complete': '?1', 'Content-Length': '10' },
    });
    const location = await sent.told('location');
    sent.outgoing.write('abc');
    const waiting = await careful();
    const held = open(processes.url, user, 'PATCH', waiting, {
      headers: {
        'Content-Type': PARTIAL,
        'Upload-Offset': '0',
        'Upload-Complete': '?0',
        'Content-Length': '5',
      },
    });
    held.outgoing.write('ab');
    await until('both to hold their leases', async () => {
      const rows = await Promise.all([location, waiting].map((one) => findUpload(processes, idOf(one))));
      return rows.every((row) => row.lease_holder === 'server');
    });
    const stopped = processes.stop('server');
    expect(await Promise.all([sent.answer, held.answer])).toEqual([undefined, undefined]);
    expect(await stopped).toBe(0);
    await processes.start('server');
    expect(await Promise.all([offsetOf(location), offsetOf(waiting)])).toEqual([3, 2]);
  });

  describe.each([3, 4, 5, 6, 7, 8])('version %d', (version) => {
    test('is spoken as its draft says', async () => {
      const content = Buffer.from('0123456789');
      const name = version === 3 ? 'upload-incomplete' : 'upload-complete';
      const [yes, no] = version === 3 ? ['?0', '?1'] : ['?1', '?0'];
      const created = await ask('POST', '/uploads', {
        version,
        headers: isLast(version, false),
        body: content.subarray(0, 4),
      });
      expect(created).toMatchObject({ status: 201, headers: { [name]: no, 'upload-offset': '4' } });
      const [first, ...progress] = created.interim;
      const { location } = created.headers;
      expect(first).toMatchObject({ location, 'upload-draft-interop-version': String(version) });
      const limit = { 6: /, expires=\d+$/, 7: /, max-age=\d+$/, 8: /, max-age=\d+$/ }[version];
      expect(first?.['upload-limit'] ?? '').toMatch(limit ?? /^$/);
      expect(progress.map((headers) => headers['upload-offset'])).toEqual(version < 5 ? [] : ['4']);

      const appended = await patch(String(location), {
        version,
        offset: 4,
        last: false,
        body: content.subarray(4, 6),
        ...(version < 6 ? { headers: { 'Content-Type': 'application/octet-stream' } } : {}),
      });
      expect(appended).toMatchObject({ status: version < 7 ? 201 : 204, headers: { [name]: no } });
      const nosy = await ask('HEAD', String(location), { version, headers: { 'Upload-Offset': '6' } });
      expect(nosy.status).toBe(version < 7 ? 400 : 204);
      expect(await ask('HEAD', String(location), { version })).toMatchObject({
        status: 204,
        headers: { [name]: no, 'upload-offset': '6' },
      });
      const done = await patch(String(location), {
        version,
        offset: 6,
        last: true,
        body: content.subarray(6),
      });
      expect(done).toMatchObject({ status: 201, headers: { [name]: yes, 'upload-offset': '10' } });
      expect((await ask('HEAD', String(location), { version })).headers).toMatchObject({ [name]: yes });
      const again = await patch(String(location), { version, offset: 10, last: true });
      expect(again.status).toBe(version === 6 || version === 7 ? 400 : 201);
      await expectCompletedOnce(processes, user, idOf(String(location)), content);
    });

    if (version < 7) {
      test('takes an upload for complete that has reached its length', async () => {
        const location = await careful(version, { 'Upload-Length': '3' });
        const piece = await patch(location, { version, offset: 0, last: false, body: Buffer.from('abc') });
        expect(piece.status).toBe(201);
        const { headers } = await ask('HEAD', location, { version });
        expect(headers[version === 3 ? 'upload-incomplete' : 'upload-complete']).toBe(
          version === 3 ? '?0' : '?1',
        );
        expect(await findUpload(processes, idOf(location))).toMatchObject({ status: 'finished' });
      });
    }

    if (version === 5 || version === 6) {
      test('is that of tus-js-client, whose uploads survive a killed server', async () => {
        const content = randomBytes(5 * MIB);
        let killed: Promise<void> | undefined;
        const id = await user.tusUpload(content, {
          // Its types do not name this option.
          ...({ protocol: version === 5 ? 'ietf-draft-03' : 'ietf-draft-05' } as object),
          chunkSize: MIB,
          uploadDataDuringCreation: version === 6,
          metadata: { filename: 'by tus-js-client.bin' },
          onChunkComplete: (_size, accepted) => {
            if (accepted >= 2 * MIB)
              killed ??= processes.kill('server').then(() => processes.start('server'));
          },
        });
        await killed;
        expect(killed).toBeDefined();
        const file = await expectCompletedOnce(processes, user, id, content);
        expect(file.filename).toBe('by tus-js-client.bin');
      });
    }
  });
});
