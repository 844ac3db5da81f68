import { Webhook } from 'standardwebhooks';
import { registerUser, type TestUser, useAccount } from './support/client.js';
import { type Processes, startProcesses } from './support/processes.js';
import { type Received, type Receiver, startReceiver } from './support/receiver.js';
import { send } from './support/sign-in.js';
import { until } from './support/until.js';

/* Webhooks as their owners see them: with real server and worker. */

let processes: Processes;
let admin: TestUser;
let user: TestUser;
let other: TestUser;
const receivers: Receiver[] = [];

beforeAll(async () => {
  processes = await startProcesses({
    WEBHOOK_ALLOW_PRIVATE: 'true',
    WEBHOOK_RETRY_SECONDS: '1,1',
    RATE_LIMIT_PROCESSING: '0',
  });
  admin = await registerUser(() => processes.url);
  user = await registerUser(() => processes.url);
  other = await registerUser(() => processes.url);
});
afterAll(async () => {
  await processes?.close();
  await Promise.all(receivers.map((receiver) => receiver.close()));
});

async function receive(...args: Parameters<typeof startReceiver>): Promise<Receiver> {
  const receiver = await startReceiver(...args);
  receivers.push(receiver);
  return receiver;
}

interface Made {
  id: string;
  secret: string;
}

async function subscribe(url: string, as = user, more: object = {}): Promise<Made> {
  const answer = await send(as, 'POST', '/api/webhooks', { url, events: ['file.*'], ...more });
  expect(answer.status).toBe(201);
  return answer.json();
}

const act = (id: string, action: string, body: object = {}, as = user) =>
  send(as, 'POST', `/api/webhooks/${id}/${action}`, body);

const change = (id: string, body: object, as = user) => send(as, 'PATCH', `/api/webhooks/${id}`, body);

const remove = (id: string, as = user) => as.fetch(`/api/webhooks/${id}`, { method: 'DELETE' });

const typesOf = (received: Received[]) => received.map(({ body }) => body.type);

const idsOf = (received: Received[]) => received.map(({ headers }) => headers['webhook-id']);

const newFile = (as = user) => as.upload(Buffer.from('a file'), { filename: 'a.txt' });

function verify({ secret }: { secret: string }, { text, headers }: Received): unknown {
  return new Webhook(secret).verify(text, headers as Record<string, string>);
}

/** Waits until nothing is to be delivered to a webhook, of at least `count` deliveries. */
async function delivered(id: string, count: number, as = user) {
  return until(`${count} deliveries`, async () => {
    const { items } = await as.get(`/api/webhooks/${id}/deliveries?limit=200`);
    return (
      items.length >= count && items.every(({ state }: { state: string }) => state !== 'pending') && items
    );
  });
}

test('an upload is told from its beginning to its end, in order and signed', async () => {
  const receiver = await receive();
  const hook = await subscribe(receiver.url, user, {
    events: ['upload.*', 'file.created', 'file.completed'],
  });
  expect(hook.secret).toMatch(/^whsec_[\w+/]{43}=$/);
  const id = await newFile();
  await newFile(other);
  await until('the last message', () => receiver.received.some(({ body }) => body.type === 'file.completed'));
  await delivered(hook.id, 3);
  expect(typesOf(receiver.received)).toEqual(['upload.created', 'file.created', 'file.completed']);
  for (const got of receiver.received) expect(verify(hook, got)).toMatchObject({ data: { subjectId: id } });
  const { items } = await user.get(`/api/files/${id}/events`);
  const told = receiver.received.at(-1)?.body;
  expect(items.at(-1)).toMatchObject({ seq: told.data.seq, createdAt: told.timestamp });
});

test('the secret is shown once, and nothing tells it later', async () => {
  const hook = await subscribe('https://receiver.example/x');
  const answers = [await user.get('/api/webhooks'), await user.get(`/api/webhooks/${hook.id}`)];
  expect(JSON.stringify(answers)).not.toContain('whsec_');
  const { rows } = await processes.database.query('SELECT * FROM subscriptions WHERE id = $1', [hook.id]);
  expect(rows[0].secret.toString('latin1')).not.toContain(hook.secret);
  await remove(hook.id);
});

