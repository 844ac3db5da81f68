import { once } from 'node:events';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import { createGuardedLookup, isPublic } from '../core/webhooks/guard.js';
import { createPost, type PostOptions } from '../core/webhooks/post.js';
import { startDnsServer } from './support/dns-server.js';
import { freePort } from './support/services/port.js';
import { until } from './support/until.js';

/* Receivers may do anything with a message: an attempt ends soon, in bounded memory, and goes nowhere else. */

interface RawReceiver {
  url: string;
  port: number;
  /** What it got, in bytes of any number of connections. */
  got(): string;
  connections(): number;
}

const servers: Server[] = [];
const sockets = new Set<Socket>();

afterAll(async () => {
  for (const socket of sockets) socket.destroy();
  await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
});

/** A receiver that speaks no HTTP by itself. @param answer called when the whole message is there */
async function listen(answer: (socket: Socket) => void): Promise<RawReceiver> {
  let got = '';
  let connections = 0;
  const server = createServer((socket) => {
    connections++;
    sockets.add(socket.on('error', () => {}));
    socket.on('data', (chunk) => {
      const before = got.length;
      got += chunk;
      if (!got.slice(0, before).endsWith('{}') && got.endsWith('{}')) answer(socket);
    });
  });
  servers.push(server.listen(0, '127.0.0.1'));
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  return { url: `http://127.0.0.1:${port}/`, port, got: () => got, connections: () => connections };
}

const post = (url: string, options: Partial<PostOptions> = {}, signal = new AbortController().signal) =>
  createPost({ allowPrivate: true, totalMs: 1_500, connectMs: 1_000, ...options })({
    url,
    headers: { 'webhook-id': 'the id' },
    body: '{}',
    signal,
  });

const head = (status: string, ...headers: string[]) =>
  `HTTP/1.1 ${[status, ...headers].join('\r\n')}\r\n\r\n`;

test('the message is a POST with its headers and a length', async () => {
  const receiver = await listen((socket) => socket.end(`${head('200 OK', 'Content-Length: 2')}ok`));
  expect(await post(`${receiver.url}a/path?with=query`)).toMatchObject({
    isDelivered: true,
    status: 200,
    answer: 'ok',
    error: null,
    durationMs: expect.any(Number),
  });
  expect(receiver.got()).toMatch(/^POST \/a\/path\?with=query HTTP\/1\.1\r\n/);
  expect(receiver.got()).toMatch(/\r\nwebhook-id: the id\r\n.*content-length: 2\r\n/s);
});

test('a dead receiver', async () => {
  expect(await post(`http://127.0.0.1:${await freePort()}/`)).toMatchObject({
    isDelivered: false,
    status: null,
    error: 'connection_refused',
  });
});

test('one that answers nothing, and one that never ends its head', async () => {
  const silent = await listen(() => {});
  const slow = await listen((socket) => {
    socket.write('HTTP/1.1 200 OK\r\n');
    const timer = setInterval(() => socket.write('X-More: 1\r\n'), 50);
    socket.once('close', () => clearInterval(timer));
  });
  const answers = await Promise.all([post(silent.url), post(slow.url)]);
  for (const answer of answers) {
    expect(answer).toMatchObject({ isDelivered: false, status: null, error: 'timeout' });
    expect(answer.durationMs).toBeLessThan(10_000);
  }
});

test('one that takes the connection and no more, with TLS', async () => {
  const receiver = await listen(() => {});
  const answer = await post(receiver.url.replace('http:', 'https:'), { connectMs: 300, totalMs: 60_000 });
  expect(answer).toMatchObject({ status: null, error: 'timeout' });
});

test('one that speaks no TLS', async () => {
  const receiver = await listen(() => {});
  servers.at(-1)?.on('connection', (socket: Socket) => socket.once('data', () => socket.end('plain text')));
  expect(await post(receiver.url.replace('http:', 'https:'))).toMatchObject({
    status: null,
    error: 'tls_failed',
  });
});

test.each([
  ['garbage', 'the quick brown fox\r\n\r\n', 'invalid_answer'],
  ['two lengths', head('200 OK', 'Content-Length: 1', 'Content-Length: 2'), 'invalid_answer'],
  ['a giant head', head('200 OK', `X: ${'x'.repeat(200_000)}`), 'invalid_answer'],
  [
    'another protocol',
    head('101 Switching Protocols', 'Connection: Upgrade', 'Upgrade: x'),
    'connection_broken',
  ],
  ['nothing', '', 'connection_broken'],
])('one that answers with %s', async (_what, answer, error) => {
  const receiver = await listen((socket) => socket.end(answer));
  expect(await post(receiver.url)).toMatchObject({ isDelivered: false, status: null, error });
});

test.each([
  ['announces more than it sends', head('200 OK', 'Content-Length: 1000'), 'some'],
  ['breaks off a chunk', head('200 OK', 'Transfer-Encoding: chunked'), '3E8\r\nsome'],
])('the status counts if it %s', async (_what, begins, ends) => {
  const receiver = await listen((socket) => socket.end(begins + ends));
  expect(await post(receiver.url)).toMatchObject({ isDelivered: true, status: 200, answer: 'some' });
});

test('an answer without end is cut off after its beginning', async () => {
  let sent = 0;
  let cut = false;
  const receiver = await listen((socket) => {
    socket.once('close', () => {
      cut = true;
    });
    socket.write(head('500 Oh', 'Transfer-Encoding: chunked'));
    const more = () => {
      while (!socket.destroyed && socket.write(`10000\r\n${'\0'.repeat(65_536)}\r\n`)) sent += 65_536;
    };
    socket.on('drain', more);
    more();
  });
  const answer = await post(receiver.url, { totalMs: 30_000 });
  expect(answer).toMatchObject({ isDelivered: false, status: 500 });
  expect(answer.answer).toBe('\ufffd'.repeat(1024));
  await until('the connection to be cut', () => cut);
  expect(sent).toBeLessThan(50_000_000);
});

