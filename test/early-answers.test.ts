import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { setImmediate as turn } from 'node:timers/promises';
import * as tus from 'tus-js-client';
import { deriveKeys } from '../server/auth/keys.js';
import { signToken } from '../server/auth/tokens.js';
import { idOf, registerUser, type TestUser } from './support/client.js';
import { type Processes, startProcesses } from './support/processes.js';
import { until } from './support/until.js';

/*
 * Requests that are answered while their bodies are still being sent: the client gets the answer, not a broken
 * connection, and the server does not read on for ever.
 */

const SECRET = 'a secret of this test, long enough for a key';
const MiB = 1024 ** 2;
const GiB = 1024 ** 3;

let processes: Processes;
let user: TestUser;
let expired: string;

beforeAll(async () => {
  processes = await startProcesses({ JWT_SECRET: SECRET, MAX_UPLOAD_SIZE: '6GiB' });
  user = await registerUser(() => processes.url);
  expired = signToken({ userId: user.id, role: 'user' }, deriveKeys(SECRET).access, -1);
});

afterAll(() => processes?.close());

interface Connection {
  socket: Socket;
  /** The text received so far. */
  text(): string;
  /** Sends `bytes` zeros as fast as the server takes them; resolves to the number sent. */
  pour(bytes: number): Promise<number>;
  /** Resolves when the connection has ended in both directions. */
  closed(): Promise<boolean>;
}

function open(): Connection {
  const { hostname, port } = new URL(processes.url);
  const socket = connect({ port: Number(port), host: hostname, allowHalfOpen: true });
  let received = '';
  let isClosed = false;
  socket.on('data', (chunk) => {
    received += chunk;
  });
  socket.on('error', () => {});
  let wake = () => {};
  socket.on('drain', () => wake());
  socket.on('close', () => {
    isClosed = true;
    wake();
  });
  const zeros = Buffer.alloc(256 * 1024);
  return {
    socket,
    text: () => received,
    async pour(bytes) {
      let sent = 0;
      while (sent < bytes && !isClosed) {
        const taken = socket.write(zeros);
        sent += zeros.length;
        if (!taken) {
          await new Promise<void>((resolve) => {
            wake = resolve;
          });
        }
      }
      return sent;
    },
    closed: () => until('the connection to be closed', () => isClosed),
  };
}

function head(method: string, path: string, headers: Record<string, string | number>): string {
  const lines = Object.entries({ Host: 'x', ...headers }).map(([name, value]) => `${name}: ${value}\r\n`);
  return `${method} ${path} HTTP/1.1\r\n${lines.join('')}\r\n`;
}

const OCTETS = { 'Tus-Resumable': '1.0.0', 'Content-Type': 'application/offset+octet-stream' };

/** Requests that the server refuses without their bodies. */
async function listRefused(): Promise<[what: string, status: number, request: Parameters<typeof head>][]> {
  const path = await user.create(5 * GiB);
  const authorized = { Authorization: `Bearer ${user.token}` };
  const patch = { ...OCTETS, ...authorized, 'Upload-Offset': 0 };
  return [
    ['an expired token', 401, ['PATCH', path, { ...patch, Authorization: `Bearer ${expired}` }]],
    ['a wrong offset', 409, ['PATCH', path, { ...patch, 'Upload-Offset': 7 }]],
    ['an unknown upload', 404, ['PATCH', path.replace(/.$/, 'g'), patch]],
    ['more than is left', 413, ['PATCH', await user.create(10), patch]],
    ['a wrong type', 415, ['PATCH', path, { ...patch, 'Content-Type': 'text/plain' }]],
    ['a length that is too large', 413, ['POST', '/uploads', { ...patch, 'Upload-Length': 7 * GiB }]],
    ['an endless JSON', 413, ['POST', '/api/auth/login', { 'Content-Type': 'application/json' }]],
    ['JSON without a token', 401, ['POST', '/api/keys', { 'Content-Type': 'application/json' }]],
    ['an unknown path', 404, ['POST', '/nowhere', {}]],
    ['a path for other methods', 405, ['POST', '/api/me', authorized]],
  ];
}

test.each([
  ['Content-Length', { 'Content-Length': 5 * GiB }],
  ['chunks', { 'Transfer-Encoding': 'chunked' }],
])('with 5 GiB on their way (%s) a refusal arrives, and the connection ends soon', async (_how, framing) => {
  const send = async ([method, path, headers]: Parameters<typeof head>) => {
    const connection = open();
    connection.socket.write(head(method, path, { ...headers, ...framing }));
    if ('Transfer-Encoding' in framing) connection.socket.write(`${(5 * GiB).toString(16)}\r\n`);
    const sent = await connection.pour(5 * GiB);
    await connection.closed();
    return { text: connection.text(), sent };
  };
  const refused = await listRefused();
  const answers = await Promise.all(refused.map(([, , request]) => send(request)));
  for (const [index, { text, sent }] of answers.entries()) {
    const [what, status] = refused[index] ?? [];
    expect([what, text.slice(0, 12)]).toEqual([what, `HTTP/1.1 ${status}`]);
    expect(text).toMatch(/\r\nConnection: close\r\n/i);
    // The buffers of both sides hold some of it, and the server reads 16 MiB.
    expect(sent).toBeLessThan(64 * MiB);
  }
});

