import { randomBytes } from 'node:crypto';
import { access } from 'node:fs/promises';
import { request as httpRequest, type IncomingMessage } from 'node:http';
import { Readable } from 'node:stream';
import { version as uuidVersion, v7 as uuidv7 } from 'uuid';
import { findUpload } from './support/aftermath.js';
import { encodeMetadata, idOf, registerUser, type TestUser } from './support/client.js';
import { uploadPathOf } from './support/objects.js';
import { runPasses } from './support/passes.js';
import { type Part, type Processes, startProcesses } from './support/processes.js';
import { until } from './support/until.js';

const MAX = 2 ** 20;
const OCTETS = { 'Content-Type': 'application/offset+octet-stream' };

let processes: Processes;
let user: TestUser;
let stranger: TestUser;

beforeAll(async () => {
  processes = await startProcesses({ MAX_UPLOAD_SIZE: String(MAX) });
  user = await registerUser(() => processes.url);
  stranger = await registerUser(() => processes.url);
});

afterAll(() => processes?.close());

/** PATCH at `offset`. */
function patch(path: string, offset: number, body?: string | Uint8Array | ReadableStream, headers = {}) {
  return user.tus('PATCH', path, { 'Upload-Offset': String(offset), ...headers }, body as BodyInit);
}

async function offsetOf(path: string): Promise<number> {
  const answer = await user.tus('HEAD', path);
  expect(answer.status).toBe(200);
  return Number(answer.headers.get('Upload-Offset'));
}

/** The bytes of a finished file, once it may be read. */
async function contentOf(id: string): Promise<Buffer> {
  await user.settled(id);
  const answer = await user.fetch(`/api/files/${id}/content`);
  expect(answer.status).toBe(200);
  return Buffer.from(await answer.arrayBuffer());
}

/** A body of unknown length: it is sent chunked. */
function chunked(...parts: (string | Uint8Array)[]): ReadableStream {
  return new ReadableStream({
    start(controller) {
      for (const part of parts) controller.enqueue(Buffer.from(part));
      controller.close();
    },
  });
}

async function eventsOf(path: string): Promise<string[]> {
  const { rows } = await processes.database.query(
    'SELECT type FROM all_events WHERE subject_id = $1 ORDER BY id',
    [idOf(path)],
  );
  return rows.map((row) => row.type);
}

const storedAt = (path: string) => uploadPathOf(processes, idOf(path));

async function isStored(file: string): Promise<boolean> {
  return access(file).then(
    () => true,
    () => false,
  );
}

const letExpire = (path: string) =>
  processes.database.query(`UPDATE uploads SET expires_at = now() - interval '1 second' WHERE id = $1`, [
    idOf(path),
  ]);

/** Sends requests that fetch() would not send. */
function rawRequest(
  path: string,
  options: { method: string; headers?: Record<string, string> },
): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    const { hostname, port } = new URL(processes.url);
    const headers = { 'Tus-Resumable': '1.0.0', Authorization: `Bearer ${user.token}`, ...options.headers };
    const request = httpRequest({ hostname, port, path, method: options.method, headers }, (answer) => {
      answer.resume();
      resolve(answer);
    });
    request.on('error', reject).end();
  });
}

