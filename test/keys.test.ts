import { openDatabase } from '../core/database/data-source.js';
import { verifyApiKey } from '../server/auth/api-keys.js';
import { closeBarrier, waitingForLocks } from './support/barrier.js';
import { registerUser, type TestUser, useAccount } from './support/client.js';
import { type Processes, startProcesses } from './support/processes.js';
import { eventsOf, problemOf, registerAdmin, send, sha256 } from './support/sign-in.js';
import { until } from './support/until.js';

/*
 * API keys. Which scope opens which route is in matrix.test.ts.
 */

const REFUSED = [401, 'unauthenticated'];
const FORBIDDEN = [403, 'forbidden'];

interface KeyJson {
  id: string;
  name: string;
  prefix: string;
  scopes: string[];
  createdAt: string;
  lastUsedAt: string | null;
  expiresAt: string | null;
  key: string;
}

let processes: Processes;
let user: TestUser;

beforeAll(async () => {
  processes = await startProcesses({}, ['server', 'server-2', 'worker']);
  await registerUser(() => processes.url);
  user = await registerUser(() => processes.url);
});

afterAll(() => processes?.close());

async function createKey(body: object = {}, as = user): Promise<KeyJson> {
  const answer = await send(as, 'POST', '/api/keys', { name: 'a program', scopes: ['read'], ...body });
  expect(answer.status).toBe(201);
  expect(answer.headers.get('Cache-Control')).toBe('no-store');
  return answer.json();
}

const by = ({ key }: { key: string }, part: 'server' | 'server-2' = 'server') =>
  useAccount(user, key, () => processes.urlOf(part));
const me = (key: string) => by({ key }).fetch('/api/me');
const revoke = (id: string, as = user) => as.fetch(`/api/keys/${id}`, { method: 'DELETE' });
const list = async (as = user): Promise<KeyJson[]> => (await as.get('/api/keys')).items;

test('a key is shown once and kept as a hash; its prefix identifies it', async () => {
  const made = await createKey({ name: '  nightly backup ', scopes: ['upload', 'read', 'read'] });
  expect(made).toEqual({
    id: expect.any(String),
    name: 'nightly backup',
    prefix: expect.stringMatching(/^lfk_[0-9a-f]{12}$/),
    scopes: ['upload', 'read'],
    createdAt: expect.any(String),
    lastUsedAt: null,
    expiresAt: null,
    key: expect.stringMatching(new RegExp(`^${made.prefix}_[\\w-]{43}$`)),
  });
  const listed = (await list()).find(({ id }) => id === made.id);
  const { key, ...shown } = made;
  expect(listed).toEqual(shown);

  const { rows } = await processes.database.query('SELECT * FROM api_keys WHERE id = $1', [made.id]);
  expect(rows[0].secret_hash).toEqual(sha256(key));
  const { rows: all } = await processes.database.query(
    `SELECT k::text AS row FROM api_keys k UNION ALL SELECT e::text FROM all_events e`,
  );
  const secret = key.slice(made.prefix.length + 1);
  expect(all.map(({ row }) => row).join('\n')).not.toContain(secret);
  expect(await eventsOf(processes.database, made.id)).toEqual(['key.created']);
});

test('a key uploads a file by tus in many requests, and the log names the key', async () => {
  const made = await createKey({ scopes: ['upload', 'read'] });
  const id = await by(made).tusUpload(Buffer.alloc(300_000, 'k'), {
    chunkSize: 70_000,
    metadata: { filename: 'by key.txt' },
  });
  expect(await by(made).settled(id)).toMatchObject({ status: 'completed', size: 300_000 });
  expect((await user.get(`/api/files/${id}`)).filename).toBe('by key.txt');
  const { rows } = await processes.database.query(
    `SELECT type FROM all_events WHERE subject_id = $1 AND actor ->> 'keyId' = $2 AND actor ->> 'userId' = $3
     ORDER BY id`,
    [id, made.id, user.id],
  );
  expect(rows.map(({ type }) => type)).toEqual(['upload.created', 'file.created']);
});