test('for a day after a rotation both secrets verify, and only the new one after that', async () => {
  const receiver = await receive();
  const old = await subscribe(receiver.url);
  const rotated: Made = await (await act(old.id, 'rotate-secret')).json();
  expect(rotated).toMatchObject({ id: old.id, previousSecretUntil: expect.any(String) });
  expect((await act(old.id, 'test')).status).toBe(202);
  await delivered(old.id, 1);
  const [both] = receiver.received as [Received];
  for (const { secret } of [old, rotated])
    expect(verify({ secret }, both)).toMatchObject({ type: 'webhook.test' });
  await processes.database.query('UPDATE subscriptions SET previous_until = now() WHERE id = $1', [old.id]);
  await act(old.id, 'test');
  await delivered(old.id, 2);
  const last = receiver.received.at(-1) as Received;
  expect(verify(rotated, last)).toMatchObject({ type: 'webhook.test' });
  expect(() => verify(old, last)).toThrow();
  expect((await user.get(`/api/webhooks/${old.id}`)).previousSecretUntil).toBeNull();
});

test('a test reaches this webhook only', async () => {
  const [one, another] = [await receive(), await receive()];
  const tested = await subscribe(one.url, user, { events: ['file.infected'] });
  await subscribe(another.url);
  await act(tested.id, 'test');
  await delivered(tested.id, 1);
  expect(one.received[0]?.body).toMatchObject({ type: 'webhook.test', data: { subjectId: tested.id } });
  expect(another.received).toEqual([]);
});

test('a delivery is sent again on demand, and all of them from a time on, under the same ids', async () => {
  const receiver = await receive();
  const from = new Date().toISOString();
  const hook = await subscribe(receiver.url, user, { events: ['file.created', 'file.completed'] });
  const files = [await newFile(), await newFile()];
  await Promise.all(files.map((id) => user.settled(id)));
  const [latest] = await delivered(hook.id, 4);
  const first = idsOf(receiver.received);
  const again = await send(user, 'POST', `/api/webhooks/deliveries/${latest.id}/redeliver`, {});
  expect([again.status, (await again.json()).state]).toEqual([202, 'pending']);
  await until('the repetition', () => receiver.received.length === 5);
  expect(idsOf(receiver.received)[4]).toBe(latest.id);
  await delivered(hook.id, 4);
  // A delivery that is forgotten is made anew.
  await processes.database.query('DELETE FROM deliveries WHERE id = $1', [latest.id]);
  expect((await act(hook.id, 'replay', { from })).status).toBe(202);
  await until('the replay', () => receiver.received.length === 9);
  expect(idsOf(receiver.received).slice(5).sort()).toEqual(first.sort());
  await until('its end', async () => !(await user.get(`/api/webhooks/${hook.id}`)).replaying);
  for (const id of files) {
    const told = receiver.received.slice(5).filter(({ body }) => body.data.subjectId === id);
    expect(typesOf(told)).toEqual(['file.created', 'file.completed']);
  }
  // Nothing happened after that time.
  await delivered(hook.id, 4);
  await act(hook.id, 'replay', { from: new Date().toISOString() });
  await until('its end', async () => !(await user.get(`/api/webhooks/${hook.id}`)).replaying);
  expect(receiver.received).toHaveLength(9);
});

test('a webhook that fails for long is disabled, with an event, and goes on when it is enabled', async () => {
  const receiver = await receive((res) => res.writeHead(500).end('no'));
  const watcher = await receive();
  await subscribe(watcher.url, user, { events: ['webhook.disabled'] });
  const hook = await subscribe(receiver.url, user, { events: ['file.created'] });
  await newFile();
  const disabled = await until('it to be disabled', async () => {
    const shown = await user.get(`/api/webhooks/${hook.id}`);
    return !shown.enabled && shown;
  });
  expect(disabled).toMatchObject({ disabledReason: 'failing', lastSuccessAt: null });
  const [failed] = await delivered(hook.id, 1);
  expect(failed).toMatchObject({
    state: 'failed',
    attempts: 3,
    status: 500,
    answer: 'no',
    nextAttemptAt: null,
  });
  expect(new Set(idsOf(receiver.received)).size).toBe(1);
  await until('the event', () => watcher.received.length === 1);
  expect(watcher.received[0]?.body).toMatchObject({
    type: 'webhook.disabled',
    data: { subjectId: hook.id, reason: 'failing' },
  });
  for (const action of ['test', 'replay']) {
    expect((await act(hook.id, action, { from: new Date().toISOString() })).status).toBe(409);
  }
  expect((await send(user, 'POST', `/api/webhooks/deliveries/${failed.id}/redeliver`, {})).status).toBe(409);
  receiver.answer = (res) => res.end();
  expect(await (await change(hook.id, { enabled: true })).json()).toMatchObject({
    enabled: true,
    disabledReason: null,
  });
  expect((await send(user, 'POST', `/api/webhooks/deliveries/${failed.id}/redeliver`, {})).status).toBe(202);
  await until('the repetition', async () => (await delivered(hook.id, 1))[0].state === 'delivered');
});

