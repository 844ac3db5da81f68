import { once } from 'node:events';
import { connect } from 'node:net';
import { deriveKeys } from '../server/auth/keys.js';
import { signToken } from '../server/auth/tokens.js';
import { registerUser, type TestUser, useAccount } from './support/client.js';
import { type EventStream, openEvents } from './support/event-stream.js';
import { type Processes, startProcesses } from './support/processes.js';
import { formRequest } from './support/raw-http.js';
import { newSession, postAuth, problemOf, send } from './support/sign-in.js';
import { until } from './support/until.js';

/* A stream of live events lasts as long as the right to it, and one user cannot open any number of them. */

const SECRET = 'a secret of this test, long enough for a key';
const MAX = 20;

let processes: Processes;
let admin: TestUser;
let user: TestUser;
const opened: EventStream[] = [];

beforeAll(async () => {
  processes = await startProcesses({ JWT_SECRET: SECRET }, ['server', 'server-2']);
  admin = await registerUser(() => processes.url);
  user = await registerUser(() => processes.url);
});
afterEach(() => {
  for (const stream of opened.splice(0)) stream.close();
});
afterAll(() => processes?.close());

async function open(...args: Parameters<typeof openEvents>): Promise<EventStream> {
  const stream = await openEvents(...args);
  opened.push(stream);
  return stream;
}

const ended = (stream: EventStream) => until('the end of the stream', () => stream.end);

/** A caller without any header. */
const nobody = { fetch: (path: string, init?: RequestInit) => fetch(`${processes.url}${path}`, init) };

async function linkOf(as: TestUser): Promise<{ url: string; expiresAt: string }> {
  const answer = await as.fetch('/api/events/link', { method: 'POST' });
  expect([answer.status, answer.headers.get('Cache-Control')]).toEqual([200, 'no-store']);
  return answer.json();
}

/** The query of a link, with which openEvents() calls /api/events. */
async function queryOf(as: TestUser): Promise<string> {
  return (await linkOf(as)).url.replace('/api/events', '');
}

async function newKey(scopes: string[], expiresAt?: Date): Promise<{ id: string; as: TestUser }> {
  const { id, key } = await (await send(user, 'POST', '/api/keys', { name: 'a', scopes, expiresAt })).json();
  return { id, as: useAccount(user, key, () => processes.url) };
}

test('the session: signing out ends its streams, and no others', async () => {
  const [one, two] = [
    await newSession(() => processes.url, user.email),
    await newSession(() => processes.url, user.email),
  ];
  const [mine, byLink, others] = [
    await open(one.as),
    await open(nobody, await queryOf(one.as)),
    await open(two.as),
  ];
  // On another server than the stream.
  await postAuth(processes.urlOf('server-2'), 'logout', { refreshToken: one.refreshToken });
  expect(await Promise.all([mine, byLink].map(ended))).toEqual(['ended', 'ended']);
  await user.create(1);
  await others.heard('upload.created');
  expect(others.end).toBeUndefined();

  // Nothing opens a new one.
  const late = await one.as.fetch('/api/events/link', { method: 'POST' });
  const { url } = await late.json();
  for (const answer of [await one.as.fetch('/api/events'), await nobody.fetch(url)]) {
    expect(await problemOf(answer)).toEqual([401, 'unauthenticated']);
  }
});

test('the key: revoking it ends its streams', async () => {
  const { id, as } = await newKey(['read']);
  const [byKey, byLink, others] = [await open(as), await open(nobody, await queryOf(as)), await open(user)];
  expect((await user.fetch(`/api/keys/${id}`, { method: 'DELETE' })).status).toBe(204);
  expect(await Promise.all([byKey, byLink].map(ended))).toEqual(['ended', 'ended']);
  expect(others.end).toBeUndefined();
});

