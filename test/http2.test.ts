import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, rm, stat } from 'node:fs/promises';
import type { IncomingMessage, OutgoingHttpHeaders } from 'node:http';
import { constants, type IncomingHttpHeaders } from 'node:http2';
import { Agent, get, request } from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Browser } from 'playwright-core';
import { findUpload } from './support/aftermath.js';
import { launchBrowser } from './support/browser.js';
import { idOf, registerUser, type TestUser } from './support/client.js';
import { limitUploads, protocolsSeen, recordAnswers } from './support/devtools.js';
import { type Haproxy, startHaproxy } from './support/haproxy.js';
import { type Http2Connection, openHttp2 } from './support/http2-client.js';
import { uploadPathOf } from './support/objects.js';
import { chooseAll, completed, recordFaults, register } from './support/page.js';
import { type Part, type Processes, startProcesses } from './support/processes.js';
import { until } from './support/until.js';

/*
 * HTTP/2 through the proxy that is shipped: haproxy.cfg, two servers and a worker. One connection carries all requests
 * of a client.
 */

const MiB = 1024 ** 2;
const GiB = 1024 ** 3;
const OCTETS = { 'content-type': 'application/offset+octet-stream' };

const METRICS_TOKEN = 'a-token-of-the-test-suite';

let proxy: Haproxy;
let processes: Processes;
let user: TestUser;
let connection: Http2Connection;
let browser: Browser;
let folder: string;

beforeAll(async () => {
  const limits = ['UPLOADS', 'STATUS', 'GLOBAL'].map((bucket) => [`RATE_LIMIT_${bucket}`, '0']);
  [proxy, processes, browser, folder] = await Promise.all([
    startHaproxy(2),
    startProcesses({ ...Object.fromEntries(limits), MAX_UPLOAD_SIZE: '6GiB', METRICS_TOKEN }, ['worker']),
    launchBrowser(),
    mkdtemp(join(tmpdir(), 'landfall-http2-')),
  ]);
  await processes.start('server', proxy.servers[0]);
  await processes.start('server-2', proxy.servers[1]);
  user = await registerUser(() => processes.url);
  await connect();
  await until('the proxy to find a server', async () => {
    return (await connection.send('GET', '/health/ready')).status === 200;
  });
  connection.session.destroy();
});

async function connect(): Promise<void> {
  connection = await openHttp2(proxy.url, proxy.certificate, user);
}

// Each test has a connection of its own: the proxy closes one that was idle for a minute.
beforeEach(connect);
afterEach(() => connection?.session.destroy());

afterAll(async () => {
  await browser?.close();
  await proxy?.stop();
  await processes?.close();
  if (folder) await rm(folder, { recursive: true, force: true });
});

test('the proxy passes no metrics on, not even with the token', async () => {
  const authorization = `Bearer ${METRICS_TOKEN}`;
  expect((await fetch(`${processes.url}/metrics`, { headers: { authorization } })).status).toBe(200);
  for (const path of ['/metrics', '/METRICS', '/metrics/', '/metrics?a=b', '//metrics']) {
    expect([path, (await connection.send('GET', path, { authorization })).status]).toEqual([path, 404]);
  }
});

async function create(length: number): Promise<string> {
  const { status, headers } = await connection.send('POST', '/uploads', { 'upload-length': length });
  if (status !== 201) throw new Error(`create: ${status}`);
  return new URL(headers.location ?? '').pathname;
}

const patch = (path: string, offset: number) =>
  connection.request('PATCH', path, { ...OCTETS, 'upload-offset': offset });

/** As tus clients do, it asks again after 423. */
async function offsetOf(path: string): Promise<number> {
  const answer = await until(`HEAD ${path} to be answered`, async () => {
    const answer = await connection.send('HEAD', path);
    return answer.status !== 423 && answer;
  });
  expect(answer.status).toBe(200);
  return Number(answer.headers['upload-offset']);
}