test('what a webhook is owed when it is disabled waits until it is enabled', async () => {
  const receiver = await receive((res) => res.writeHead(500).end());
  const hook = await subscribe(receiver.url, user, { events: ['file.created'] });
  const owed = await newFile();
  await until('an attempt', () => receiver.received.length > 0);
  await change(hook.id, { enabled: false });
  // Events are handed out some time after they happened. What another webhook has been told, this one has missed.
  const watcher = await receive();
  await subscribe(watcher.url, user, { events: ['file.created'] });
  const missed = await newFile();
  await until('the event to be handed out', () =>
    watcher.received.some(({ body }) => body.data.subjectId === missed),
  );
  receiver.answer = (res) => res.end();
  receiver.received.length = 0;
  await change(hook.id, { enabled: true });
  const later = await newFile();
  await delivered(hook.id, 2);
  expect(new Set(receiver.received.map(({ body }) => body.data.subjectId))).toEqual(new Set([owed, later]));
});

test('a receiver that answers 410 is asked no more', async () => {
  const receiver = await receive((res) => res.writeHead(410).end());
  const hook = await subscribe(receiver.url, user, { events: ['file.created'] });
  await newFile();
  await until('it to be disabled', async () => {
    return (await user.get(`/api/webhooks/${hook.id}`)).disabledReason === 'gone';
  });
  expect(receiver.received).toHaveLength(1);
});

test('an admin may ask for the events of all, and a former admin gets none', async () => {
  const receiver = await receive();
  const hook = await subscribe(receiver.url, admin, { events: ['file.created'], scope: 'all' });
  const second = await registerUser(() => processes.url);
  const id = await newFile(second);
  await delivered(hook.id, 1, admin);
  expect(receiver.received[0]?.body.data).toMatchObject({ subjectId: id, ownerId: second.id });
  const key = await (await send(admin, 'POST', '/api/keys', { name: 'k', scopes: ['manage'] })).json();
  const byKey = useAccount(admin, key.key, () => processes.url);
  expect((await byKey.get('/api/webhooks')).items).toEqual([]);
  expect((await change(hook.id, { url: 'https://evil.example/' }, byKey)).status).toBe(404);
  for (const as of [second, byKey]) {
    const made = { url: receiver.url, events: ['file.*'], scope: 'all' };
    expect((await send(as, 'POST', '/api/webhooks', made)).status).toBe(403);
  }
  await processes.database.query(`UPDATE users SET role = 'user' WHERE id = $1`, [admin.id]);
  const own = await receive();
  const watch = await subscribe(own.url, second, { events: ['file.created'] });
  await newFile(second);
  await delivered(watch.id, 1, second);
  await processes.database.query(`UPDATE users SET role = 'admin' WHERE id = $1`, [admin.id]);
  expect(receiver.received).toHaveLength(1);
});

test("another user's webhook is not found, whatever is asked", async () => {
  const hook = await subscribe('https://receiver.example/');
  const asked = [
    other.fetch(`/api/webhooks/${hook.id}`),
    other.fetch(`/api/webhooks/${hook.id}/deliveries`),
    change(hook.id, { enabled: false }, other),
    act(hook.id, 'rotate-secret', {}, other),
    act(hook.id, 'replay', { from: new Date().toISOString() }, other),
    act(hook.id, 'test', {}, other),
    remove(hook.id, other),
  ];
  for (const answer of await Promise.all(asked)) expect(answer.status).toBe(404);
  expect((await other.get('/api/webhooks')).items).toEqual([]);
});

