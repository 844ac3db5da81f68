import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { type ClientRequest, type IncomingMessage, request } from 'node:http';
import { connect } from 'node:net';
import { Readable } from 'node:stream';
import { text } from 'node:stream/consumers';
import { expectCompletedOnce, findUpload, timeline } from './aftermath.js';
import { closeBarrier } from './barrier.js';
import { type FileJson, registerUser, type TestUser, useAccount } from './client.js';
import { makeJpeg, makePhotograph } from './fixtures.js';
import { FORMS, type Form } from './forms.js';
import { type Processes, startProcesses } from './processes.js';
import { until } from './until.js';

const MIB = 1024 ** 2;
const MAX = 24 * MIB;
const BOUNDARY = 'the-boundary';
const FORM_TYPE = `multipart/form-data; boundary=${BOUNDARY}`;

const sha256 = (content: Uint8Array | string) => createHash('sha256').update(content).digest('hex');

type Body = Uint8Array | string | Readable | FormData;

/** Sends one POST /api/files, as a stream without Content-Length if the body is one. */
function post(
  user: TestUser,
  body: Body,
  headers: Record<string, string> = {},
  query = '',
): Promise<Response> {
  return user.fetch(`/api/files${query}`, {
    method: 'POST',
    headers,
    body: body as BodyInit,
    duplex: 'half',
  } as RequestInit);
}

async function filesOf(answer: Response): Promise<FileJson[]> {
  if (answer.status !== 201) throw new Error(`${answer.status} ${await answer.text()}`);
  return (await answer.json()).files;
}

async function expectProblem(answer: Response, status: number, code: string): Promise<string> {
  const problem = await answer.json();
  expect({ status: answer.status, code: problem.code, problem }).toMatchObject({ status, code });
  expect(answer.headers.get('Content-Type')).toMatch(/^application\/problem\+json/);
  return problem.detail;
}

/** One part of a form. */
const part = (headers: string, content: Uint8Array | string = '') =>
  Buffer.concat([
    Buffer.from(`--${BOUNDARY}\r\n${headers}\r\n\r\n`),
    Buffer.from(content),
    Buffer.from('\r\n'),
  ]);
const filePart = (name: string, content: Uint8Array | string = '') =>
  part(`Content-Disposition: form-data; name="file"; filename="${name}"`, content);
const END = Buffer.from(`--${BOUNDARY}--\r\n`);
const form = (...parts: Buffer[]) => Buffer.concat([...parts, END]);

/** Pieces that do not fit the chunks of anything. */
function* pieces(content: Buffer, size = 70_001): Generator<Buffer> {
  for (let at = 0; at < content.length; at += size) yield content.subarray(at, at + size);
}
const streamOf = (content: Buffer, size?: number) => Readable.from(pieces(content, size));

/** A POST whose body is written by the test. */
function begin(url: string, user: TestUser, headers: Record<string, string>): ClientRequest {
  const outgoing = request(`${url}/api/files`, {
    method: 'POST',
    headers: { Authorization: `Bearer ${user.token}`, ...headers },
  });
  outgoing.on('error', () => {});
  return outgoing;
}

async function usageOf({ database }: Processes, user: TestUser) {
  const { rows } = await database.query(
    'SELECT used_bytes::integer AS bytes, used_files::integer AS files FROM users WHERE id = $1',
    [user.id],
  );
  return rows[0];
}

async function latestUpload({ database }: Processes, user: TestUser): Promise<string> {
  const { rows } = await database.query(
    'SELECT id FROM uploads WHERE owner_id = $1 ORDER BY id DESC LIMIT 1',
    [user.id],
  );
  return rows[0]?.id;
}