/** Waits until a server has stored so many bytes of an upload. */
async function stored(path: string, bytes: number): Promise<void> {
  await until(`${bytes} bytes of ${path}`, async () => {
    const file = await stat(await uploadPathOf(processes, idOf(path))).catch(() => undefined);
    return file && file.size >= bytes;
  });
}

const holderOf = async (path: string): Promise<Part | null> =>
  (await findUpload(processes, idOf(path))).lease_holder;

test('the proxy speaks HTTP/2 and HTTP/1.1 over TLS, and answers say https', async () => {
  expect(connection.session.alpnProtocol).toBe('h2');
  const created = await connection.send('POST', '/uploads', { 'upload-length': 1 });
  expect(created.headers.location).toMatch(`${proxy.url}/uploads/`);
  expect(created.headers['strict-transport-security']).toBeDefined();

  const [old] = (await once(get(`${proxy.url}/health/live`, { ca: proxy.certificate }), 'response')) as [
    IncomingMessage,
  ];
  old.resume();
  expect([old.httpVersion, old.statusCode]).toEqual(['1.1', 200]);
});

test('plain HTTP is sent to TLS, with method and query', async () => {
  const answer = await fetch(`${proxy.plainUrl}/uploads?a=b`, { method: 'POST', redirect: 'manual' });
  expect([answer.status, answer.headers.get('Location')]).toEqual([308, `${proxy.url}/uploads?a=b`]);
});

test('a refusal arrives while its body is being sent, and other uploads on the connection go on', async () => {
  const content = randomBytes(8 * MiB);
  const path = await create(content.length);
  const upload = patch(path, 0);
  upload.stream.write(content.subarray(0, MiB));
  const sized = { ...OCTETS, 'content-length': 5 * GiB };
  const large = await create(5 * GiB);
  const refused: [number, string, string, Record<string, string | number>][] = [
    [401, 'PATCH', large, { ...sized, 'upload-offset': 0, authorization: 'Bearer nonsense' }],
    [404, 'PATCH', large.replace(/.$/, 'g'), { ...sized, 'upload-offset': 0 }],
    [409, 'PATCH', large, { ...sized, 'upload-offset': 7 }],
    [413, 'PATCH', await create(10), { ...sized, 'upload-offset': 0 }],
    // Without a length the server notices in the middle.
    [413, 'PATCH', await create(MiB), { ...OCTETS, 'upload-offset': 0 }],
    [413, 'POST', '/uploads', { ...sized, 'upload-length': 7 * GiB }],
  ];
  const answers = refused.map(async ([, method, target, headers]) => {
    const request = connection.request(method, target, headers);
    void request.pour(5 * GiB);
    return (await request.answer).status;
  });
  expect(await Promise.all(answers)).toEqual(refused.map(([status]) => status));

  upload.stream.end(content.subarray(MiB));
  expect((await upload.answer).status).toBe(204);
  expect(connection.session.closed).toBe(false);
});

test('a request that its client cancels keeps its bytes, and the connection stays', async () => {
  const content = randomBytes(12 * MiB);
  const path = await create(content.length);
  const cancelled = patch(path, 0);
  cancelled.stream.write(content.subarray(0, 8 * MiB));
  await stored(path, MiB);
  cancelled.stream.close(constants.NGHTTP2_CANCEL);
  await expect(cancelled.answer).rejects.toThrow();
  // HEAD waits until the lease is free.
  const offset = await offsetOf(path);
  expect(offset).toBeGreaterThanOrEqual(MiB);
  const rest = patch(path, offset);
  rest.stream.end(content.subarray(offset));
  expect((await rest.answer).status).toBe(204);
  expect(connection.session.closed).toBe(false);
});