describe('core protocol', () => {
  test('OPTIONS tells version, extensions and the largest size, to anyone', async () => {
    const answer = await fetch(`${processes.url}/uploads`, { method: 'OPTIONS' });
    expect(answer.status).toBe(200);
    expect(answer.headers.get('Tus-Version')).toBe('1.0.0');
    expect(answer.headers.get('Tus-Extension')?.split(',').sort()).toEqual([
      'checksum',
      'checksum-trailer',
      'concatenation',
      'concatenation-unfinished',
      'creation',
      'creation-defer-length',
      'creation-with-upload',
      'expiration',
      'termination',
    ]);
    expect(answer.headers.get('Tus-Max-Size')).toBe(String(MAX));
    expect(answer.headers.get('Tus-Checksum-Algorithm')).toBe('sha1,sha256,sha512,md5,crc32,crc32c');
  });

  test('an upload in two parts becomes a file of the same id and the same bytes', async () => {
    const content = randomBytes(1000);
    const created = await user.tus('POST', '/uploads', {
      'Upload-Length': '1000',
      'Upload-Metadata': encodeMetadata({ filename: 'two parts.bin', filetype: 'application/x-parts' }),
    });
    expect(created.status).toBe(201);
    expect(created.headers.get('Tus-Resumable')).toBe('1.0.0');
    const location = created.headers.get('Location') ?? '';
    const id = idOf(location);
    expect(location).toBe(`${processes.url}/uploads/${id}`);
    expect(uuidVersion(id)).toBe(7);

    const first = await patch(location, 0, content.subarray(0, 400));
    expect(first.status).toBe(204);
    expect(first.headers.get('Upload-Offset')).toBe('400');

    const head = await user.tus('HEAD', location);
    expect(head.status).toBe(200);
    expect(Object.fromEntries(head.headers)).toMatchObject({
      'upload-offset': '400',
      'upload-length': '1000',
      'upload-metadata': `filename ${btoa('two parts.bin')},filetype ${btoa('application/x-parts')}`,
      'cache-control': 'no-store',
      'tus-resumable': '1.0.0',
    });
    expect((await user.fetch(`/api/files/${id}`)).status).toBe(404);

    const second = await patch(location, 400, content.subarray(400));
    expect(second.status).toBe(204);
    expect(second.headers.get('Upload-Offset')).toBe('1000');
    expect(await contentOf(id)).toEqual(content);
    expect(await user.get(`/api/files/${id}`)).toMatchObject({
      filename: 'two parts.bin',
      size: 1000,
      declaredType: 'application/x-parts',
    });
  });

  test('a PATCH elsewhere than at the offset is a conflict and changes nothing', async () => {
    const path = await user.create(10);
    await patch(path, 0, '12345');
    for (const offset of [0, 4, 6, 10, 11]) {
      const answer = await patch(path, offset, '67890');
      expect([answer.status, answer.headers.get('Upload-Offset')]).toEqual([409, '5']);
    }
    expect(await offsetOf(path)).toBe(5);
    expect((await patch(path, 5, '67890')).status).toBe(204);
    expect((await contentOf(idOf(path))).toString()).toBe('1234567890');
  });

  test('a conflict gives the lease back, also of an upload that has its object but no file yet', async () => {
    const path = await user.create(3);
    await patch(path, 0, 'ab');
    await processes.database.query(
      `UPDATE uploads SET "offset" = length, object_key = storage_key WHERE id = $1`,
      [idOf(path)],
    );
    expect((await patch(path, 2, 'c')).status).toBe(409);
    const { lease_holder } = await findUpload(processes, idOf(path));
    expect(lease_holder).toBeNull();
  });

  test.each([
    ['none', null],
    ['negative', '-1'],
    ['a fraction', '0.5'],
    ['an exponent', '1e+21'],
    ['hexadecimal', '0x0'],
    ['empty', ''],
    ['text', 'zero'],
    ['two', '0, 0'],
  ])('a PATCH whose Upload-Offset is wrong (%s) is refused', async (_name, offset) => {
    const path = await user.create(3);
    const answer = await user.tus('PATCH', path, { 'Upload-Offset': offset }, 'abc');
    expect(answer.status).toBe(400);
    expect(await offsetOf(path)).toBe(0);
  });

  test.each([
    ['missing', null],
    ['of the past', '0.2.2'],
    ['of the future', '2.0.0'],
  ])('a version that is %s is answered with the right one', async (_name, version) => {
    const path = await user.create(3);
    for (const method of ['POST', 'HEAD', 'PATCH', 'DELETE']) {
      const answer = await user.tus(
        method,
        method === 'POST' ? '/uploads' : path,
        { 'Tus-Resumable': version, 'Upload-Offset': '0', 'Upload-Length': '3' },
        method === 'PATCH' ? 'abc' : undefined,
      );
      expect([method, answer.status]).toEqual([method, 412]);
      expect(answer.headers.get('Tus-Version')).toBe('1.0.0');
      expect(answer.headers.get('Tus-Resumable')).toBe('1.0.0');
    }
    expect(await offsetOf(path)).toBe(0);
  });

  test.each([null, 'application/octet-stream', 'text/plain;charset=UTF-8', 'application/json'])(
    'a PATCH with Content-Type %s is refused',
    async (type) => {
      const path = await user.create(3);
      // With a string, fetch() would add a type of its own.
      const answer = await patch(path, 0, Buffer.from('abc'), { 'Content-Type': type });
      expect(answer.status).toBe(415);
      expect(await offsetOf(path)).toBe(0);
    },
  );

  test('X-HTTP-Method-Override replaces the method', async () => {
    const path = await user.create(6);
    const override = (method: string, headers = {}, body?: string) =>
      user.tus('POST', path, { 'X-HTTP-Method-Override': method, ...headers }, body);

    const patched = await override('PATCH', { ...OCTETS, 'Upload-Offset': '0' }, 'abc');
    expect(patched.status).toBe(204);
    const head = await override('HEAD');
    expect(head.status).toBe(200);
    expect(head.headers.get('Upload-Offset')).toBe('3');
    expect(await head.text()).toBe('');
    expect((await override('PATCH', { ...OCTETS, 'Upload-Offset': '0' }, 'abc')).status).toBe(409);
    expect(
      (await override('PATCH', { 'Content-Type': 'text/plain', 'Upload-Offset': '3' }, 'd')).status,
    ).toBe(415);
    expect((await override('delete')).status).toBe(204);
    expect((await user.tus('HEAD', path)).status).toBe(410);
  });

  test.each([
    'no-uuid',
    '1',
    '%00',
    '%2e%2e%2fetc%2fpasswd',
    'x'.repeat(5000),
    `${uuidv7()}%2f..`,
    `${uuidv7()}/more`,
    `${uuidv7()}%20`,
    uuidv7(),
    '../uploads/..%2f',
    encodeURIComponent(`' OR 1=1 --`),
    'ü',
  ])('an id that does not exist is not found, whatever it is: %.40s', async (id) => {
    for (const method of ['HEAD', 'PATCH', 'DELETE', 'GET', 'POST']) {
      const answer = await rawRequest(`/uploads/${encodeURI(id).replaceAll('%25', '%')}`, {
        method,
        headers: {
          'Upload-Offset': '0',
          ...(method === 'POST' ? { 'Upload-Length': '3' } : {}),
          ...(method === 'PATCH' ? OCTETS : {}),
        },
      });
      expect([method, answer.statusCode]).toEqual([method, 404]);
    }
  });

  test('a broken escape or a strange Host does not bring the server down', async () => {
    for (const method of ['HEAD', 'PATCH', 'DELETE', 'GET', 'POST']) {
      const headers = { 'Upload-Offset': '0', ...OCTETS };
      expect((await rawRequest('/uploads/%zz', { method, headers })).statusCode).toBe(400);
      const strange = await rawRequest(`/uploads/${uuidv7()}`, {
        method,
        headers: { ...headers, Host: '[' },
      });
      expect(strange.statusCode).toBeLessThan(500);
    }
  });

  test('an id in capitals is the same id', async () => {
    const path = await user.create(3);
    expect(await offsetOf(path.replace(idOf(path), idOf(path).toUpperCase()))).toBe(0);
  });
});