test('a trickle of an answer is cut off after a while, and its status counts', async () => {
  const receiver = await listen((socket) => {
    socket.write(head('200 OK', 'Content-Length: 1000000'));
    const timer = setInterval(() => socket.write('x'), 20);
    socket.once('close', () => clearInterval(timer));
  });
  const answer = await post(receiver.url, { totalMs: 60_000 });
  expect(answer).toMatchObject({ isDelivered: true, status: 200, answer: expect.stringMatching(/^x+$/) });
  expect(answer.durationMs).toBeLessThan(20_000);
});

test.each([301, 302, 303, 307, 308])('a redirection with %d is not followed', async (status) => {
  const target = await listen((socket) => socket.end(head('200 OK')));
  const receiver = await listen((socket) => socket.end(head(`${status} Moved`, `Location: ${target.url}`)));
  expect(await post(receiver.url)).toMatchObject({ isDelivered: false, status });
  expect(target.connections()).toBe(0);
});

test('it may say when it wants to be asked again, or never', async () => {
  const later = await listen((socket) => socket.end(head('429 No', 'Retry-After: 120')));
  expect(await post(later.url)).toMatchObject({ isDelivered: false, status: 429, retryAfter: 120 });
  const gone = await listen((socket) => socket.end(head('410 Gone', 'Retry-After: soon')));
  expect(await post(gone.url)).toMatchObject({ isGone: true, retryAfter: undefined });
});

test('a message is stopped when its worker stops', async () => {
  const receiver = await listen(() => {});
  const stop = new AbortController();
  const posted = post(receiver.url, { totalMs: 60_000 }, stop.signal);
  await until('the message', () => receiver.connections());
  stop.abort();
  expect(await posted).toMatchObject({ isDelivered: false, status: null });
});

describe('without WEBHOOK_ALLOW_PRIVATE', () => {
  const guarded = (url: string, nameServers?: string[]) =>
    post(url, { allowPrivate: false, ...(nameServers ? { nameServers } : {}) });

  test('an address of a private network is not called', async () => {
    const receiver = await listen((socket) => socket.end(head('200 OK')));
    for (const host of ['127.0.0.1', '[::ffff:127.0.0.1]', '2130706433', '0x7f.1']) {
      expect(await guarded(`http://${host}:${receiver.port}/`)).toMatchObject({
        status: null,
        error: 'address_refused',
      });
    }
    expect(receiver.connections()).toBe(0);
  });

  test('nor is a name that leads to one when the connection is made', async () => {
    const receiver = await listen((socket) => socket.end(head('200 OK')));
    const dns = await startDnsServer(['127.0.0.1', '10.0.0.1']);
    try {
      const url = `http://rebound.example:${receiver.port}/`;
      expect(await guarded(url, [dns.address])).toMatchObject({ status: null, error: 'address_refused' });
      expect(receiver.connections()).toBe(0);
    } finally {
      dns.close();
    }
  });

  test('of several addresses only the public ones are tried', async () => {
    const dns = await startDnsServer(['127.0.0.1', '8.8.8.8', '192.168.1.1']);
    const lookup = createGuardedLookup([dns.address]);
    try {
      const found = await new Promise((resolve, reject) => {
        lookup('mixed.example', { all: true }, (error, list) => (error ? reject(error) : resolve(list)));
      });
      expect(found).toEqual([{ address: '8.8.8.8', family: 4 }]);
    } finally {
      dns.close();
    }
  });

  test('a name that no server knows, or of a server that is silent, fails in time', async () => {
    const dns = await startDnsServer([]);
    const silent = `127.0.0.1:${await freePort()}`;
    const answers = await Promise.all([
      guarded('http://unknown.example/', [dns.address]),
      guarded('http://silent.example/', [silent]),
    ]);
    dns.close();
    for (const answer of answers) expect(answer.status).toBeNull();
    expect(answers[0]?.error).toBe('name_not_found');
  });

  test.each([
    ['1.1.1.1', true],
    ['8.8.8.8', true],
    ['100.63.255.255', true],
    ['172.15.255.255', true],
    ['172.32.0.0', true],
    ['2606:4700:4700::1111', true],
    ['::ffff:8.8.8.8', true],
    ['0.0.0.0', false],
    ['10.255.255.255', false],
    ['100.64.0.0', false],
    ['100.127.255.255', false],
    ['127.255.255.255', false],
    ['169.254.169.254', false],
    ['172.16.0.0', false],
    ['172.31.255.255', false],
    ['192.0.0.170', false],
    ['192.0.2.1', false],
    ['192.88.99.1', false],
    ['192.168.0.1', false],
    ['198.18.0.1', false],
    ['198.51.100.1', false],
    ['203.0.113.1', false],
    ['224.0.0.1', false],
    ['239.255.255.255', false],
    ['240.0.0.1', false],
    ['255.255.255.255', false],
    ['::', false],
    ['::1', false],
    ['::ffff:127.0.0.1', false],
    ['::ffff:a00:1', false],
    ['::127.0.0.1', false],
    ['::ffff:0:127.0.0.1', false],
    ['64:ff9b::8.8.8.8', false],
    ['64:ff9b:1::1', false],
    ['100::1', false],
    ['2001::1', false],
    ['2001:db8::1', false],
    ['2002:808:808::1', false],
    ['fc00::1', false],
    ['fd00:ec2::254', false],
    ['fe80::1', false],
    ['fec0::1', false],
    ['ff02::1', false],
  ])('%s: %s', (address, allowed) => {
    expect(isPublic(address)).toBe(allowed);
  });
});
