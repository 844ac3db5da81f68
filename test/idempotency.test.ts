import { randomUUID } from 'node:crypto';
import { closeBarrier } from './support/barrier.js';
import { registerUser, type TestUser, useAccount } from './support/client.js';
import { purge } from './support/deletions.js';
import { ageKeys, essence, isReplayed, postKeyed } from './support/keyed.js';
import { runPasses } from './support/passes.js';
import { type Processes, startProcesses } from './support/processes.js';
import { createBucket, type TestBucket } from './support/s3.js';
import { eventsOf, problemOf, send } from './support/sign-in.js';
import { until } from './support/until.js';

/* Idempotency-Key: a request that is repeated with its key is carried out once. Kills are in faults/idempotency.test.ts. */

let bucket: TestBucket;
let processes: Processes;
let admin: TestUser;
let user: TestUser;

beforeAll(async () => {
  bucket = await createBucket();
  processes = await startProcesses(bucket.env, ['server', 'server-2', 'worker']);
  admin = await registerUser(() => processes.url);
  user = await registerUser(() => processes.url);
});

afterAll(async () => {
  await processes?.close();
  await bucket?.drop();
});

/** A file whose processing has ended. */
async function settledFile(who = user): Promise<string> {
  const id = await who.upload(Buffer.from('a file'), { filename: 'a.txt' });
  await who.settled(id);
  return id;
}

/** The same user, who asks another server. */
const elsewhere = (who: TestUser) =>
  useAccount({ id: who.id, email: who.email, role: 'user' }, who.token, () => processes.urlOf('server-2'));

const newKey = () => randomUUID();

async function makeApiKey(scopes: string[]): Promise<TestUser> {
  const { key } = await (await send(user, 'POST', '/api/keys', { name: 'a', scopes })).json();
  return useAccount({ id: user.id, email: user.email, role: 'user' }, key, () => processes.url);
}

/** Sends a request twice, and expects the answer of the first one from another server too. */
async function expectSame(who: TestUser, path: string, body?: object): Promise<Response> {
  const key = newKey();
  const first = await postKeyed(who, key, path, body);
  const copy = first.clone();
  expect(isReplayed(first)).toBe(false);
  const again = await postKeyed(elsewhere(who), key, path, body);
  expect(isReplayed(again)).toBe(true);
  expect(await essence(again)).toEqual(await essence(first));
  return copy;
}

test('each route that takes a key answers a repetition as the first request', async () => {
  const apiKey = await (await expectSame(user, '/api/keys', { name: 'once', scopes: ['read'] })).json();
  const named = (await user.get('/api/keys')).items.filter(({ name }: { name: string }) => name === 'once');
  expect(named).toMatchObject([{ id: apiKey.id }]);

  await expectSame(user, '/api/upload-tokens', { label: 'once' });
  expect((await user.get('/api/upload-tokens')).items).toMatchObject([{ label: 'once' }]);

  await expectSame(admin, '/api/admin/invitations', { email: 'once@example.org' });
  expect((await admin.get('/api/admin/invitations')).items).toMatchObject([{ email: 'once@example.org' }]);

  const { id, parts } = await (await expectSame(user, '/api/uploads/presign', { size: 3 })).json();
  expect((await user.get('/api/uploads')).items).toMatchObject([{ id }]);
  expect((await fetch(parts[0].url, { method: 'PUT', body: 'abc' })).status).toBe(200);
  expect((await expectSame(user, '/api/uploads/complete', { id })).status).toBe(201);
  await user.settled(id);

  expect((await expectSame(user, `/api/files/${id}/process`, { priority: 'high' })).status).toBe(200);
  await user.settled(id);
  expect((await eventsOf(processes.database, id)).filter((type) => type === 'file.pending')).toHaveLength(1);

  expect((await expectSame(user, '/api/files/batch', { ids: [id], action: 'delete' })).status).toBe(200);
  expect((await expectSame(user, `/api/files/${id}/restore`)).status).toBe(200);
  for (const action of ['retry', 'cancel', 'pause', 'resume']) {
    expect((await expectSame(user, `/api/files/${id}/${action}`)).status).toBe(409);
  }
  expect(await user.get(`/api/files/${id}`)).toMatchObject({ id });
});

test('a refusal is repeated too, although the state has changed meanwhile', async () => {
  const id = await settledFile();
  const key = newKey();
  const first = await postKeyed(user, key, `/api/files/${id}/restore`);
  expect(await purge(user, id)).toBe(204);
  const again = await postKeyed(user, key, `/api/files/${id}/restore`);
  expect(again.status).toBe(409);
  expect(isReplayed(again)).toBe(true);
  expect(await essence(again)).toEqual(await essence(first));
  expect(await problemOf(await postKeyed(user, newKey(), `/api/files/${id}/restore`))).toEqual([
    404,
    'not_found',
  ]);
});