describe('creation', () => {
  test('with the first bytes', async () => {
    const answer = await user.tus('POST', '/uploads', { 'Upload-Length': '6', ...OCTETS }, 'abc');
    expect(answer.status).toBe(201);
    expect(answer.headers.get('Upload-Offset')).toBe('3');
    const location = answer.headers.get('Location') ?? '';
    expect(await offsetOf(location)).toBe(3);
    await patch(location, 3, 'def');
    expect((await contentOf(idOf(location))).toString()).toBe('abcdef');
  });

  test('with all bytes', async () => {
    const answer = await user.tus('POST', '/uploads', { 'Upload-Length': '3', ...OCTETS }, 'abc');
    expect(answer.headers.get('Upload-Offset')).toBe('3');
    expect(answer.headers.get('Upload-Expires')).toBeNull();
    expect((await contentOf(idOf(answer.headers.get('Location') ?? ''))).toString()).toBe('abc');
  });

  test.each([
    'Application/Offset+Octet-Stream',
    'application/offset+octet-stream; charset=binary',
    `${OCTETS['Content-Type']} ;x`,
  ])('the type %s is the same type', async (type) => {
    const headers = { 'Upload-Length': '6', 'Content-Type': type };
    const answer = await user.tus('POST', '/uploads', headers, Buffer.from('abc'));
    expect([answer.status, answer.headers.get('Upload-Offset')]).toEqual([201, '3']);
    const location = answer.headers.get('Location') ?? '';
    expect((await patch(location, 3, Buffer.from('def'), { 'Content-Type': type })).status).toBe(204);
    expect((await contentOf(idOf(location))).toString()).toBe('abcdef');
  });

  test.each([null, 'text/plain', 'application/octet-stream'])(
    'a body of another type than the protocol’s is refused, and no upload is created: %s',
    async (type) => {
      const owner = await registerUser(() => processes.url);
      const headers = { 'Upload-Length': '3', 'Content-Type': type };
      for (const body of [Buffer.from('abc'), chunked('abc')]) {
        expect((await owner.tus('POST', '/uploads', headers, body as BodyInit)).status).toBe(415);
      }
      expect((await owner.get('/api/uploads')).items).toEqual([]);
    },
  );

  test('a type without a body means nothing', async () => {
    const path = await user.create(3, { 'Content-Type': 'text/plain' });
    expect(await offsetOf(path)).toBe(0);
    // Proxies of HTTP/2 announce a chunked body although there is none.
    const headers = { 'Upload-Length': '3', 'Content-Type': null };
    const answer = await user.tus('POST', '/uploads', headers, chunked('') as BodyInit);
    expect(answer.status).toBe(201);
  });

  test('without a length, which a later PATCH brings', async () => {
    const path = await user.create(null);
    const head = await user.tus('HEAD', path);
    expect(head.headers.get('Upload-Defer-Length')).toBe('1');
    expect(head.headers.get('Upload-Length')).toBeNull();
    expect(await user.get(`/api${path}`)).toMatchObject({ offset: 0, length: null, status: 'uploading' });

    await patch(path, 0, 'abc');
    expect((await user.tus('HEAD', path)).headers.get('Upload-Defer-Length')).toBe('1');
    expect((await patch(path, 3, 'd', { 'Upload-Length': '2' })).status).toBe(400);
    expect((await patch(path, 3, 'd', { 'Upload-Length': '6' })).status).toBe(204);
    const known = await user.tus('HEAD', path);
    expect(known.headers.get('Upload-Length')).toBe('6');
    expect(known.headers.get('Upload-Defer-Length')).toBeNull();
    // "Once it is set the length MUST NOT be changed."
    expect((await patch(path, 4, 'e', { 'Upload-Length': '7' })).status).toBe(400);
    await patch(path, 4, 'ef');
    expect((await contentOf(idOf(path))).toString()).toBe('abcdef');
  });

  test('a deferred length may come last, with an empty PATCH', async () => {
    const path = await user.create(null);
    await patch(path, 0, 'abc');
    expect((await patch(path, 3, undefined, { 'Upload-Length': '3' })).status).toBe(204);
    expect((await contentOf(idOf(path))).toString()).toBe('abc');

    const empty = await user.create(null);
    expect((await patch(empty, 0, undefined, { 'Upload-Length': '0' })).status).toBe(204);
    expect(await contentOf(idOf(empty))).toEqual(Buffer.alloc(0));
  });

  test('by tus-js-client: a stream of unknown length, and bytes that come with the creation', async () => {
    const content = randomBytes(300_000);
    const streamed = await user.tusUpload(
      Readable.from([content.subarray(0, 1000), content.subarray(1000)]),
      {
        uploadLengthDeferred: true,
        chunkSize: 100_000,
      },
    );
    expect((await contentOf(streamed)).equals(content)).toBe(true);
    const atOnce = await user.tusUpload(content, { uploadDataDuringCreation: true });
    expect((await contentOf(atOnce)).equals(content)).toBe(true);
    expect(await contentOf(await user.tusUpload(Buffer.alloc(0)))).toEqual(Buffer.alloc(0));
  });

  test('an empty upload becomes an empty file at once', async () => {
    const path = await user.create(0, { 'Upload-Metadata': encodeMetadata({ filename: 'empty.txt' }) });
    expect(await user.settled(idOf(path))).toMatchObject({
      status: 'completed',
      size: 0,
      filename: 'empty.txt',
      sha256: 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855',
    });
    expect(await offsetOf(path)).toBe(0);
  });

  test('an empty PATCH at the end changes nothing', async () => {
    const id = await user.upload(Buffer.from('abc'));
    const file = await user.settled(id);
    const events = await eventsOf(id);
    for (let i = 0; i < 3; i++) {
      const answer = await patch(`/uploads/${id}`, 3);
      expect(answer.status).toBe(204);
      expect(answer.headers.get('Upload-Offset')).toBe('3');
      expect(answer.headers.get('Upload-Expires')).toBeNull();
    }
    expect((await patch(`/uploads/${id}`, 3, 'd')).status).toBe(413);
    expect((await patch(`/uploads/${id}`, 3, chunked('d'))).status).toBe(413);
    // A second job of this upload would be processed before this later upload.
    await user.settled(await user.upload(Buffer.from('next')));
    expect(await eventsOf(id)).toEqual(events);
    expect(events.filter((type) => type === 'file.created' || type === 'file.completed')).toHaveLength(2);
    expect({ ...(await user.get(`/api/files/${id}`)), links: null }).toEqual({ ...file, links: null });
  });

  test.each([
    '-1',
    '1e3',
    '1e+21',
    '0x10',
    '1.5',
    'Infinity',
    'NaN',
    'ten',
    '',
    '+5',
    '007',
    '3, 3',
    '9007199254740992',
    '9007199254740993',
    '99999999999999999999999',
  ])('Upload-Length: %s is refused', async (length) => {
    const answer = await user.tus('POST', '/uploads', { 'Upload-Length': length });
    expect([400, 413]).toContain(answer.status);
    const path = await user.create(null);
    const later = await patch(path, 0, undefined, { 'Upload-Length': length });
    expect([400, 413]).toContain(later.status);
    expect((await user.tus('HEAD', path)).headers.get('Upload-Defer-Length')).toBe('1');
  });

  test('exactly one of Upload-Length and Upload-Defer-Length: 1 is needed', async () => {
    const create = async (headers: Record<string, string>) =>
      (await user.tus('POST', '/uploads', headers)).status;
    expect(await create({})).toBe(400);
    expect(await create({ 'Upload-Length': '1', 'Upload-Defer-Length': '1' })).toBe(400);
    expect(await create({ 'Upload-Defer-Length': '2' })).toBe(400);
    expect(await create({ 'Upload-Defer-Length': '0' })).toBe(400);
  });
});