test('types that do not exist are refused, with the list of those that do', async () => {
  const made = { url: 'https://receiver.example/', events: ['file.eaten'] };
  const answer = await send(user, 'POST', '/api/webhooks', made);
  expect(answer.status).toBe(400);
  expect((await answer.json()).detail).toMatch(/file\.\*.*file\.completed/);
});

test('a user has a limited number of webhooks, and a deleted one makes room', async () => {
  const full = await registerUser(() => processes.url);
  const made = { url: 'https://receiver.example/', events: ['file.*'] };
  const answers = await Promise.all(
    Array.from({ length: 22 }, () => send(full, 'POST', '/api/webhooks', made)),
  );
  expect(answers.filter(({ status }) => status === 201)).toHaveLength(20);
  expect(answers.filter(({ status }) => status === 409)).toHaveLength(2);
  const { items } = await full.get('/api/webhooks');
  expect((await remove(items[0].id, full)).status).toBe(204);
  expect((await full.fetch(`/api/webhooks/${items[0].id}`)).status).toBe(404);
  await subscribe('https://receiver.example/', full);
});

test('deliveries are listed by pages and by state', async () => {
  const receiver = await receive();
  const hook = await subscribe(receiver.url);
  await user.settled(await newFile());
  const all = await delivered(hook.id, 3);
  const seqs = all.map(({ seq }: { seq: number }) => seq);
  expect(seqs).toEqual(seqs.toSorted((a: number, b: number) => b - a));
  const found: number[] = [];
  let cursor = '';
  do {
    const page = await user.get(`/api/webhooks/${hook.id}/deliveries?limit=2${cursor}`);
    found.push(...page.items.map(({ seq }: { seq: number }) => seq));
    cursor = page.nextCursor && `&cursor=${page.nextCursor}`;
  } while (cursor);
  expect(found).toEqual(seqs);
  const inState = async (state: string) =>
    (await user.get(`/api/webhooks/${hook.id}/deliveries?state=${state}`)).items.length;
  expect([await inState('delivered'), await inState('failed')]).toEqual([all.length, 0]);
});

test('the audit log says who changed a webhook', async () => {
  const hook = await subscribe('https://user-part.example/secret-path');
  await change(hook.id, { url: 'https://b.example/other-path', enabled: true });
  await act(hook.id, 'rotate-secret');
  await act(hook.id, 'test');
  await remove(hook.id);
  const lines = await until('the events', async () => {
    const { items } = await admin.get(`/api/admin/audit?subjectId=${hook.id}`);
    return items.length >= 5 && items;
  });
  expect(lines.map(({ type }: { type: string }) => type).reverse()).toEqual([
    'webhook.created',
    'webhook.changed',
    'webhook.rotated',
    'webhook.test',
    'webhook.deleted',
  ]);
  for (const line of lines) expect(line.actor.userId).toBe(user.id);
  expect(JSON.stringify(lines)).not.toMatch(/-path|whsec_/);
});

test("an admin sees everybody's webhooks with their last results, without secrets, and tests one", async () => {
  const receiver = await receive();
  const { id } = await subscribe(`${receiver.url}/secret-path`, other);
  expect((await send(other, 'POST', `/api/admin/webhooks/${id}/test`, {})).status).toBe(403);
  expect((await send(admin, 'POST', `/api/admin/webhooks/${id}/test`, {})).status).toBe(202);
  const shown = await until('the result', async () => {
    const { items } = await admin.get('/api/admin/webhooks?limit=1');
    return items[0].lastAttempt?.status && items[0];
  });
  expect(shown).toMatchObject({
    id,
    ownerId: other.id,
    host: new URL(receiver.url).host,
    enabled: true,
    pending: 0,
    lastAttempt: { type: 'webhook.test', status: 204, error: null },
  });
  expect(JSON.stringify(shown)).not.toContain('secret');
  expect(typesOf(receiver.received)).toEqual(['webhook.test']);
  const { items, nextCursor } = await admin.get('/api/admin/webhooks?limit=1');
  const next = await admin.get(`/api/admin/webhooks?limit=1&cursor=${nextCursor}`);
  expect(next.items[0].id < items[0].id).toBe(true);
});