test('a key that comes with another body is refused, and the first answer stays', async () => {
  const key = newKey();
  const path = '/api/upload-tokens';
  const first = await (await postKeyed(user, key, path, { label: 'a' })).json();
  for (const body of [{ label: 'b' }, { label: 'a', maxSize: 1 }, {}]) {
    expect(await problemOf(await postKeyed(user, key, path, body))).toEqual([422, 'key_reused']);
  }
  expect(await (await postKeyed(user, key, path, { label: 'a' })).json()).toEqual(first);
});

test('keys of other callers, routes and files are other keys', async () => {
  const key = newKey();
  const body = { label: 'mine' };
  const limited = await makeApiKey(['manage']);
  const answers = [
    await postKeyed(user, key, '/api/upload-tokens', body),
    await postKeyed(admin, key, '/api/upload-tokens', body),
    await postKeyed(limited, key, '/api/upload-tokens', body),
    await postKeyed(user, key, '/api/keys', { name: 'x', scopes: ['read'] }),
    ...(await Promise.all(
      [await settledFile(), await settledFile()].map((id) =>
        postKeyed(user, key, `/api/files/${id}/process`, {}),
      ),
    )),
  ];
  expect(answers.map(isReplayed)).toEqual(answers.map(() => false));
  expect(answers.map(({ status }) => status)).toEqual([201, 201, 201, 201, 200, 200]);
});

test('an id in upper case is the same file', async () => {
  const id = await settledFile();
  const key = newKey();
  await postKeyed(user, key, `/api/files/${id}/process`, {});
  expect(isReplayed(await postKeyed(user, key, `/api/files/${id.toUpperCase()}/process`, {}))).toBe(true);
});

test('a repetition while the first request is handled is told to come back', async () => {
  const id = await settledFile();
  const barrier = await closeBarrier(processes.database, 'UPDATE ON files', `NEW.id = '${id}'`);
  const key = newKey();
  const path = `/api/files/${id}/process`;
  const first = postKeyed(user, key, path, {});
  await barrier.reached();
  const early = await postKeyed(elsewhere(user), key, path, {});
  expect(Number(early.headers.get('Retry-After'))).toBeGreaterThan(0);
  expect(await problemOf(early)).toEqual([409, 'key_in_use']);
  expect(await problemOf(await postKeyed(user, key, path, { priority: 'low' }))).toEqual([422, 'key_reused']);
  await barrier.open();
  expect((await first).status).toBe(200);
  const late = await postKeyed(user, key, path, {});
  expect([late.status, isReplayed(late)]).toEqual([200, true]);
});

test('of many requests at once, one is carried out', async () => {
  const key = newKey();
  const answers = await Promise.all(
    Array.from({ length: 30 }, (_, index) =>
      postKeyed(index % 2 ? user : elsewhere(user), key, '/api/upload-tokens', { label: 'race' }),
    ),
  );
  const firsts = answers.filter((answer) => answer.status === 201 && !isReplayed(answer));
  expect(firsts).toHaveLength(1);
  for (const { status } of answers) expect([201, 409]).toContain(status);
  const { items } = await user.get('/api/upload-tokens');
  expect(items.filter(({ label }: { label: string }) => label === 'race')).toHaveLength(1);
});

test('a request that is not valid keeps no key', async () => {
  const key = newKey();
  const wrong = await postKeyed(user, key, '/api/upload-tokens', { maxSize: -1 });
  expect(await problemOf(wrong)).toEqual([400, 'invalid_request']);
  const right = await postKeyed(user, key, '/api/upload-tokens', { maxSize: 1 });
  expect([right.status, isReplayed(right)]).toEqual([201, false]);
});

test('the answer stays the same when the request would not be valid any more', async () => {
  const ask = (key: string, ms: number) => {
    const body = { expiresAt: new Date(Date.now() + ms).toISOString() };
    return postKeyed(user, key, '/api/upload-tokens', body).then((first) => ({ key, body, first }));
  };
  const quick = await ask(newKey(), 1500);
  // On a busy machine the time may be past before the request is handled.
  const { key, body, first } = quick.first.status === 201 ? quick : await ask(newKey(), 30_000);
  expect(first.status).toBe(201);
  await until('the time is past', () => Date.now() > Date.parse(body.expiresAt));
  expect(await problemOf(await postKeyed(user, newKey(), '/api/upload-tokens', body))).toEqual([
    400,
    'invalid_request',
  ]);
  expect(await essence(await postKeyed(user, key, '/api/upload-tokens', body))).toEqual(await essence(first));
});