describe('size limit', () => {
  test('a declared length beyond it is refused, one at it is taken', async () => {
    const create = (length: number) => user.tus('POST', '/uploads', { 'Upload-Length': String(length) });
    expect((await create(MAX)).status).toBe(201);
    expect((await create(MAX + 1)).status).toBe(413);
    expect((await create(Number.MAX_SAFE_INTEGER)).status).toBe(413);
  });

  test('a length that a PATCH brings is held to it, too', async () => {
    const path = await user.create(null);
    expect((await patch(path, 0, undefined, { 'Upload-Length': String(MAX + 1) })).status).toBe(413);
    expect((await user.tus('HEAD', path)).headers.get('Upload-Defer-Length')).toBe('1');
  });

  test('an upload of unknown length cannot outgrow it', async () => {
    const path = await user.create(null);
    expect((await patch(path, 0, Buffer.alloc(MAX + 1))).status).toBe(413);
    expect(await offsetOf(path)).toBe(0);
    expect((await patch(path, 0, Buffer.alloc(MAX - 1))).status).toBe(204);
    expect((await patch(path, MAX - 1, 'ab')).status).toBe(413);
    expect((await patch(path, MAX - 1, chunked('ab'))).status).toBe(413);
    expect(await offsetOf(path)).toBe(MAX - 1);
    expect((await patch(path, MAX - 1, 'a')).status).toBe(204);
  });

  test('a body longer than the declared length is refused', async () => {
    const path = await user.create(5);
    expect((await patch(path, 0, '123456')).status).toBe(413);
    expect((await patch(path, 0, chunked('123456'))).status).toBe(413);
    expect(await offsetOf(path)).toBe(0);
    const created = await user.tus('POST', '/uploads', { 'Upload-Length': '5', ...OCTETS }, '123456');
    expect(created.status).toBe(413);
    expect((await patch(path, 0, '12345')).status).toBe(204);
  });
});

