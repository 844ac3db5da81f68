import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import type { ClientRequest, IncomingMessage } from 'node:http';
import { connect } from 'node:net';
import { text } from 'node:stream/consumers';
import { expectCompletedOnce, findUpload } from './support/aftermath.js';
import { closeBarrier, WAITING_FOR_LOCKS } from './support/barrier.js';
import { usageOf } from './support/books.js';
import { type FileJson, registerUser, type TestUser, useAccount } from './support/client.js';
import { TURNED_NAMES } from './support/hostile-inputs.js';
import {
  BOUNDARY,
  type Body,
  begin,
  END,
  expectProblem,
  FORM_TYPE,
  filePart,
  filesOf,
  form,
  MIB,
  part,
  post,
  sha256,
  streamOf,
} from './support/plain-client.js';
import { type Processes, startProcesses } from './support/processes.js';
import { until } from './support/until.js';

/* POST /api/files: names, types, refusals, hostile forms, slow storage, servers that stop. */

const MAX = 24 * MIB;

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
    expect(inForm?.filename).toBe(kept);
  });

  test.each([
    ['File with %22quotes%22, 50%off.txt', 'File with "quotes", 50%off.txt'],
    ['100%25 %2522 %0d%2E%C3.txt', '100%25 %2522 %0d%2E%C3.txt'],
  ])('in the name %s of a form, only the escapes of browsers are undone', async (sent, kept) => {
    const [file] = await filesOf(await post(user, form(filePart(sent, 'q')), { 'Content-Type': FORM_TYPE }));
    expect(file?.filename).toBe(kept);
  });

  test('a line break that is escaped in a form is one, which no name may hold', async () => {
    for (const name of ['a%0D%0Ab.txt', 'a%0Ab.txt']) {
      const answer = await post(user, form(filePart(name, 'q')), { 'Content-Type': FORM_TYPE });
      await expectProblem(answer, 400, 'invalid_request');
    }
  });

  test.each(TURNED_NAMES)('the name %j becomes %j, and a warning says so', async (sent, kept) => {
    const expected = { filename: kept, warnings: [{ step: 'upload', code: 'name_changed' }] };
    expect(await filesOf(await post(user, 'x', {}, `?filename=${encodeURIComponent(sent)}`))).toMatchObject([
      expected,
    ]);
    const data = new FormData();
    data.append('file', new Blob(['x']), sent);
    expect(await filesOf(await post(user, data))).toMatchObject([expected]);
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

  test('a body whose declared length is too large is refused before it is sent', async () => {
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

  test('a body that grows too large is refused, also if the client reads only after sending', async () => {
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
    const before = await usageOf(user);
    const answer = await post(user, body, headers, query);
    const detail = await expectProblem(answer, status, 'invalid_request');
    expect(detail).toMatch(why);
    expect(detail).not.toMatch(/is stored/);
    const stored = detail.match(/[0-9a-f-]{36}/g)?.length ?? 0;
    expect((await usageOf(user)).files).toBe(before.files + stored);
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
    // The first file cannot be finished, so the rest of the form has to wait in the socket.
    const barrier = await closeBarrier(processes.database, 'INSERT ON files', `NEW.filename = 'first'`);
    const outgoing = begin(processes.url, user, { 'Content-Type': FORM_TYPE });
    const answered = once(outgoing, 'response') as Promise<[IncomingMessage]>;
    outgoing.write(Buffer.concat([filePart('first', 'x'), filePart('second').subarray(0, -2)]));
    await barrier.reached();
    const chunk = randomBytes(MIB);
    let sent = 0;
    // Write until the buffers of both sockets are full.
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

  test('a caller without the right to upload is refused', async () => {
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

  test('a HEAD in the middle of the upload does not disturb it', async () => {
    const content = randomBytes(100_000);
    const outgoing = begin(processes.url, user, { 'Content-Length': String(content.length) });
    const answered = once(outgoing, 'response') as Promise<[IncomingMessage]>;
    outgoing.write(content.subarray(0, 50_000));
    const id = await until('the upload to be begun', async () => {
      const { items } = await user.get('/api/uploads');
      return items.find(({ length }: { length: number }) => length === content.length)?.id;
    });
    const holder = await processes.database.connect();
    await holder.query('BEGIN');
    await holder.query('LOCK uploads IN ACCESS EXCLUSIVE MODE');
    const asking = user.tus('HEAD', `/uploads/${id}`);
    await until('the HEAD to look at the upload', async () => {
      const { rows } = await processes.database.query(
        `${WAITING_FOR_LOCKS} AND query LIKE 'SELECT * FROM uploads WHERE id = $1 AND owner_id = $2%'`,
      );
      return rows.length > 0;
    });
    await holder.query('ROLLBACK');
    outgoing.end(content.subarray(50_000));
    const [answer] = await answered;
    expect(answer.statusCode).toBe(201);
    expect((await asking).headers.get('Upload-Offset')).toBe(String(content.length));
    await expectCompletedOnce(processes, user, id, content);
  });

  test.each(['raw', 'form'])(
    'a server that stops gives it the usual time, then refuses and takes nothing (%s)',
    async (kind) => {
      const before = await usageOf(user);
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
      await processes.start('server');
      expect(await usageOf(user)).toEqual(before);
    },
  );
});

/** Resolves to true once nothing could be written for a while: the other side does not read. */
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

test('sixteen forms of one user at a time do not stand in each other’s way', async () => {
  const processes = await startProcesses({}, ['server']);
  try {
    const busy = await registerUser(() => processes.url);
    let left = 160;
    const send = async () => {
      const statuses: number[] = [];
      while (left-- > 0) {
        const answer = await post(busy, form(filePart('a.txt', 'some words')), { 'Content-Type': FORM_TYPE });
        statuses.push(answer.status);
      }
      return statuses;
    };
    const statuses = (await Promise.all(Array.from({ length: 16 }, send))).flat();
    expect(statuses).toEqual(statuses.map(() => 201));
    const { usage } = await busy.get('/api/me');
    expect(usage).toEqual({ bytes: 160 * 'some words'.length, files: 160 });
  } finally {
    await processes.close();
  }
});