test('a key that met a rate limit is free', async () => {
  await processes.start('server-3', { RATE_LIMIT_PROCESSING: '1/1s' });
  const there = useAccount({ id: user.id, email: user.email, role: 'user' }, user.token, () =>
    processes.urlOf('server-3'),
  );
  const refused = await until('a request to meet the limit', async () => {
    const keys = [newKey(), newKey()];
    const answers = await Promise.all(keys.map((key) => postKeyed(there, key, '/api/upload-tokens', {})));
    return keys.find((_, index) => answers[index]?.status === 429);
  });
  const admitted = await until('the limit to let it in', async () => {
    const answer = await postKeyed(there, refused, '/api/upload-tokens', {});
    return answer.status !== 429 && answer;
  });
  expect([admitted.status, isReplayed(admitted)]).toEqual([201, false]);
  await processes.stop('server-3');
});

test('a day later the key is free, and its answer is deleted', async () => {
  const key = newKey();
  const post = () => postKeyed(user, key, '/api/upload-tokens', {});
  const first = await (await post()).json();
  await ageKeys(processes.database, 86_400 - 60);
  expect((await (await post()).json()).id).toBe(first.id);
  await ageKeys(processes.database, 60);
  const second = await post();
  expect([second.status, isReplayed(second)]).toEqual([201, false]);
  expect((await second.json()).id).not.toBe(first.id);
  await ageKeys(processes.database, 86_400);
  await runPasses(processes, async () => {
    const { rows } = await processes.database.query('SELECT count(*)::int AS count FROM keyed_requests');
    return rows[0].count === 0;
  });
});

test('secrets are not stored in the clear, and without their secret no answer can be opened', async () => {
  const limited = await makeApiKey(['manage']);
  const key = newKey();
  const { token } = await (await postKeyed(limited, key, '/api/upload-tokens', { label: 'sealed' })).json();
  const { rows } = await processes.database.query('SELECT * FROM keyed_requests');
  expect(rows.length).toBeGreaterThan(0);
  for (const row of rows) {
    const stored = Object.values(row).map((value) =>
      Buffer.isBuffer(value) ? value.toString('latin1') : '',
    );
    for (const secret of [token, key, 'sealed']) expect(stored.join(' ')).not.toContain(secret);
  }
  await processes.start('server-3', { JWT_SECRET: 'another secret, as long as it has to be' });
  const there = useAccount({ id: user.id, email: user.email, role: 'user' }, limited.token, () =>
    processes.urlOf('server-3'),
  );
  const again = await postKeyed(there, key, '/api/upload-tokens', { label: 'sealed' });
  expect(await problemOf(again)).toEqual([409, 'outcome_unknown']);
  await processes.stop('server-3');
});

const post = (field: string) =>
  user.fetch('/api/upload-tokens', { method: 'POST', headers: { 'Idempotency-Key': field } });

test.each([
  ...[
    '',
    ' ',
    '""',
    'plain',
    randomUUID(),
    '"open',
    'open"',
    '"a" "b"',
    '"a", "b"',
    "'a'",
    ':YWJj:',
    '?1',
    '1',
  ],
  ...['"tab\t"', '"\u00fc"', '"\\a"', '"a";;', '("a")', 'key="a"', `"${'x'.repeat(256)}"`],
])('%j is no key', async (field) => {
  expect(await problemOf(await post(field))).toEqual([400, 'invalid_request']);
});

test.each(['"a"', '" "', '"\\"\\\\"', `"${'x'.repeat(255)}"`, '"b"; a=1; c="d"', '  "c"  '])(
  '%j is a key',
  async (field) => {
    expect((await post(field)).status).toBe(201);
    expect(isReplayed(await post(field))).toBe(true);
  },
);

test('routes that take no key ignore it', async () => {
  const { url } = processes;
  const headers = { 'Idempotency-Key': 'no key', 'Content-Type': 'application/json' };
  const body = JSON.stringify({ refreshToken: 'x' });
  expect((await fetch(`${url}/api/auth/logout`, { method: 'POST', headers, body })).status).toBe(204);
  const file = { method: 'POST', headers: { 'Idempotency-Key': '"k"' }, body: 'content' };
  const [one, other] = [await user.fetch('/api/files', file), await user.fetch('/api/files', file)];
  expect([one.status, other.status]).toEqual([201, 201]);
  expect((await one.json()).files[0].id).not.toBe((await other.json()).files[0].id);
});