describe('metadata', () => {
  const create = (metadata: string) =>
    user.tus('POST', '/uploads', { 'Upload-Length': '0', 'Upload-Metadata': metadata });

  test.each([
    ['bad base64', 'filename !!!!'],
    ['base64 of a wrong length', 'filename YWJ'],
    ['a key twice', `filename ${btoa('a')},filename ${btoa('b')}`],
    ['too many spaces', `filename  ${btoa('a')}`],
    ['a NUL', `filename ${btoa('a\0b')}`],
    ['a line break', `filename ${btoa('a\r\nSet-Cookie: b')}`],
    ['a control character', `note ${btoa('\u007f')}`],
    ['10 kB', `note ${btoa('x'.repeat(10_000))}`],
    ['a key of Object', `__proto__ ${btoa('a')}`],
    ['a checksum that is none', `sha256 ${btoa('abc')}`],
    ['a folder as name', `filename ${btoa('a/')}`],
    ['dots as name', `filename ${btoa('../..')}`],
    ['an endless name', `filename ${btoa('x'.repeat(256))}`],
    ['an endless name under the other key', `name ${btoa('x'.repeat(256))}`],
  ])('%s is refused', async (_name, metadata) => {
    expect((await create(metadata)).status).toBe(400);
  });

  test('more than a header can hold is refused', async () => {
    expect((await create(`note ${btoa('x'.repeat(20_000))}`)).status).toBe(431);
  });

  test.each([
    ['/etc/passwd', 'passwd'],
    ['..\\..\\boot.ini', 'boot.ini'],
    ['C:\\photos\\sea.jpg', 'sea.jpg'],
    [' spaces around.txt ', 'spaces around.txt'],
    ['naïve “quotes” 🌊.txt', 'naïve “quotes” 🌊.txt'],
  ])('of the path %s the name is kept', async (filename, name) => {
    for (const key of ['filename', 'name']) {
      const answer = await create(encodeMetadata({ [key]: filename }));
      expect(answer.status).toBe(201);
      const file = await user.get(`/api/files/${idOf(answer.headers.get('Location') ?? '')}`);
      expect(file.filename).toBe(name);
    }
  });

  test('a key may have no value; a file without a name is named by its id', async () => {
    const answer = await create('filename,is_confidential');
    const id = idOf(answer.headers.get('Location') ?? '');
    expect((await user.tus('HEAD', `/uploads/${id}`)).headers.get('Upload-Metadata')).toBe(
      'filename,is_confidential',
    );
    expect((await user.get(`/api/files/${id}`)).filename).toBe(id);
  });

  const headOf = async (answer: Response) => {
    expect(answer.status).toBe(201);
    const id = idOf(answer.headers.get('Location') ?? '');
    return (await user.tus('HEAD', `/uploads/${id}`)).headers.get('Upload-Metadata');
  };

  test('is not sent back where there is none', async () => {
    expect((await user.tus('HEAD', await user.create(1))).headers.has('Upload-Metadata')).toBe(false);
    for (const empty of ['', ' ', ',', ' ,\t, '])
      expect([empty, await headOf(await create(empty))]).toEqual([empty, null]);
  });

  test.each([
    ['blanks around commas', 'a YQ== , b Yg==\t,\tc', 'a YQ==,b Yg==,c'],
    ['a comma at the end', 'a YQ==,', 'a YQ=='],
    ['a blank behind a key without a value', 'a , b Yg==', 'a,b Yg=='],
    ['bytes that are not UTF-8', 'note YfxiAGM=', 'note YfxiAGM='],
    ['a path', `filename ${btoa('/etc/passwd')}`, `filename ${btoa('/etc/passwd')}`],
    ['a type that is none', `filetype ${btoa('thing')}`, `filetype ${btoa('thing')}`],
  ])('HEAD tells it as it came: %s', async (_what, sent, told) => {
    expect(await headOf(await create(sent))).toBe(told);
  });

  test('in two header lines counts as one', async () => {
    const { hostname, port } = new URL(processes.url);
    const created = await new Promise<IncomingMessage>((resolve, reject) => {
      const headers = {
        'Tus-Resumable': '1.0.0',
        Authorization: `Bearer ${user.token}`,
        'Upload-Length': '0',
        'Upload-Metadata': [`filename ${btoa('two.txt')}`, 'b Yg=='],
      };
      httpRequest({ hostname, port, path: '/uploads', method: 'POST', headers }, (answer) =>
        resolve(answer.resume()),
      )
        .on('error', reject)
        .end();
    });
    expect(created.statusCode).toBe(201);
    const path = `/uploads/${idOf(created.headers.location ?? '')}`;
    expect((await user.tus('HEAD', path)).headers.get('Upload-Metadata')).toBe(
      `filename ${btoa('two.txt')},b Yg==`,
    );
    expect((await user.get(`/api/files/${idOf(path)}`)).filename).toBe('two.txt');
  });

  test('a name that is not UTF-8 shows U+FFFD where it cannot be read', async () => {
    const sent = `filename ${Buffer.from('caf\xe9.txt', 'latin1').toString('base64')}`;
    const answer = await create(sent);
    expect(await headOf(answer)).toBe(sent);
    const file = await user.get(`/api/files/${idOf(answer.headers.get('Location') ?? '')}`);
    expect(file.filename).toBe('caf\ufffd.txt');
  });

  test('the metadata of an upload is removed with it', async () => {
    const path = await user.create(1, { 'Upload-Metadata': 'note YfxiAGM=' });
    expect((await user.tus('DELETE', path)).status).toBe(204);
    const { rows } = await processes.database.query(
      'SELECT metadata, metadata_header FROM uploads WHERE id = $1',
      [idOf(path)],
    );
    expect(rows).toEqual([{ metadata: {}, metadata_header: null }]);
  });

  test('a name loses characters that turn the direction of text, and a warning says so', async () => {
    const sent = encodeMetadata({ filename: '\u202ephoto\u2066gpj\u200f.exe' });
    const answer = await create(sent);
    expect(await headOf(answer)).toBe(sent);
    expect(await user.settled(idOf(answer.headers.get('Location') ?? ''))).toMatchObject({
      filename: 'photogpj.exe',
      warnings: expect.arrayContaining([expect.objectContaining({ step: 'upload', code: 'name_changed' })]),
    });
    const plain = await create(encodeMetadata({ filename: 'photo.exe' }));
    const { warnings } = await user.settled(idOf(plain.headers.get('Location') ?? ''));
    expect(warnings.filter(({ code }: { code: string }) => code === 'name_changed')).toEqual([]);
  });
});

