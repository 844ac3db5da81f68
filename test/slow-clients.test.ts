import { once } from 'node:events';
import type { Server } from 'node:http';
import { type AddressInfo, connect, type Socket } from 'node:net';
import express from 'express';
import { createLogger } from '../core/log.js';
import type { Refusals } from '../server/auth/refusals.js';
import { readJson } from '../server/http/json-body.js';
import { lingeringClose } from '../server/http/lingering-close.js';
import { problemHandler } from '../server/http/problem.js';
import { createHttpServer } from '../server/http/server.js';
import { registerUser } from './support/client.js';
import { startProcesses } from './support/processes.js';
import { until } from './support/until.js';

/*
 * Clients that are slow on purpose. The time limits here are short; the real ones are in
 * server/http/server.ts and server/http/json-body.ts.
 */

const refusals: Refusals = { note: () => {}, whenWritten: async () => {}, flush: async () => {} };
const JSON_LIMITS = { maxBytes: 1000, maxMs: 300 };
const DRIP_MS = 50;
// A machine that is busy may let many drips pass before it is idle for too long.
const TIMES = { headers: 300, checkHeadersEvery: 50, idle: 60 * DRIP_MS, keepAlive: 300 };

let http: Server;
const sockets: Socket[] = [];

beforeAll(async () => {
  const app = express();
  app.use(lingeringClose({ keepBytes: 1000, lingerBytes: 10_000, lingerMs: 300, stallMs: 100 }));
  app.post('/json', async (req, res) => {
    res.json((await readJson(req, JSON_LIMITS)) ?? 'nothing');
  });
  // With the time that it has in earnest.
  app.post('/patient', async (req, res) => {
    res.json(await readJson(req));
  });
  app.post('/refused', (_req, res) => {
    res.status(401).end('no');
  });
  // Reads bytes as an upload does: for as long as they come.
  app.post('/bytes', async (req, res) => {
    let bytes = 0;
    for await (const chunk of req) bytes += chunk.length;
    res.json(bytes);
  });
  app.use(problemHandler(createLogger('silent', 'test'), refusals));
  http = createHttpServer(app, TIMES);
  await new Promise<void>((resolve) => http.listen(0, '127.0.0.1', resolve));
});

afterAll(() => {
  for (const socket of sockets) socket.destroy();
  http?.closeAllConnections();
  http?.close();
});

/** Sends `first` at once and then `drip` again and again; resolves to what has come back when the connection ends. */
async function converse(first: string, drip = ''): Promise<string> {
  const socket = connect((http.address() as AddressInfo).port, '127.0.0.1');
  sockets.push(socket);
  let received = '';
  socket
    .on('error', () => {})
    .on('data', (chunk) => {
      received += chunk;
    });
  socket.write(first);
  const dripping = drip ? setInterval(() => socket.write(drip), DRIP_MS) : undefined;
  await new Promise((resolve) => socket.once('close', resolve));
  clearInterval(dripping);
  return received;
}

const post = (path: string, headers = '') =>
  `POST ${path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n${headers}\r\n`;

test.each([
  ['that say nothing', '', ''],
  ['whose headers drip', 'GET / HTTP/1.1\r\n', 'X-A: b\r\n'],
  ['whose request line drips', 'GET /', 'x'],
])('connections %s are told that it took too long, and closed', async (_what, first, drip) => {
  const answer = await converse(first, drip);
  expect(answer).toMatch(/^HTTP\/1.1 408 Request Timeout\r\n/);
  expect(answer).toContain('application/problem+json');
  expect(JSON.parse(answer.split('\r\n\r\n')[1] ?? '')).toMatchObject({
    status: 408,
    code: 'request_timeout',
  });
});

test.each([
  ['a length', post('/json', 'Content-Length: 900\r\n'), ' '],
  ['chunks', post('/json', 'Transfer-Encoding: chunked\r\n'), '1\r\n \r\n'],
])(
  'JSON that drips (with %s) has one time limit for the whole body, however often bytes come',
  async (_how, head, drip) => {
    const answer = await converse(head, drip);
    expect(answer).toMatch(/^HTTP\/1.1 408/);
    expect(answer).toContain('The body must arrive within 0.3 seconds');
  },
);

test('JSON that is too long is refused before all of it has arrived', async () => {
  expect(await converse(post('/json', 'Content-Length: 1000000\r\n'))).toMatch(/^HTTP\/1.1 413/);
  const chunk = `3e9\r\n${' '.repeat(1001)}\r\n`;
  expect(await converse(post('/json', 'Transfer-Encoding: chunked\r\n') + chunk)).toMatch(/^HTTP\/1.1 413/);
});

test('the server reads an upload for as long as its bytes keep coming', async () => {
  // This takes longer than all the limits above.
  const head = post('/bytes', 'Content-Length: 80\r\nConnection: close\r\n');
  expect(await converse(head, 'x')).toMatch(/^HTTP\/1.1 200[\s\S]*80$/);
});

test('an upload whose bytes stop coming loses its connection', async () => {
  expect(await converse(post('/bytes', 'Content-Length: 20\r\n'))).toBe('');
});

test('the server does not wait for a body that drips after a refusal, long or short', async () => {
  for (const length of [500, 1_000_000]) {
    const answer = await converse(post('/refused', `Content-Length: ${length}\r\n`), 'x');
    expect(answer).toMatch(/^HTTP\/1.1 401/);
  }
});

test('a connection that is kept open is closed when nothing more comes', async () => {
  expect(await converse(`${post('/json', 'Content-Length: 2\r\n')}{}`)).toMatch(/^HTTP\/1.1 200/);
});

test('a client that sends Expect: 100-continue gets 100 only where the server wants the body', async () => {
  const asking = 'Expect: 100-continue\r\nContent-Length: 2\r\n';
  expect(await converse(post('/refused', asking))).toMatch(/^HTTP\/1.1 401/);
  const socket = connect((http.address() as AddressInfo).port, '127.0.0.1');
  sockets.push(socket);
  let received = '';
  socket.on('data', (chunk) => {
    received += chunk;
  });
  socket.write(post('/patient', asking));
  await until('leave to send', () => received === 'HTTP/1.1 100 Continue\r\n\r\n');
  socket.write('{}');
  await until('the answer', () => received.includes('HTTP/1.1 200'));
});

test('hundreds of connections that send nothing or half a request keep no other client out', async () => {
  const processes = await startProcesses({}, ['server']);
  try {
    const { hostname, port } = new URL(processes.url);
    const pid = processes.pid('server');
    const begun = ['', 'GET / HTTP/1.1\r\n', post('/api/auth/login', 'Content-Length: 50\r\n')];
    const idle = Array.from({ length: 600 }, () => connect(Number(port), hostname).on('error', () => {}));
    sockets.push(...idle);
    await Promise.all(idle.map((socket) => once(socket, 'connect')));
    for (const [index, socket] of idle.entries()) socket.write(begun[index % begun.length] ?? '');
    const user = await registerUser(() => processes.url);
    await user.upload(Buffer.from('in between'), { filename: 'a.txt' });
    expect(processes.pid('server')).toBe(pid);
    for (const socket of idle) socket.destroy();
  } finally {
    await processes.close();
  }
});