describe.each(FORMS)('POST /api/files on %s', (_name, openForm) => {
  let storage: Form;
  let processes: Processes;
  let user: TestUser;

  beforeAll(async () => {
    storage = await openForm();
    processes = await startProcesses({ ...storage.env, MAX_UPLOAD_SIZE: String(MAX) });
    user = await registerUser(() => processes.url);
  });
  afterAll(async () => {
    await processes?.close();
    await storage?.close();
  });

  test('a raw body becomes a file, with its SHA-256 in the answer', async () => {
    const photograph = await makePhotograph();
    const headers = { 'Content-Type': 'image/jpeg' };
    const [file] = await filesOf(await post(user, photograph, headers, '?filename=phare.jpg'));
    expect(file).toMatchObject({
      filename: 'phare.jpg',
      size: photograph.length,
      declaredType: 'image/jpeg',
      sha256: sha256(photograph),
      status: 'pending',
      links: { content: null, thumbnails: null },
    });
    const done = await expectCompletedOnce(processes, user, file?.id ?? '', photograph);
    expect(done).toMatchObject({ filename: 'phare.jpg', detectedType: 'image/jpeg', warnings: [] });
    const content = await user.fetch(`/api/files/${file?.id}/content`);
    expect(sha256(new Uint8Array(await content.arrayBuffer()))).toBe(sha256(photograph));
  });

  test.each([0, 1, 65_536, 9 * MIB + 1])('%d bytes arrive in every way there is', async (size) => {
    const content = randomBytes(size);
    const answers = [
      await post(user, content, {}, '?filename=known.bin'),
      await post(user, streamOf(content), {}, '?filename=chunked.bin'),
      await post(user, streamOf(form(filePart('form.bin', content))), { 'Content-Type': FORM_TYPE }),
    ];
    for (const answer of answers) {
      const [file] = await filesOf(answer);
      expect(file).toMatchObject({ size, sha256: sha256(content) });
      await expectCompletedOnce(processes, user, file?.id ?? '', content);
    }
  });

  test('a form brings many files, in their order, each whole', async () => {
    const contents = [
      await makeJpeg({ width: 300, height: 200 }),
      randomBytes(6 * MIB),
      Buffer.alloc(0),
      Buffer.from('plain words'),
      ...Array.from({ length: 20 }, (_, i) => randomBytes(i * 1000)),
    ];
    const data = new FormData();
    data.append('note', 'not a file');
    contents.forEach((content, i) => {
      data.append(
        'files',
        new Blob([new Uint8Array(content)], { type: i === 0 ? 'image/jpeg' : '' }),
        `${i}.bin`,
      );
    });
    const files = await filesOf(await post(user, data));
    expect(files.map(({ filename }) => filename)).toEqual(contents.map((_, i) => `${i}.bin`));
    expect(files.map((file) => file.sha256)).toEqual(contents.map(sha256));
    expect(files[0]?.declaredType).toBe('image/jpeg');
    expect(files[1]?.declaredType).toBeNull();
    await Promise.all(
      files.map(({ id }, i) => expectCompletedOnce(processes, user, id, contents[i] ?? Buffer.alloc(0))),
    );
  });

  test('of a form that cannot be finished the files before stay, and the error names them', async () => {
    const before = await usageOf(processes, user);
    const body = form(
      filePart('a.txt', 'first'),
      filePart('b.txt', 'second'),
      filePart('c.bin', randomBytes(MAX + 1)),
    );
    const detail = await expectProblem(
      await post(user, body, { 'Content-Type': FORM_TYPE }),
      413,
      'too_large',
    );
    expect(detail).toMatch(/^File 3 of the form: /);
    const ids = detail.match(/[0-9a-f-]{36}/g) ?? [];
    expect(ids).toHaveLength(2);
    const done = await Promise.all(ids.map((id) => user.settled(id)));
    expect(done.map(({ filename, sha256 }) => [filename, sha256])).toEqual([
      ['a.txt', sha256('first')],
      ['b.txt', sha256('second')],
    ]);
    expect(await usageOf(processes, user)).toEqual({ bytes: before.bytes + 11, files: before.files + 2 });
  });

  test.each(['known', 'chunked', 'form'])(
    'a connection that breaks (%s) leaves nothing behind',
    async (kind) => {
      const before = await usageOf(processes, user);
      const headers: Record<string, string> =
        kind === 'known' ? { 'Content-Length': String(10 * MIB) } : { 'Content-Type': FORM_TYPE };
      if (kind === 'chunked') headers['Content-Type'] = 'image/png';
      const outgoing = begin(processes.url, user, headers);
      if (kind === 'form') outgoing.write(filePart('broken.bin').subarray(0, -2));
      outgoing.write(randomBytes(7 * MIB));
      const id = await until('the upload to be begun', async () => {
        const { rows } = await processes.database.query(
          `SELECT id FROM uploads WHERE owner_id = $1 AND status = 'uploading'`,
          [user.id],
        );
        return rows[0]?.id;
      });
      outgoing.destroy();
      await until('the upload to be ended', async () => (await findUpload(processes, id)).discarded_at);
      expect(await timeline(processes, id)).toEqual(['upload.created', 'upload.terminated']);
      expect(await usageOf(processes, user)).toEqual(before);
      const { storage_key: key } = await findUpload(processes, id);
      expect((await storage.listStored(processes)).filter((stored) => stored.startsWith(key))).toEqual([]);
    },
  );

  test('what is not what was announced is refused at once and not kept', async () => {
    const before = await usageOf(processes, user);
    const content = randomBytes(1000);
    for (const body of [content, streamOf(content)]) {
      const detail = await expectProblem(
        await post(user, body, {}, `?sha256=${sha256('other')}`),
        422,
        'checksum_mismatch',
      );
      expect(detail).toContain(sha256(content));
      expect(await timeline(processes, await latestUpload(processes, user))).toEqual([
        'upload.created',
        'upload.terminated',
      ]);
    }
    expect(await usageOf(processes, user)).toEqual(before);
    const [file] = await filesOf(await post(user, content, {}, `?sha256=${sha256(content).toUpperCase()}`));
    await expectCompletedOnce(processes, user, file?.id ?? '', content);
  });

  test('a quota that is used up on the way refuses with 413 and takes nothing', async () => {
    const small = await registerUser(() => processes.url);
    await processes.database.query('UPDATE users SET max_bytes = 3000000 WHERE id = $1', [small.id]);
    const content = randomBytes(3_000_001);
    for (const answer of [
      await post(small, content),
      await post(small, streamOf(content)),
      await post(small, form(filePart('x', content)), { 'Content-Type': FORM_TYPE }),
    ]) {
      await expectProblem(answer, 413, 'quota_exceeded');
    }
    expect(await usageOf(processes, small)).toEqual({ bytes: 0, files: 0 });
    await filesOf(await post(small, streamOf(content.subarray(1))));
    expect(await usageOf(processes, small)).toEqual({ bytes: 3_000_000, files: 1 });
  });
});