describe('expiration', () => {
  const MINUTE = 60_000;

  /** `time` must be a day after a moment between `since` and now. The clock of the database may differ. */
  function expectInOneDay(time: string | null, since: number): void {
    const set = Date.parse(time ?? '') - 24 * 60 * MINUTE;
    expect(set).toBeGreaterThan(since - MINUTE);
    expect(set).toBeLessThan(Date.now() + MINUTE);
  }

  test('unfinished uploads say when they expire, and each PATCH moves that on', async () => {
    const began = Date.now();
    const created = await user.tus('POST', '/uploads', { 'Upload-Length': '3' });
    const path = `/uploads/${idOf(created.headers.get('Location') ?? '')}`;
    expectInOneDay(created.headers.get('Upload-Expires'), began);
    expectInOneDay((await user.get(`/api${path}`)).expiresAt, began);
    const told = async () => (await user.tus('HEAD', path)).headers.get('Upload-Expires');
    expect(await told()).toBe(created.headers.get('Upload-Expires'));

    await processes.database.query(
      `UPDATE uploads SET expires_at = now() + interval '1 hour' WHERE id = $1`,
      [idOf(path)],
    );
    const patched = await patch(path, 0, 'a');
    const { expiresAt } = await user.get(`/api${path}`);
    expectInOneDay(expiresAt, began);
    // In whole seconds.
    expect(patched.headers.get('Upload-Expires')).toBe(new Date(expiresAt).toUTCString());

    expect(await told()).toBe(patched.headers.get('Upload-Expires'));

    const last = await patch(path, 1, 'bc');
    expect(last.headers.get('Upload-Expires')).toBeNull();
    expect(await told()).toBeNull();
    expect((await user.get(`/api${path}`)).expiresAt).toBeNull();
  });

  test('an expired upload is gone, first for clients and then from the disk', async () => {
    const path = await user.create(10);
    const other = await user.create(10);
    await patch(path, 0, 'abc');
    await processes.stop('worker');
    await letExpire(path);
    expect((await user.tus('HEAD', path)).status).toBe(410);
    expect((await patch(path, 3, 'def')).status).toBe(410);

    const stored = await storedAt(path);
    expect(await isStored(stored)).toBe(true);
    await processes.start('worker');
    await until('the bytes are deleted', async () => !(await isStored(stored)));
    expect(await user.get(`/api${path}`)).toMatchObject({ status: 'expired', expiresAt: null });
    expect(await eventsOf(path)).toEqual(['upload.created', 'upload.expired']);
    for (const method of ['HEAD', 'DELETE']) expect((await user.tus(method, path)).status).toBe(410);
    expect((await patch(path, 3, 'def')).status).toBe(410);
    expect(await offsetOf(other)).toBe(0);
  });

  test('a finished upload never expires', async () => {
    const id = await user.upload(Buffer.from('abc'));
    const other = await user.create(10);
    for (const path of [id, other]) await letExpire(path);
    await runPasses(processes, async () => (await findUpload(processes, idOf(other))).status === 'expired');
    expect((await user.settled(id)).status).toBe('completed');
    expect(await offsetOf(`/uploads/${id}`)).toBe(3);
  });
});

describe('termination', () => {
  async function expectGone(path: string): Promise<void> {
    expect((await user.tus('HEAD', path)).status).toBe(410);
    expect((await patch(path, 3, 'd')).status).toBe(410);
    expect((await user.tus('DELETE', path)).status).toBe(410);
  }

  test('of an unfinished upload removes its bytes', async () => {
    const path = await user.create(10);
    await patch(path, 0, 'abc');
    const stored = await storedAt(path);
    expect(await isStored(stored)).toBe(true);

    const answer = await user.tus('DELETE', path);
    expect(answer.status).toBe(204);
    expect(answer.headers.get('Tus-Resumable')).toBe('1.0.0');
    expect(await isStored(stored)).toBe(false);
    await expectGone(path);
    expect(await user.get(`/api${path}`)).toMatchObject({ status: 'terminated', expiresAt: null });
    expect(await eventsOf(path)).toEqual(['upload.created', 'upload.terminated']);
  });

  test('of a finished upload removes the file, too', async () => {
    // No other file has these bytes.
    const id = await user.upload(randomBytes(30));
    await user.settled(id);
    const stored = await storedAt(id);
    expect(await isStored(stored)).toBe(true);

    expect((await user.tus('DELETE', `/uploads/${id}`)).status).toBe(204);
    expect(await isStored(stored)).toBe(false);
    await expectGone(`/uploads/${id}`);
    expect((await user.fetch(`/api/files/${id}`)).status).toBe(404);
    expect((await user.fetch(`/api/files/${id}/content`)).status).toBe(404);
  });

  test('of an upload without bytes works', async () => {
    const path = await user.create(10);
    expect((await user.tus('DELETE', path)).status).toBe(204);
    await expectGone(path);
  });
});