test('hundreds of slow uploads on three connections keep no other upload waiting', async () => {
  const connections = await Promise.all(
    Array.from({ length: 3 }, () => openHttp2(proxy.url, proxy.certificate, user)),
  );
  const slow = connections.flatMap(({ request }) =>
    Array.from({ length: 70 }, () => request('POST', '/uploads', { ...OCTETS, 'upload-length': 4 })),
  );
  for (const { stream } of slow) stream.write('a');
  await until('the slow uploads to be under way', async () => {
    const { rows } = await processes.database.query('SELECT FROM uploads WHERE lease_holder IS NOT NULL');
    return rows.length === slow.length;
  });
  for (const { stream } of slow) stream.write('b');
  const quick = await Promise.all(
    connections.map(({ send }) =>
      send('POST', '/uploads', { ...OCTETS, 'upload-length': MiB }, randomBytes(MiB)),
    ),
  );
  expect(quick.map(({ headers }) => headers['upload-offset'])).toEqual(quick.map(() => String(MiB)));
  for (const { stream } of slow) stream.end('c');
  for (const { answer } of slow) {
    const { status, headers } = await answer;
    expect([status, headers['upload-offset']]).toEqual([201, '3']);
  }
  for (const { session } of connections) session.close();
});

test('live events come through the proxy one by one, over HTTP/2 and HTTP/1.1', async () => {
  const texts = ['', ''];
  const hear = (source: NodeJS.ReadableStream, index: number) =>
    source.setEncoding('utf8').on('data', (chunk) => {
      texts[index] += chunk;
    });
  const { stream } = connection.request('GET', '/api/events');
  hear(stream.end(), 0);
  const headers = { authorization: `Bearer ${user.token}` };
  const request = get(`${proxy.url}/api/events`, { ca: proxy.certificate, headers });
  request.once('response', (answer) => hear(answer, 1));
  const told = (what: string) => until(what, () => texts.every((text) => text.includes(what)));
  await told('id: ');
  for (let n = 0; n < 3; n++) {
    const id = idOf(await create(10));
    await told(`"subjectId":"${id}"`);
  }
  stream.close(constants.NGHTTP2_CANCEL);
  request.destroy();
});

test('when a server stops, its uploads go on at the other one over the same connection', async () => {
  const content = randomBytes(4 * MiB);
  const paths = await Promise.all(Array.from({ length: 6 }, () => create(content.length)));
  const uploads = paths.map((path) => ({ path, half: patch(path, 0) }));
  for (const { half } of uploads) half.stream.write(content.subarray(0, 2 * MiB));
  for (const { path } of uploads) await stored(path, MiB);
  const holders = new Map(
    await Promise.all(paths.map(async (path) => [path, await holderOf(path)] as const)),
  );
  const stopping = holders.get(paths[0] as string) as Part;
  const isCut = ({ path }: { path: string }) => holders.get(path) === stopping;

  const stopped = processes.stop(stopping);
  for (const upload of uploads) {
    if (!isCut(upload)) upload.half.stream.end(content.subarray(2 * MiB));
    const { status, headers } = await upload.half.answer;
    expect(status).toBe(204);
    const reached = Number(headers['upload-offset']);
    expect(reached).toBeGreaterThanOrEqual(isCut(upload) ? MiB : content.length);
  }
  expect(await stopped).toBe(0);
  for (const { path, half } of uploads.filter(isCut)) {
    const offset = await offsetOf(path);
    expect(String(offset)).toBe((await half.answer).headers['upload-offset']);
    const rest = patch(path, offset);
    rest.stream.end(content.subarray(offset));
    expect((await rest.answer).status).toBe(204);
  }
  expect(connection.session.closed).toBe(false);
  await processes.start(stopping, proxy.servers[stopping === 'server' ? 0 : 1]);
});

const RESUMABLE = { 'tus-resumable': undefined, 'upload-draft-interop-version': '8' };

test('an upload of the IETF draft is told its address, is cut off by a newer request, and goes on', async () => {
  const content = randomBytes(2 * MiB);
  const creation = connection.request('POST', '/api/files', { ...RESUMABLE, 'upload-complete': '?1' });
  const [interim] = (await once(creation.stream, 'headers')) as [IncomingHttpHeaders & { ':status': number }];
  expect(interim[':status']).toBe(104);
  const path = new URL(String(interim.location)).pathname;
  creation.stream.write(content.subarray(0, MiB));

  const asked = await connection.send('HEAD', path, RESUMABLE);
  expect(asked).toMatchObject({ status: 204, headers: { 'upload-complete': '?0' } });
  await expect(creation.answer).rejects.toThrow(/ended with/);
  const offset = Number(asked.headers['upload-offset']);
  const rest = {
    ...RESUMABLE,
    'content-type': 'application/partial-upload',
    'upload-offset': offset,
    'upload-complete': '?1',
  };
  const last = await connection.send('PATCH', path, rest, content.subarray(offset));
  expect(last).toMatchObject({ status: 201, headers: { 'upload-complete': '?1' } });
  expect(connection.session.closed).toBe(false);
});