describe('POST /api/files', () => {
  let processes: Processes;
  let user: TestUser;

  beforeAll(async () => {
    processes = await startProcesses({ MAX_UPLOAD_SIZE: String(MAX) }, ['server', 'worker']);
    user = await registerUser(() => processes.url);
  });
  beforeEach(async () => {
    if (await fetch(`${processes.url}/health/live`).catch(() => undefined)) return;
    await processes.start('server');
  });
  afterAll(() => processes?.close());

  test.each([
    ['naïve café – 写真 📷.jpg', 'naïve café – 写真 📷.jpg'],
    ['/etc/passwd', 'passwd'],
    ['C:\\temp\\photo.jpg', 'photo.jpg'],
    ['a"quote%20.txt', 'a"quote%20.txt'],
  ])('the name %j is kept as %j', async (sent, kept) => {
    const [raw] = await filesOf(await post(user, 'x', {}, `?filename=${encodeURIComponent(sent)}`));
    expect(raw?.filename).toBe(kept);
    const data = new FormData();
    data.append('file', new Blob(['x']), sent);
    const [inForm] = await filesOf(await post(user, data));
    // Browsers, and fetch() here, write a quote in a form as %22.
    expect(inForm?.filename.replaceAll('%22', '"')).toBe(kept);
  });

  test('a name may be encoded as in RFC 5987, too', async () => {
    const headers = `Content-Disposition: form-data; name="f"; filename*=UTF-8''%e2%82%ac%20rates.txt`;
    const [file] = await filesOf(await post(user, form(part(headers, 'x')), { 'Content-Type': FORM_TYPE }));
    expect(file?.filename).toBe('€ rates.txt');
  });

  test.each([
    ['application/json', '{"not": "for us"', 'application/json'],
    ['text/plain; charset=utf-8', 'words', 'text/plain; charset=utf-8'],
    ['multipart/mixed; boundary=x', '--x--', 'multipart/mixed; boundary=x'],
    ['application/octet-stream', 'x', null],
    ['application/x-www-form-urlencoded', 'a=b', null],
  ])('a body of type %s is taken as it is', async (type, body, declaredType) => {
    const [file] = await filesOf(await post(user, body, { 'Content-Type': type }));
    expect(file).toMatchObject({ declaredType, size: body.length, sha256: sha256(body) });
    // Without a name it is called by its id.
    expect(file?.filename).toBe(file?.id);
  });

  test('the field of a form in which no file was chosen is not a file', async () => {
    const empty = part(
      'Content-Disposition: form-data; name="a"; filename=""\r\nContent-Type: application/octet-stream',
    );
    const files = await filesOf(
      await post(user, form(empty, filePart('b', 'x')), { 'Content-Type': FORM_TYPE }),
    );
    expect(files.map(({ filename }) => filename)).toEqual(['b']);
  });

  test('what is too large is refused before it is sent', async () => {
    const outgoing = begin(processes.url, user, { 'Content-Length': String(MAX + 1) });
    outgoing.flushHeaders();
    const [answer] = (await once(outgoing, 'response')) as [IncomingMessage];
    expect(answer.statusCode).toBe(413);
    expect(JSON.parse(await text(answer))).toMatchObject({
      code: 'too_large',
      detail: expect.stringMatching(/\d/),
    });
    outgoing.destroy();
  });

  test('what becomes too large on the way is refused, also for a client that reads when all is sent', async () => {
    const { port } = new URL(processes.url);
    const socket = connect(Number(port), '127.0.0.1');
    socket.write(
      `POST /api/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${user.token}\r\nTransfer-Encoding: chunked\r\n\r\n`,
    );
    const chunk = randomBytes(MIB);
    const wrapped = Buffer.concat([
      Buffer.from(`${chunk.length.toString(16)}\r\n`),
      chunk,
      Buffer.from('\r\n'),
    ]);
    for (let i = 0; i < 40; i++) {
      if (!socket.write(wrapped)) await once(socket, 'drain');
    }
    socket.write('0\r\n\r\n');
    const [answer] = (await once(socket, 'data')) as [Buffer];
    expect(answer.toString()).toMatch(/^HTTP\/1.1 413 /);
    socket.destroy();
  });

  test.each<[string, Record<string, string>, Body, number, RegExp, string?]>([
    ['no boundary', { 'Content-Type': 'multipart/form-data' }, 'x', 400, /boundary/],
    ['an empty boundary', { 'Content-Type': 'multipart/form-data; boundary=' }, 'x', 400, /boundary/],
    [
      'an endless boundary',
      { 'Content-Type': `multipart/form-data; boundary=${'b'.repeat(5000)}` },
      'x',
      400,
      /boundary/,
    ],
    [
      'a boundary within quotes',
      { 'Content-Type': 'multipart/form-data; x="; boundary=y"' },
      'x',
      400,
      /boundary/,
    ],
    [
      'another boundary',
      { 'Content-Type': 'multipart/form-data; boundary=other' },
      form(filePart('a', 'x')),
      400,
      /ends too early/,
    ],
    ['nothing in it', { 'Content-Type': FORM_TYPE }, '', 400, /ends too early/],
    ['only its end', { 'Content-Type': FORM_TYPE }, END, 400, /no file/],
    [
      'only fields',
      { 'Content-Type': FORM_TYPE },
      form(part('Content-Disposition: form-data; name="a"', 'x')),
      400,
      /no file/,
    ],
    ['no end', { 'Content-Type': FORM_TYPE }, filePart('a', 'x'), 400, /ends too early/],
    [
      'an end in the middle of a file',
      { 'Content-Type': FORM_TYPE },
      filePart('a', randomBytes(200_000)).subarray(0, 100_000),
      400,
      /ends too early/,
    ],
    [
      'an end in the middle of headers',
      { 'Content-Type': FORM_TYPE },
      filePart('a').subarray(0, 40),
      400,
      /ends too early/,
    ],
    [
      'thousands of files',
      { 'Content-Type': FORM_TYPE },
      form(...Array.from({ length: 5000 }, () => filePart('a'))),
      400,
      /at most 100 files/,
    ],
    [
      'thousands of fields',
      { 'Content-Type': FORM_TYPE },
      form(...Array.from({ length: 5000 }, () => part('Content-Disposition: form-data; name="a"', 'x'))),
      400,
      /at most 100 fields/,
    ],
    [
      'thousands of parts that are nothing',
      { 'Content-Type': FORM_TYPE },
      form(...Array.from({ length: 50_000 }, () => part('X: y'))),
      400,
      /at most/,
    ],
    [
      'a giant field',
      { 'Content-Type': FORM_TYPE },
      form(part('Content-Disposition: form-data; name="a"', randomBytes(3 * MIB))),
      400,
      /1048576 bytes besides/,
    ],
    [
      'a giant header',
      { 'Content-Type': FORM_TYPE },
      form(part(`Content-Disposition: form-data; name="a"; filename="${'n'.repeat(3 * MIB)}"`, 'x')),
      400,
      /1048576 bytes besides/,
    ],
    [
      'a long preamble',
      { 'Content-Type': FORM_TYPE },
      Buffer.concat([randomBytes(3 * MIB), form(filePart('a'))]),
      400,
      /1048576 bytes besides/,
    ],
    [
      'a long epilogue',
      { 'Content-Type': FORM_TYPE },
      Buffer.concat([form(), randomBytes(3 * MIB)]),
      400,
      /1048576 bytes besides/,
    ],
    [
      'a name of 300 characters',
      { 'Content-Type': FORM_TYPE },
      form(filePart('n'.repeat(300), 'x')),
      400,
      /255/,
    ],
    ['a name that is no name', { 'Content-Type': FORM_TYPE }, form(filePart('..', 'x')), 400, /filename/],
    [
      'a query for one file',
      { 'Content-Type': FORM_TYPE },
      form(filePart('a', 'x')),
      400,
      /filename and sha256/,
      '?filename=b',
    ],
    ['a filename given twice', {}, 'x', 400, /filename/, '?filename=a&filename=b'],
    ['a checksum that is none', {}, 'x', 400, /sha256/, '?sha256=abc'],
  ])('is refused clearly: %s', async (_name, headers, body, status, why, query = '') => {
    const before = await usageOf(processes, user);
    const answer = await post(user, body, headers, query);
    const detail = await expectProblem(answer, status, 'invalid_request');
    expect(detail).toMatch(why);
    expect(detail).not.toMatch(/is stored/);
    const stored = detail.match(/[0-9a-f-]{36}/g)?.length ?? 0;
    expect((await usageOf(processes, user)).files).toBe(before.files + stored);
  });

  test('a form is the same however it is cut into pieces', async () => {
    const contents = [
      randomBytes(3000),
      Buffer.from('\r\n--the-boundar'),
      Buffer.alloc(0),
      Buffer.from('\r\n\r\n--'),
    ];
    const body = form(...contents.map((content, i) => filePart(`${i}`, content)));
    for (const size of [1, 2, 7, 61, 1024]) {
      const files = await filesOf(await post(user, streamOf(body, size), { 'Content-Type': FORM_TYPE }));
      expect(files.map((file) => file.sha256)).toEqual(contents.map(sha256));
    }
  });

  test('random damage to a form is never more than a clear refusal', async () => {
    const body = form(filePart('a', randomBytes(500)), part('Content-Disposition: form-data; name="b"', 'c'));
    for (let i = 0; i < 60; i++) {
      const damaged = Buffer.from(body);
      const from = (i * 37) % damaged.length;
      if (i % 3 === 0) damaged.fill(i, from, from + 5);
      const cut = i % 3 === 1 ? damaged.subarray(0, from) : i % 3 === 2 ? damaged.subarray(from) : damaged;
      const answer = await post(user, cut, { 'Content-Type': FORM_TYPE });
      expect([201, 400]).toContain(answer.status);
      await answer.arrayBuffer();
    }
    expect((await fetch(`${processes.url}/health/ready`)).status).toBe(200);
  });

  test('a form is read only as fast as it can be stored', async () => {
    // The first file cannot be finished: what follows has to wait in the socket.
    const barrier = await closeBarrier(processes.database, 'INSERT ON files', `NEW.filename = 'first'`);
    const outgoing = begin(processes.url, user, { 'Content-Type': FORM_TYPE });
    const answered = once(outgoing, 'response') as Promise<[IncomingMessage]>;
    outgoing.write(Buffer.concat([filePart('first', 'x'), filePart('second').subarray(0, -2)]));
    await barrier.reached();
    const chunk = randomBytes(MIB);
    let sent = 0;
    // Until the sockets' own memory is full.
    while (
      outgoing.write(chunk) ||
      !(await Promise.race([once(outgoing, 'drain').then(() => false), idle(outgoing)]))
    ) {
      sent += chunk.length;
      expect(sent).toBeLessThan(MAX);
    }
    sent += chunk.length;
    await barrier.open();
    outgoing.end(`\r\n--${BOUNDARY}--\r\n`);
    const [answer] = await answered;
    const { files } = JSON.parse(await text(answer));
    expect(files.map(({ size }: FileJson) => size)).toEqual([1, sent]);
  });

  test('nobody is let in without the right to upload', async () => {
    const anonymous = useAccount(user, 'none', () => processes.url);
    await expectProblem(await post(anonymous, 'x'), 401, 'unauthenticated');
    const made = await user.fetch('/api/keys', {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ name: 'reader', scopes: ['read'] }),
    });
    const reader = useAccount(user, (await made.json()).key, () => processes.url);
    await expectProblem(await post(reader, 'x'), 403, 'forbidden');
  });

  test('who asks for the upload in the middle does not disturb it', async () => {
    const content = randomBytes(100_000);
    const outgoing = begin(processes.url, user, { 'Content-Length': String(content.length) });
    const answered = once(outgoing, 'response') as Promise<[IncomingMessage]>;
    outgoing.write(content.subarray(0, 50_000));
    const id = await until('the upload to be begun', async () => {
      const { items } = await user.get('/api/uploads');
      return items.find(({ length }: { length: number }) => length === content.length)?.id;
    });
    const asking = user.tus('HEAD', `/uploads/${id}`);
    await until('it to be asked for', async () => {
      const { rows } = await processes.database.query(
        `SELECT FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%lease_epoch = lease_epoch + 1%'`,
      );
      return rows.length > 0;
    });
    outgoing.end(content.subarray(50_000));
    const [answer] = await answered;
    expect(answer.statusCode).toBe(201);
    expect((await asking).headers.get('Upload-Offset')).toBe(String(content.length));
    await expectCompletedOnce(processes, user, id, content);
  });

  test.each(['raw', 'form'])(
    'a server that stops gives it the usual time, then refuses and takes nothing (%s)',
    async (kind) => {
      const before = await usageOf(processes, user);
      const outgoing = begin(processes.url, user, kind === 'form' ? { 'Content-Type': FORM_TYPE } : {});
      const answered = once(outgoing, 'response') as Promise<[IncomingMessage]>;
      if (kind === 'form') outgoing.write(filePart('half').subarray(0, -2));
      outgoing.write(randomBytes(100_000));
      const id = await until(
        'the upload to be begun',
        async () => (await user.get('/api/uploads')).items[0]?.id,
      );
      const stopped = processes.stop('server');
      const [answer] = await answered;
      expect([answer.statusCode, answer.headers.connection]).toEqual([503, 'close']);
      expect(Number(answer.headers['retry-after'])).toBeGreaterThan(0);
      expect(JSON.parse(await text(answer))).toMatchObject({
        code: 'unavailable',
        detail: expect.stringMatching(/again/),
      });
      expect(await stopped).toBe(0);
      expect(await findUpload(processes, id)).toMatchObject({ status: 'terminated' });
      expect(await usageOf(processes, user)).toEqual(before);
    },
  );
});

/** True after nothing could be written for so long that nothing will be: the other side does not read. */
function idle(outgoing: ClientRequest): Promise<boolean> {
  const { socket } = outgoing;
  return new Promise((resolve) => {
    let written = socket?.bytesWritten;
    const timer = setInterval(() => {
      if (socket?.bytesWritten === written && outgoing.writableNeedDrain) {
        clearInterval(timer);
        resolve(true);
      }
      written = socket?.bytesWritten;
    }, 300);
    outgoing.once('drain', () => clearInterval(timer));
  });
}