test('a key cannot delete for good a file that it has uploaded, unless it may manage', async () => {
  const [uploader, keeper] = [
    await createKey({ scopes: ['upload'] }),
    await createKey({ scopes: ['upload', 'manage'] }),
  ];
  const path = await by(uploader).create(3);
  expect((await by(uploader).tus('DELETE', path)).status).toBe(204);

  const id = await by(uploader).upload(Buffer.from('abc'));
  const refused = await by(uploader).tus('DELETE', `/uploads/${id}`);
  expect([refused.status, await refused.text()]).toEqual([403, expect.stringContaining('manage')]);
  const { rows } = await until('the refusal to be written down', async () => {
    const found = await processes.database.query(
      `SELECT data FROM all_events WHERE subject_id = $1 AND result = 'refused' AND actor ->> 'keyId' = $2`,
      [id, uploader.id],
    );
    return found.rows.length > 0 && found;
  });
  expect(rows).toEqual([{ data: { action: 'manage', code: 'forbidden', method: 'DELETE' } }]);
  expect((await user.get(`/api/files/${id}`)).id).toBe(id);
  expect((await by(keeper).tus('DELETE', `/uploads/${id}`)).status).toBe(204);
  expect((await user.fetch(`/api/files/${id}`)).status).toBe(404);
});

test('a key cannot make keys, change the account or administer, whatever its scopes', async () => {
  const asAdmin = await registerAdmin(() => processes.url, processes.database);
  const made = await createKey({ scopes: ['upload', 'read', 'manage'] }, asAdmin);
  const key = useAccount(asAdmin, made.key, () => processes.url);
  const attempts = [
    send(key, 'POST', '/api/keys', { name: 'more', scopes: ['read'] }),
    key.fetch('/api/keys'),
    key.fetch(`/api/keys/${made.id}`, { method: 'DELETE' }),
    send(key, 'POST', '/api/me/password', {
      currentPassword: 'correct horse battery',
      newPassword: 'x'.repeat(8),
    }),
    key.fetch('/api/me/sessions'),
    key.fetch('/api/me/sessions', { method: 'DELETE' }),
    key.fetch('/api/admin/users'),
    send(key, 'POST', '/api/admin/invitations', {}),
    key.fetch('/admin/queues'),
  ];
  for (const answer of await Promise.all(attempts)) expect(await problemOf(answer)).toEqual(FORBIDDEN);
  expect((await key.fetch('/api/me')).status).toBe(200);
  await until('all refusals to be in the log', async () => {
    const { rows } = await processes.database.query(
      `SELECT FROM all_events WHERE type = 'access' AND result = 'refused' AND actor ->> 'keyId' = $1`,
      [made.id],
    );
    return rows.length === attempts.length;
  });
});

test('the list shows when a key was last used, to the minute', async () => {
  const [one, other] = [await createKey(), await createKey()];
  const lastUsed = async (key: KeyJson) => (await list()).find(({ id }) => id === key.id)?.lastUsedAt;
  const usedAgo = async (key: KeyJson, seconds: number) => {
    const time = new Date(Date.now() - seconds * 1000);
    await processes.database.query('UPDATE api_keys SET last_used_at = $2 WHERE id = $1', [key.id, time]);
    return time.toISOString();
  };
  const before = Date.now();
  expect((await me(one.key)).status).toBe(200);
  const first = await until('the use to be written down', () => lastUsed(one));
  expect(Date.parse(first)).toBeGreaterThanOrEqual(before - 1000);

  const lately = await usedAgo(one, 50);
  expect((await me(one.key)).status).toBe(200);
  // A use of the first key would have been written before this one.
  expect((await me(other.key)).status).toBe(200);
  await until('the use of another to be written down', () => lastUsed(other));
  expect(await lastUsed(one)).toBe(lately);

  const longAgo = await usedAgo(one, 61);
  expect((await me(one.key)).status).toBe(200);
  await until('a later use to be written down', async () => (await lastUsed(one)) !== longAgo);
});

test('a key opens nothing once it has expired, and cannot be made to expire in the past', async () => {
  const soon = new Date(Date.now() + 3_600_000).toISOString();
  const made = await createKey({ expiresAt: soon });
  expect(made.expiresAt).toBe(soon);
  expect((await me(made.key)).status).toBe(200);
  await processes.database.query('UPDATE api_keys SET expires_at = now() WHERE id = $1', [made.id]);
  expect(await problemOf(await me(made.key))).toEqual(REFUSED);
  for (const body of [
    { expiresAt: new Date(Date.now() - 1000).toISOString() },
    { expiresAt: 'tomorrow' },
    { scopes: [] },
    { scopes: ['admin'] },
    { scopes: ['read', 'account'] },
    { name: '' },
    { name: ' ' },
    { name: 'a\u202Eb' },
    { name: 'x'.repeat(101) },
  ]) {
    const answer = await send(user, 'POST', '/api/keys', { name: 'a', scopes: ['read'], ...body });
    expect(await problemOf(answer)).toEqual([400, 'invalid_request']);
  }
});

