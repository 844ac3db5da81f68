import { randomBytes } from 'node:crypto';
import { connect } from 'node:net';
import { findUpload } from './support/aftermath.js';
import { usageOf } from './support/books.js';
import { idOf, registerUser, type TestUser } from './support/client.js';
import { FORM_TYPE, filePart, form, sha256 } from './support/plain-client.js';
import { type Processes, startProcesses } from './support/processes.js';
import { until } from './support/until.js';

/*
 * Clients that end their side of the connection (FIN) right after their last byte: they have no more to send,
 * were killed, or do not want the answer. The bytes before the FIN count.
 */

/** Sizes of bodies: from one that comes with its head to one that the server has to read many times for. */
const SIZES = [10, 1000, 5000, 10_000, 20_000, 60_000, 300_000];
const TRIES = SIZES.flatMap((size) => [size, size + 1, size + 2, size + 3]);

let processes: Processes;
let user: TestUser;

beforeAll(async () => {
  const limits = ['UPLOADS', 'STATUS', 'GLOBAL'].map((bucket) => [`RATE_LIMIT_${bucket}`, '0']);
  processes = await startProcesses(Object.fromEntries(limits), ['server']);
  user = await registerUser(() => processes.url);
});

afterAll(() => processes?.close());

function request(method: string, target: string, headers: Record<string, string>, body: Buffer): Buffer {
  const all = { Host: 'x', Authorization: `Bearer ${user.token}`, 'Content-Length': body.length, ...headers };
  const lines = Object.entries(all).map(([name, value]) => `${name}: ${value}\r\n`);
  return Buffer.concat([Buffer.from(`${method} ${target} HTTP/1.1\r\n${lines.join('')}\r\n`), body]);
}

const patch = (path: string, body: Buffer, headers: Record<string, string> = {}) =>
  request(
    'PATCH',
    path,
    {
      'Tus-Resumable': '1.0.0',
      'Upload-Offset': '0',
      'Content-Type': 'application/offset+octet-stream',
      ...headers,
    },
    body,
  );

/**
 * Sends the bytes and a FIN.
 * @param stays whether the client still reads; else its socket is closed at once
 * @returns what it has read when the server ends the connection
 */
function send(bytes: Buffer, stays: boolean): Promise<string> {
  const { hostname, port } = new URL(processes.url);
  const socket = connect({ port: Number(port), host: hostname, allowHalfOpen: true });
  let received = '';
  socket.on('error', () => {});
  socket.on('data', (chunk) => {
    received += chunk;
  });
  socket.end(bytes, () => {
    if (!stays) socket.destroy();
  });
  return new Promise((resolve) => socket.once('close', () => resolve(received)));
}

const uploadOf = (path: string) => findUpload(processes, idOf(path));

async function countFiles(size: number): Promise<number> {
  const { rows } = await processes.database.query('SELECT FROM files WHERE size = $1', [size]);
  return rows.length;
}

test.each([true, false])('all of a body counts (the client stays for the answer: %s)', async (stays) => {
  const attempt = async (size: number) => {
    const path = await user.create(size);
    const answer = await send(patch(path, randomBytes(size)), stays);
    if (stays) expect([size, answer.slice(0, 12)]).toEqual([size, 'HTTP/1.1 204']);
    await until(`${size} bytes to be a file`, async () => (await uploadOf(path)).status === 'finished');
  };
  await Promise.all(TRIES.map(attempt));
});

test.each([true, false])('the bytes of a body that is cut short count (stays: %s)', async (stays) => {
  const attempt = async (size: number) => {
    const path = await user.create(2 * size);
    const headers = { 'Content-Length': String(2 * size) };
    const answer = await send(patch(path, randomBytes(size), headers), stays);
    if (stays) expect([size, answer.slice(0, 12)]).toEqual([size, 'HTTP/1.1 400']);
    await until(`the ${size} bytes`, async () => Number((await uploadOf(path)).offset) === size);
  };
  await Promise.all(TRIES.map(attempt));
});

test('the bytes of a chunk that breaks off count too', async () => {
  for (const size of SIZES) {
    const path = await user.create(null);
    const headers = { 'Transfer-Encoding': 'chunked' };
    const body = Buffer.concat([Buffer.from(`${(size + 1).toString(16)}\r\n`), randomBytes(size)]);
    const bytes = patch(path, body, headers)
      .toString('latin1')
      .replace(/Content-Length.*\r\n/, '');
    expect(await send(Buffer.from(bytes, 'latin1'), true)).toMatch(/^HTTP\/1.1 400/);
    expect([size, Number((await uploadOf(path)).offset)]).toEqual([size, size]);
  }
});

describe.each([
  ['raw', {}, (content: Buffer) => content],
  ['a form', { 'Content-Type': FORM_TYPE }, (content: Buffer) => form(filePart('a', content))],
])('POST /api/files, %s', (_kind, headers, toBody) => {
  test.each([true, false])('all of a body counts (stays: %s)', async (stays) => {
    const attempt = async (size: number) => {
      const content = randomBytes(size);
      const before = await countFiles(size);
      const answer = await send(request('POST', '/api/files', headers, toBody(content)), stays);
      if (stays) expect([size, answer.slice(0, 12)]).toEqual([size, 'HTTP/1.1 201']);
      if (stays) expect(answer).toContain(sha256(content));
      await until(`a file of ${size} bytes`, async () => (await countFiles(size)) === before + 1);
    };
    await Promise.all(TRIES.map(attempt));
  });
});

test('a plain upload that is cut short gets a 400, and leaves nothing', async () => {
  const before = await usageOf(user);
  for (const size of SIZES) {
    for (const type of ['image/jpeg', FORM_TYPE]) {
      const body = type === FORM_TYPE ? filePart('a', randomBytes(size)) : randomBytes(size);
      const headers = { 'Content-Type': type, 'Content-Length': String(body.length + 1) };
      const answer = await send(request('POST', '/api/files', headers, body), true);
      expect(answer).toMatch(/^HTTP\/1.1 400/);
      expect(answer).toContain('invalid_request');
    }
  }
  expect(await usageOf(user)).toEqual(before);
});

test('a request without a body is answered; a refused one, too', async () => {
  const none = Buffer.alloc(0);
  expect(await send(request('GET', '/api/me', {}, none), true)).toMatch(/^HTTP\/1.1 200/);
  expect(await send(request('POST', '/nowhere', {}, Buffer.from('abc')), true)).toMatch(/^HTTP\/1.1 404/);
  const cut = { 'Content-Length': '100', 'Content-Type': 'application/json' };
  for (const [target, status] of [
    ['/nowhere', 404],
    ['/api/keys', 400],
  ] as const) {
    const answer = await send(request('POST', target, cut, Buffer.from('{"a')), true);
    expect(answer.match(/^HTTP\/1.1 \d+/gm)).toEqual([`HTTP/1.1 ${status}`]);
  }
  expect(await send(Buffer.from('GET /api/me HTTP/1.1\r\nHo'), true)).toMatch(/^HTTP\/1.1 400/);
});
