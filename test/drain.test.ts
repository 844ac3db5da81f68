import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import { findFile, findUpload } from './support/aftermath.js';
import { closeBarrier } from './support/barrier.js';
import { idOf, registerUser, type TestUser } from './support/client.js';
import { sendHalf, whenRead } from './support/half-open.js';
import { type Part, type Processes, startProcesses } from './support/processes.js';
import { until } from './support/until.js';

let processes: Processes;
let first: TestUser;
let second: TestUser;

beforeAll(async () => {
  processes = await startProcesses({}, ['server', 'server-2']);
  first = await registerUser(() => processes.url);
  second = first.at(() => processes.urlOf('server-2'));
});
beforeEach(async () => {
  // The test before may have stopped this server.
  if (await fetch(`${processes.url}/health/live`).catch(() => undefined)) return;
  await processes.start('server');
});
afterAll(() => processes?.close());

async function whenHeld(id: string, holder = 'server'): Promise<void> {
  await until(`${holder} to hold the lease`, async () => {
    return (await findUpload(processes, id)).lease_holder === holder;
  });
}

test('a server that stops begins nothing new and lets its uploads go on at another at once', async () => {
  const content = randomBytes(300_000);
  const [path, other] = [await first.create(content.length), await first.create(10)];
  const sent = content.subarray(0, 200_000);
  const half = sendHalf(processes.url, first, path, { offset: 0, length: content.length, sent });
  const parked = once(half, 'response') as Promise<[IncomingMessage]>;
  await whenHeld(idOf(path));
  await whenRead(half);

  const stopped = processes.stop('server');
  await until('the server not to be ready', async () => {
    return (await first.fetch('/health/ready')).status === 503;
  });
  // Send all requests at once, because the server listens only a short while longer.
  const [live, files, head, ...refused] = await Promise.all([
    first.fetch('/health/live'),
    first.fetch('/api/files'),
    first.tus('HEAD', other),
    first.tus('PATCH', other, { 'Upload-Offset': '0' }, 'abc'),
    first.tus('POST', '/uploads', { 'Upload-Length': '10' }),
    first.fetch(`/api/files/${idOf(other)}`, { method: 'DELETE' }),
  ]);
  expect([live.status, files.status]).toEqual([200, 200]);
  expect([head.status, head.headers.get('Upload-Offset')]).toEqual([200, '0']);
  for (const answer of refused) {
    expect([answer.status, (await answer.json()).code]).toEqual([503, 'unavailable']);
    expect(Number(answer.headers.get('Retry-After'))).toBeGreaterThan(0);
    expect(answer.headers.get('Connection')).toBe('close');
  }
  expect(refused[0]?.headers.get('Tus-Resumable')).toBe('1.0.0');

  const [answer] = await parked;
  expect([answer.statusCode, answer.headers['upload-offset']]).toEqual([204, String(sent.length)]);
  expect(await stopped).toBe(0);
  expect(await findUpload(processes, idOf(path))).toMatchObject({
    offset: sent.length,
    lease_holder: null,
    untidy: false,
  });

  // The lease is free, so the other server does not have to wait.
  const resumed = await second.tus('HEAD', path);
  expect(resumed.headers.get('Upload-Offset')).toBe(String(sent.length));
  const rest = content.subarray(sent.length) as BodyInit;
  const patched = await second.tus('PATCH', path, { 'Upload-Offset': String(sent.length) }, rest);
  expect(patched.status).toBe(204);
});

test('a server that stops still finishes an upload that has all its bytes, without its client', async () => {
  const content = randomBytes(1000);
  const path = await first.create(content.length);
  const id = idOf(path);
  const barrier = await closeBarrier(processes.database, 'INSERT ON files', `NEW.id = '${id}'`);
  const answer = first.tus('PATCH', path, { 'Upload-Offset': '0' }, content as BodyInit).catch(() => 'none');
  await barrier.reached();
  const stopped = processes.stop('server');
  expect(await answer).toBe('none');
  await barrier.open();
  expect(await stopped).toBe(0);
  expect(await findUpload(processes, id)).toMatchObject({ status: 'finished' });
  expect(await findFile(processes, id)).toMatchObject({ status: 'pending' });
});

test('an idle server stops sooner than one that has an upload under way', async () => {
  const path = await second.create(10);
  const url = processes.urlOf('server-2');
  const half = sendHalf(url, second, path, { offset: 0, length: 10, sent: Buffer.from('abc') });
  await whenHeld(idOf(path), 'server-2');
  // The idle server has a connection that waits for its next request.
  expect((await first.get('/api/files')).items).toBeDefined();

  const ended: string[] = [];
  const stop = async (part: Part) => {
    const code = await processes.stop(part);
    ended.push(part);
    return code;
  };
  expect(await Promise.all([stop('server-2'), stop('server')])).toEqual([0, 0]);
  expect(ended).toEqual(['server', 'server-2']);
  half.destroy();
});