test('a refusal arrives though the client reads it only when it has sent all that it can', async () => {
  const path = await user.create(5 * GiB);
  const connection = open();
  connection.socket.pause();
  const headers = { ...OCTETS, 'Upload-Offset': 0, 'Content-Length': 12 * MiB };
  connection.socket.write(head('PATCH', path, { ...headers, Authorization: `Bearer ${expired}` }));
  expect(await connection.pour(12 * MiB)).toBe(12 * MiB);
  const ended = once(connection.socket, 'end');
  connection.socket.resume();
  await until('the answer', () => connection.text().includes('The access token has expired'));
  await ended;
  connection.socket.destroy();
});

test('a server that stops does not wait for a refused client that sends no more of its body', async () => {
  const other = await startProcesses({}, ['server']);
  try {
    const { hostname, port } = new URL(other.url);
    const socket = connect({ port: Number(port), host: hostname, allowHalfOpen: true });
    let received = '';
    socket
      .on('error', () => {})
      .on('data', (chunk) => {
        received += chunk;
      });
    socket.write(head('POST', '/api/keys', { 'Content-Length': 5 * GiB }));
    await until('the answer', () => received.includes('401'));
    expect(await other.stop('server')).toBe(0);
  } finally {
    await other.close();
  }
});

test('a short body that is not wanted does not end the connection', async () => {
  const connection = open();
  const body = Buffer.alloc(500_000);
  const request = head('POST', '/nowhere', { 'Content-Length': body.length });
  connection.socket.write(request);
  // The first answer arrives before the body is sent.
  await until('an answer', () => connection.text().includes('404'));
  connection.socket.write(body);
  connection.socket.write(head('GET', '/health/live', {}));
  await until('the second answer', () => connection.text().includes('200'));
  expect(connection.text()).not.toMatch(/Connection: close/i);
  connection.socket.destroy();
});

test('a body that turns out too long in the middle gets a 413, not a broken connection', async () => {
  const path = await user.create(MiB);
  const connection = open();
  const headers = { ...OCTETS, 'Upload-Offset': 0, 'Transfer-Encoding': 'chunked' };
  connection.socket.write(head('PATCH', path, { ...headers, Authorization: `Bearer ${user.token}` }));
  connection.socket.write(`${GiB.toString(16)}\r\n`);
  const sent = await connection.pour(GiB);
  await connection.closed();
  expect(connection.text()).toMatch(/^HTTP\/1.1 413/);
  expect(sent).toBeLessThan(64 * MiB);
});

test('fetch() sees the refusal of a body that it is still sending', async () => {
  const path = await user.create(5 * GiB);
  const zeros = Buffer.alloc(64 * 1024);
  for (const status of [401, 409]) {
    const endless = new ReadableStream({
      async pull(controller) {
        // Without this pause nothing else in this process would ever run.
        await turn();
        controller.enqueue(zeros);
      },
    });
    const answer = await fetch(`${processes.url}${path}`, {
      method: 'PATCH',
      headers: {
        ...OCTETS,
        'Upload-Offset': '8',
        Authorization: `Bearer ${status === 401 ? expired : user.token}`,
      },
      body: endless,
      duplex: 'half',
    } as unknown as RequestInit);
    expect(answer.status).toBe(status);
    expect(await answer.text()).not.toBe('');
  }
});

test('an upload whose body is still under way when its token is refused goes on with a fresh one', async () => {
  const content = randomBytes(64 * MiB);
  const statuses: number[] = [];
  const offsets: number[] = [];
  const path = await user.create(content.length);
  await user.tus('PATCH', path, { 'Upload-Offset': '0' }, content.subarray(0, 3 * MiB));
  let token = expired;
  await new Promise<void>((resolve, reject) => {
    const upload = new tus.Upload(content, {
      uploadUrl: `${processes.url}${path}`,
      retryDelays: [0, 0],
      onBeforeRequest(request) {
        // The first HEAD is let through: it is the PATCH whose token has expired.
        request.setHeader('Authorization', `Bearer ${request.getMethod() === 'HEAD' ? user.token : token}`);
      },
      onAfterResponse(request, response) {
        if (request.getMethod() === 'PATCH') statuses.push(response.getStatus());
        else offsets.push(Number(response.getHeader('Upload-Offset')));
      },
      onShouldRetry(error) {
        token = user.token;
        return (error as tus.DetailedError).originalResponse?.getStatus() === 401;
      },
      onSuccess: () => resolve(),
      onError: reject,
    });
    upload.start();
  });
  expect(statuses).toEqual([401, 204]);
  expect(offsets).toEqual([3 * MiB, 3 * MiB]);
  const { size, sha256 } = await user.settled(idOf(path));
  expect({ size, sha256 }).toEqual({
    size: content.length,
    sha256: createHash('sha256').update(content).digest('hex'),
  });
});