describe('ownership', () => {
  test('other users find neither an upload nor a file', async () => {
    const path = await user.create(6);
    await patch(path, 0, 'abc');
    const finished = `/uploads/${await user.upload(Buffer.from('mine'))}`;
    for (const other of [path, finished]) {
      for (const method of ['HEAD', 'DELETE']) expect((await stranger.tus(method, other)).status).toBe(404);
      expect((await stranger.tus('PATCH', other, { 'Upload-Offset': '3' }, 'def')).status).toBe(404);
      expect((await stranger.fetch(`/api${other}`)).status).toBe(404);
    }
    expect((await stranger.get('/api/uploads')).items).toEqual([]);
    await patch(path, 3, 'def');
    expect((await contentOf(idOf(path))).toString()).toBe('abcdef');
  });

  test('requests of other users do not disturb an upload that is going on', async () => {
    const path = await user.create(6);
    let feed: ReadableStreamDefaultController | undefined;
    const body = new ReadableStream({
      start(controller) {
        feed = controller;
        controller.enqueue(Buffer.from('abc'));
      },
    });
    const patching = patch(path, 0, body);
    const leased = async () => {
      const { rows } = await processes.database.query('SELECT lease_holder FROM uploads WHERE id = $1', [
        idOf(path),
      ]);
      return rows[0].lease_holder !== null;
    };
    await until('the upload goes on', leased);
    for (const method of ['HEAD', 'DELETE']) expect((await stranger.tus(method, path)).status).toBe(404);
    feed?.enqueue(Buffer.from('def'));
    feed?.close();
    const answer = await patching;
    expect(answer.status).toBe(204);
    expect(answer.headers.get('Upload-Offset')).toBe('6');
  });

  test('the list shows one’s own unfinished uploads, newest first, page by page', async () => {
    const owner = await registerUser(() => processes.url);
    const paths = [await owner.create(10), await owner.create(null), await owner.create(30)];
    await owner.upload(Buffer.from('finished'));
    await owner.tus('DELETE', await owner.create(5));
    await owner.tus('PATCH', paths[0] ?? '', { 'Upload-Offset': '0' }, 'abc');

    const { items, nextCursor } = await owner.get('/api/uploads');
    expect(nextCursor).toBeNull();
    expect(items).toEqual([
      expect.objectContaining({ id: idOf(paths[2] ?? ''), offset: 0, length: 30 }),
      expect.objectContaining({ id: idOf(paths[1] ?? ''), offset: 0, length: null }),
      expect.objectContaining({ id: idOf(paths[0] ?? ''), offset: 3, length: 10 }),
    ]);
    for (const { expiresAt } of items) expect(Date.parse(expiresAt)).toBeGreaterThan(Date.now());

    const first = await owner.get('/api/uploads?limit=2');
    const second = await owner.get(`/api/uploads?limit=2&cursor=${first.nextCursor}`);
    expect([...first.items, ...second.items]).toEqual(items);
    expect(second.nextCursor).toBeNull();
    expect((await owner.fetch('/api/uploads?cursor=nonsense')).status).toBe(400);
  });
});

describe('pages of other origins', () => {
  const page = { Origin: 'https://app.example.org' };

  test('may ask, with every header of the protocol', async () => {
    const answer = await fetch(`${processes.url}/uploads/${uuidv7()}`, {
      method: 'OPTIONS',
      headers: { ...page, 'Access-Control-Request-Method': 'PATCH' },
    });
    expect(answer.status).toBe(200);
    expect(answer.headers.get('Access-Control-Allow-Origin')).toBe('*');
    const list = (name: string) => answer.headers.get(name)?.toLowerCase().split(/, ?/);
    expect(list('Access-Control-Allow-Methods')).toEqual(
      expect.arrayContaining(['post', 'head', 'patch', 'delete']),
    );
    expect(list('Access-Control-Allow-Headers')).toEqual(
      expect.arrayContaining([
        'authorization',
        'content-type',
        'tus-resumable',
        'upload-defer-length',
        'upload-length',
        'upload-metadata',
        'upload-offset',
        'x-http-method-override',
        'x-request-id',
      ]),
    );
  });

  test('may read answers and refusals', async () => {
    const created = await user.tus('POST', '/uploads', { ...page, 'Upload-Length': '3' });
    const path = created.headers.get('Location') ?? '';
    const answers = {
      201: created,
      200: await user.tus('HEAD', path, page),
      204: await patch(path, 0, 'a', page),
      400: await user.tus('POST', '/uploads', page),
      401: await fetch(`${processes.url}${new URL(path).pathname}`, {
        method: 'HEAD',
        headers: { ...page, 'Tus-Resumable': '1.0.0' },
      }),
      404: await user.tus('HEAD', `/uploads/${uuidv7()}`, page),
      409: await patch(path, 3, 'a', page),
      412: await user.tus('HEAD', path, { ...page, 'Tus-Resumable': '3.0.0' }),
      413: await patch(path, 1, 'abc', page),
      415: await patch(path, 1, 'b', { ...page, 'Content-Type': 'text/plain' }),
    };
    for (const [status, answer] of Object.entries(answers)) {
      expect(String(answer.status)).toBe(status);
      expect(answer.headers.get('Access-Control-Allow-Origin')).toBe('*');
      const exposed = answer.headers.get('Access-Control-Expose-Headers')?.toLowerCase().split(/, ?/);
      expect(exposed).toEqual(expect.arrayContaining(['x-request-id', 'tus-resumable', 'tus-version']));
      expect(exposed).toEqual(expect.arrayContaining(['location', 'upload-offset', 'upload-expires']));
    }
  });
});