test('the account: disabling it ends its streams', async () => {
  const other = await registerUser(() => processes.url);
  const [stream, byLink] = [await open(other), await open(nobody, await queryOf(other))];
  await send(admin, 'PATCH', `/api/admin/users/${other.id}`, { disabled: true });
  expect(await Promise.all([stream, byLink].map(ended))).toEqual(['ended', 'ended']);
});

test('the time: a stream ends when its token or its key expires, and a link does not outlive its key', async () => {
  const openFor = async (seconds: number) => {
    const short = signToken({ userId: user.id, role: 'user' }, deriveKeys(SECRET).access, seconds / 60);
    const expiresAt = new Date(Date.now() + 1000 * seconds);
    const { as } = await newKey(['read'], expiresAt);
    const link = await linkOf(as);
    expect(new Date(link.expiresAt).getTime()).toBeLessThanOrEqual(expiresAt.getTime());
    return [
      await open(useAccount(user, short, () => processes.url)),
      await open(as),
      await open(nobody, link.url.replace('/api/events', '')),
    ];
  };
  let streams: EventStream[] = [];
  // On a busy machine they may expire before they are open: then they are given more time.
  for (const seconds of [3, 30]) {
    streams = await openFor(seconds);
    if (streams.every(({ answer }) => answer.ok)) break;
  }
  expect(streams.map(({ answer }) => answer.status)).toEqual([200, 200, 200]);
  expect(await Promise.all(streams.map(ended))).toEqual(['ended', 'ended', 'ended']);
});

test('a link opens live events of its user, with filters, and nothing else', async () => {
  const { url, expiresAt } = await linkOf(user);
  expect(url).toMatch(/^\/api\/events\?token=/);
  expect(url).not.toContain(user.token);
  const minutes = (new Date(expiresAt).getTime() - Date.now()) / 60_000;
  expect(minutes).toBeGreaterThan(14);
  expect(minutes).toBeLessThanOrEqual(30);
  const query = url.replace('/api/events', '');
  const [all, none] = [await open(nobody, query), await open(nobody, `${query}&type=file.failed`)];
  const path = await user.create(1);
  await admin.create(1);
  await all.heard('upload.created', path.replace('/uploads/', ''));
  expect([all.events.length, none.events.length]).toEqual([1, 0]);
  for (const other of ['/api/files', '/api/me', '/api/events/link']) {
    expect((await nobody.fetch(`${other}${query}`)).status).not.toBe(200);
  }
  const another = await queryOf(admin);
  // The user of one link with the signature of another.
  const [expiry, , signature] = query.split('.');
  const [, caller] = another.split('.');
  expect((await nobody.fetch(`/api/events${expiry}.${caller}.${signature}`)).status).toBe(401);
});

test('a user has at most twenty streams on one server', async () => {
  const other = await registerUser(() => processes.url);
  // Clients that leave at once leave no streams behind.
  const { hostname, port } = new URL(processes.url);
  for (let visit = 0; visit < 2 * MAX; visit++) {
    const socket = connect(Number(port), hostname);
    socket.write(formRequest('GET', '/api/events', { Authorization: `Bearer ${other.token}` }));
    await once(socket, 'connect');
    if (visit % 2 === 0) await once(socket, 'data');
    socket.destroy();
  }
  const streams: EventStream[] = [];
  await until('room for as many as are allowed', async () => {
    while (streams.length < MAX) {
      const stream = await open(other);
      if (stream.answer.status !== 200) return false;
      streams.push(stream);
    }
    return true;
  });
  const refused = await other.fetch('/api/events');
  expect(await problemOf(refused)).toEqual([429, 'rate_limited']);
  expect(Number(refused.headers.get('Retry-After'))).toBeGreaterThan(0);
  // Other users, and other servers, are not concerned.
  expect((await open(user)).answer.status).toBe(200);
  expect((await open(other.at(() => processes.urlOf('server-2')))).answer.status).toBe(200);

  streams[0]?.close();
  await until('room for one', async () => (await open(other)).answer.status === 200);
});