test('over HTTP/1.1 the first request of a connection ends in 502 when it is cut off, and a later one without an answer', async () => {
  const agent = new Agent({ ca: proxy.certificate, keepAlive: true, maxSockets: 1 });
  const send = (method: string, path: string, headers: OutgoingHttpHeaders = {}) =>
    request(proxy.url + path, {
      method,
      agent,
      headers: { authorization: `Bearer ${user.token}`, 'upload-draft-interop-version': '8', ...headers },
    });
  /** Creates an upload that a newer request cuts off. */
  const cutOff = async () => {
    const creation = send('POST', '/uploads', { 'upload-complete': '?1', 'content-length': MiB });
    const outcome = once(creation, 'response').then(
      ([answer]: IncomingMessage[]) => answer?.resume().statusCode,
      (error: NodeJS.ErrnoException) => error.code,
    );
    creation.flushHeaders();
    const [{ headers }] = (await once(creation, 'information')) as [IncomingMessage];
    await connection.send('HEAD', new URL(headers.location ?? '').pathname, RESUMABLE);
    const seen = await outcome;
    creation.destroy();
    return seen;
  };
  expect(await cutOff()).toBe(502);
  const [answer] = (await once(send('GET', '/health/live').end(), 'response')) as [IncomingMessage];
  await once(answer.resume(), 'end');
  expect(await cutOff()).toBe('ECONNRESET');
  agent.destroy();
});

test('without a server, a HEAD of tus is answered with 423, and one of the IETF draft with 503', async () => {
  const path = await create(1);
  await Promise.all([processes.stop('server'), processes.stop('server-2')]);
  try {
    const heads = [{}, RESUMABLE, { 'tus-resumable': undefined }].map((headers) =>
      connection.send('HEAD', path, headers),
    );
    expect((await Promise.all(heads)).map(({ status }) => status)).toEqual([423, 503, 503]);
  } finally {
    await Promise.all([
      processes.start('server', proxy.servers[0]),
      processes.start('server-2', proxy.servers[1]),
    ]);
  }
  await until('the proxy to find a server', async () => (await connection.send('HEAD', path)).status === 200);
});

test('a browser sends three files at once over one connection, and they outlive a killed server', async () => {
  const context = await browser.newContext({ ignoreHTTPSErrors: true });
  const page = await context.newPage();
  const faults = recordFaults(page);
  const devtools = await context.newCDPSession(page);
  const answered = await recordAnswers(devtools);
  await register(page, proxy.url);
  const names = ['one.bin', 'two.bin', 'three.bin'];
  const files = names.map((name): [string, Buffer] => [name, randomBytes(8 * MiB)]);
  await limitUploads(devtools, 2 * MiB);
  await chooseAll(page, folder, files);
  const holders = await until('three uploads to be under way', async () => {
    const { rows } = await processes.database.query(
      'SELECT lease_holder FROM uploads WHERE lease_holder IS NOT NULL AND length = $1',
      [8 * MiB],
    );
    return rows.length === names.length && rows.map((row): Part => row.lease_holder);
  });
  await processes.kill(holders[0] as Part);
  await limitUploads(devtools, -1);
  for (const name of names) await completed(page, name);

  // None had to begin anew.
  expect(answered.filter(({ method }) => method === 'POST')).toHaveLength(names.length);
  expect(new Set(answered.map(({ connection }) => connection)).size).toBe(1);
  expect(await protocolsSeen(page)).toEqual(['h2']);
  expect(faults).toEqual([]);
  await context.close();
});