describe('behind a proxy', () => {
  const forwarded = { 'X-Forwarded-Proto': 'https', 'X-Forwarded-Host': 'files.example.org' };
  const servers = new Map<string, Promise<TestUser>>();
  let customer: TestUser;

  /** A user of a further server with these variables. It serves every test that needs the same ones. */
  function customerOf(env: Record<string, string>): Promise<TestUser> {
    const key = JSON.stringify(env);
    const known = servers.get(key);
    if (known) return known;
    const part: Part = `server-${servers.size + 2}`;
    const started = processes.start(part, env).then(() => registerUser(() => processes.urlOf(part)));
    servers.set(key, started);
    return started;
  }

  /** The address of a new upload, as the server gives it. */
  async function locate(env: Record<string, string>, headers: Record<string, string>): Promise<string> {
    customer = await customerOf(env);
    const answer = await customer.tus('POST', '/uploads', { 'Upload-Length': '3', ...headers });
    expect(answer.status).toBe(201);
    return (answer.headers.get('Location') ?? '').replace(/[^/]+$/, '');
  }

  test.each(['true', '1', 'loopback'])('that is trusted (TRUST_PROXY=%s), its word counts', async (trust) => {
    expect(await locate({ TRUST_PROXY: trust }, forwarded)).toBe('https://files.example.org/uploads/');
  });

  test.each(['true', '1', '2'])(
    'what it appends counts, not what the client has sent before (%s)',
    async (trust) => {
      const headers = {
        'X-Forwarded-Proto': 'gopher, https',
        'X-Forwarded-Host': 'evil.example, files.example.org',
      };
      expect(await locate({ TRUST_PROXY: trust }, headers)).toBe('https://files.example.org/uploads/');
    },
  );

  test('its port is added where the host names none', async () => {
    expect(await locate({ TRUST_PROXY: '1' }, { ...forwarded, 'X-Forwarded-Port': '8443' })).toBe(
      'https://files.example.org:8443/uploads/',
    );
    const located = async (headers: Record<string, string>) => {
      const answer = await customer.tus('POST', '/uploads', { 'Upload-Length': '3', ...headers });
      return new URL(answer.headers.get('Location') ?? '').origin;
    };
    expect(await located({ ...forwarded, 'X-Forwarded-Port': '443' })).toBe('https://files.example.org');
    expect(await located({ ...forwarded, 'X-Forwarded-Port': '1, 8443' })).toBe(
      'https://files.example.org:8443',
    );
    expect(await located({ ...forwarded, 'X-Forwarded-Port': 'evil.example' })).toBe(
      'https://files.example.org',
    );
    const named = { 'X-Forwarded-Host': 'files.example.org:9000', 'X-Forwarded-Port': '8443' };
    expect(await located({ ...forwarded, ...named })).toBe('https://files.example.org:9000');
  });

  test('that TRUST_PROXY does not name, its headers are ignored, even malformed ones', async () => {
    // The suite's own server has no TRUST_PROXY.
    for (const headers of [forwarded, { 'X-Forwarded-Proto': 'gopher' }]) {
      const answer = await user.tus('POST', '/uploads', { 'Upload-Length': '3', ...headers });
      expect(answer.status).toBe(201);
      const location = answer.headers.get('Location') ?? '';
      expect(location.replace(/[^/]+$/, '')).toBe(`${processes.url}/uploads/`);
    }
  });

  test('PUBLIC_URL takes precedence over all headers', async () => {
    const env = { PUBLIC_URL: 'https://example.org/landfall/', TRUST_PROXY: 'true' };
    expect(await locate(env, forwarded)).toBe('https://example.org/landfall/uploads/');
  });

  test('CORS_ORIGINS admits the origins that it names, and no others', async () => {
    await locate({ CORS_ORIGINS: 'https://a.example, https://b.example' }, {});
    const allowed = async (method: string, origin: string) => {
      const answer = await customer.tus(method, '/uploads', { Origin: origin, 'Upload-Length': '3' });
      return answer.headers.get('Access-Control-Allow-Origin');
    };
    for (const method of ['OPTIONS', 'POST']) {
      expect(await allowed(method, 'https://b.example')).toBe('https://b.example');
      expect(await allowed(method, 'https://c.example')).toBeNull();
    }
  });
});

test('however many HEADs come at once, each gets its answer, beside a PATCH and a DELETE of the same upload', async () => {
  const metadata = `filename ${Buffer.from('seen by many').toString('base64')}`;
  const path = await user.create(6, { 'Upload-Metadata': metadata });
  const look = () =>
    Promise.all(
      // Fewer than may wait for one upload in one server.
      Array.from({ length: 8 }, async () => {
        const { status, headers } = await user.tus('HEAD', path);
        return [status, headers.get('Upload-Length'), headers.get('Upload-Metadata')];
      }),
    );
  const [first, patched] = await Promise.all([
    look(),
    user.tus('PATCH', path, { 'Upload-Offset': '0' }, 'abcdef'),
  ]);
  expect(patched.status).toBe(204);
  for (const answer of [...first, ...(await look())]) expect(answer).toEqual([200, '6', metadata]);
  const [last, deleted] = await Promise.all([look(), user.tus('DELETE', path)]);
  expect(deleted.status).toBe(204);
  for (const [status] of last) expect([200, 404, 410]).toContain(status);
});
