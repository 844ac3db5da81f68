import { once } from 'node:events';
import { Agent, createServer, request, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as pause } from 'node:timers/promises';
import { putTo, S3Unavailable } from '../core/storage/s3/http-put.js';

/* How a body is sent again after a failed attempt. */

const SEND_FOR_MS = 50;

let server: Server;
let attempts: number;
/** How many attempts are cut off, each after more than the time limit for all attempts. */
let cut: number;
let mayAnswer: Promise<void>;

beforeAll(async () => {
  server = createServer(async (req, res) => {
    attempts++;
    req.resume();
    if (attempts <= cut) {
      await pause(2 * SEND_FOR_MS);
      req.socket.destroy();
    } else {
      await once(req, 'end');
      await mayAnswer;
      res.setHeader('ETag', 'tag').end();
    }
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
});
afterAll(() => {
  server.close();
  server.closeAllConnections();
});
beforeEach(() => {
  attempts = 0;
  mayAnswer = Promise.resolve();
});

const agent = new Agent({ maxSockets: 1 });

const put = putTo(
  async ({ method, key, headers, signal }) =>
    request({
      host: '127.0.0.1',
      port: (server.address() as AddressInfo).port,
      method,
      path: `/${key}`,
      headers,
      agent,
      signal,
    }),
  { withMd5: false, connectMs: 1000, sendForMs: SEND_FOR_MS },
);

async function* readAnew() {
  yield Buffer.from('abc');
}

const send = () => put({ key: 'part', body: { size: 3, chunks: readAnew } });

test('a body gets three attempts even if one takes longer than all of them may', async () => {
  cut = 2;
  expect(await send()).toMatchObject({ etag: 'tag' });
  expect(attempts).toBe(3);
});

test('a body is given up after three attempts', async () => {
  cut = Number.POSITIVE_INFINITY;
  await expect(send()).rejects.toBeInstanceOf(S3Unavailable);
  expect(attempts).toBe(3);
});

test('a body that waits for a connection is given up at once, and the connection is used again', async () => {
  cut = 0;
  let answer = () => {};
  mayAnswer = new Promise((resolve) => {
    answer = resolve;
  });
  const first = send();
  const giveUp = new AbortController();
  const second = put({ key: 'part', body: { size: 3, chunks: readAnew }, signal: giveUp.signal });
  giveUp.abort();
  await expect(second).rejects.toMatchObject({ uncertain: false });
  answer();
  expect(await first).toMatchObject({ etag: 'tag' });
  expect(await send()).toMatchObject({ etag: 'tag' });
  expect(attempts).toBe(2);
});