test('only its owner can revoke a key, and it opens nothing from that moment, on any server', async () => {
  const stranger = await registerUser(() => processes.url);
  const made = await createKey({ scopes: ['upload', 'read'] });
  const path = await by(made).create(6);
  expect(await problemOf(await revoke(made.id, stranger))).toEqual([404, 'not_found']);
  expect((await by(made, 'server-2').fetch('/api/me')).status).toBe(200);
  expect((await revoke(made.id)).status).toBe(204);
  for (const part of ['server', 'server-2'] as const) {
    expect(await problemOf(await by(made, part).fetch('/api/me'))).toEqual(REFUSED);
    expect((await by(made, part).tus('PATCH', path, { 'Upload-Offset': '0' }, 'abc')).status).toBe(401);
  }
  expect((await list()).map(({ id }) => id)).not.toContain(made.id);
  expect(await problemOf(await revoke(made.id))).toEqual([404, 'not_found']);
  const events = ['key.created', 'access!', 'key.revoked'];
  expect(await eventsOf(processes.database, made.id)).toEqual(events);
});

test('all keys that are slightly wrong are refused with the same answer', async () => {
  const { key, prefix } = await createKey();
  const { key: other } = await createKey();
  const secret = key.slice(prefix.length + 1);
  const flipped = (secret.startsWith('A') ? 'B' : 'A') + secret.slice(1);
  const wrong = [
    `${prefix}_${flipped}`,
    `${prefix}_${other.slice(prefix.length + 1)}`,
    `${prefix}_${secret.slice(0, -1)}`,
    `${prefix}_${secret}x`,
    `lfk_000000000000_${secret}`,
    `lfk_${key.slice(4).toUpperCase()}`,
    prefix,
    'lfk_',
    `lfk_${'x'.repeat(4000)}`,
  ];
  const bodies = new Set<string>();
  for (const bearer of wrong) {
    const answer = await me(bearer);
    expect(answer.status).toBe(401);
    bodies.add(await answer.text());
  }
  expect(bodies.size).toBe(1);
  expect((await me(key)).status).toBe(200);
});

test('a token that cannot be a key is refused without a query', async () => {
  const database = await openDatabase(processes.database.url, 'test');
  await database.destroy();
  const { key } = await createKey();
  for (const bearer of ['lfk_', 'lfk_nonsense', `${key}x`, key.toUpperCase(), `${key}\0`]) {
    await expect(verifyApiKey(database, bearer)).rejects.toMatchObject({ code: 'unauthenticated' });
  }
  // A token with the form of a key does cost a query, which fails here.
  await expect(verifyApiKey(database, key)).rejects.not.toMatchObject({ code: 'unauthenticated' });
});

test('a user has at most a hundred keys', async () => {
  const other = await registerUser(() => processes.url);
  const keys: KeyJson[] = [];
  while (keys.length < 100) keys.push(await createKey({}, other));
  const refused = await send(other, 'POST', '/api/keys', { name: 'one more', scopes: ['read'] });
  expect(await problemOf(refused)).toEqual([409, 'wrong_state']);
  expect((await revoke(keys[0]?.id ?? '', other)).status).toBe(204);
  await createKey({}, other);
});

test('keys made at the same moment do not exceed the hundred either', async () => {
  const other = await registerUser(() => processes.url);
  await processes.database.query(
    `INSERT INTO api_keys (id, user_id, name, prefix, secret_hash, scopes)
     SELECT gen_random_uuid(), $1, 'old', 'lfk_' || n || $2, '', '{read}' FROM generate_series(1, 99) AS n`,
    [other.id, other.id],
  );
  const barrier = await closeBarrier(processes.database, 'INSERT ON api_keys', `NEW.user_id = '${other.id}'`);
  const attempts = Promise.all(
    (['server', 'server-2', 'server'] as const).map((part) => {
      const as = other.at(() => processes.urlOf(part));
      return send(as, 'POST', '/api/keys', { name: 'new', scopes: ['read'] });
    }),
  );
  await waitingForLocks(processes.database, 3);
  await barrier.open();
  expect((await attempts).map(({ status }) => status).sort()).toEqual([201, 409, 409]);
  expect(await list(other)).toHaveLength(100);
});
