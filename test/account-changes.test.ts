import { request } from 'node:http';
import { waitingForLocks, whenSomebodyWaitsFor } from './support/barrier.js';
import { PASSWORD, registerUser, type TestUser } from './support/client.js';
import { type Processes, startProcesses } from './support/processes.js';
import {
  eventsOf,
  logIn,
  newAddress,
  newSession,
  postAuth,
  problemOf,
  refresh,
  registerAdmin,
  send,
} from './support/sign-in.js';
import { setRole } from './support/users.js';

/*
 * How sessions, keys and tokens change with a password, a role or an account.
 */

const NEXT = 'another long password';
const WRONG = [401, 'wrong_credentials'];
const ENDED = [401, 'unauthenticated'];

let processes: Processes;
let admin: TestUser;

beforeAll(async () => {
  processes = await startProcesses({}, ['server', 'server-2']);
  admin = await registerUser(() => processes.url);
});

afterAll(() => processes?.close());

const register = () => registerUser(() => processes.url);
const signIn = (who: TestUser) => newSession(() => processes.url, who.email);
const refreshStatus = async (token: string) => (await refresh(processes.url, token)).status;
const tryLogIn = (email: string, password: string) => postAuth(processes.url, 'login', { email, password });
const changeUser = (id: string, change: object, as = admin) =>
  send(as, 'PATCH', `/api/admin/users/${id}`, change);
const key = (as: TestUser) => send(as, 'POST', '/api/keys', { name: 'a', scopes: ['read'] });
const withBearer = (token: string, path = '/api/me') =>
  fetch(`${processes.url}${path}`, { headers: { Authorization: `Bearer ${token}` } });

describe('changing the password', () => {
  const change = (as: TestUser, currentPassword: string, newPassword = NEXT) =>
    send(as, 'POST', '/api/me/password', { currentPassword, newPassword });
  const OLD = 'correct horse battery';

  test('ends all other sessions and leaves this one', async () => {
    const user = await register();
    const [here, elsewhere] = [await signIn(user), await signIn(user)];
    expect((await change(here.as, OLD)).status).toBe(204);
    expect(await refreshStatus(here.refreshToken)).toBe(200);
    expect(await refreshStatus(elsewhere.refreshToken)).toBe(401);
    expect(await problemOf(await tryLogIn(user.email, OLD))).toEqual(WRONG);
    expect((await tryLogIn(user.email, NEXT)).status).toBe(200);
    expect(await eventsOf(processes.database, user.id)).toContain('auth.password');
  });

  test('leaves no other session a way to delete, make a key or change the password', async () => {
    const user = await register();
    const [here, thief] = [await signIn(user), await signIn(user)];
    const file = await user.upload(Buffer.from('mine'));
    expect((await change(here.as, OLD)).status).toBe(204);
    expect((await thief.as.tus('DELETE', `/uploads/${file}`)).status).toBe(401);
    expect((await thief.as.fetch(`/api/files/${file}?permanent=1`, { method: 'DELETE' })).status).toBe(401);
    expect((await here.as.fetch(`/api/files/${file}`)).status).toBe(200);
    expect(await problemOf(await key(thief.as))).toEqual(ENDED);
    expect(await problemOf(await send(thief.as, 'POST', '/api/upload-tokens', {}))).toEqual(ENDED);
    expect(await problemOf(await change(thief.as, NEXT, 'password of a thief'))).toEqual(ENDED);
    expect(await problemOf(await thief.as.fetch('/api/me/sessions'))).toEqual(ENDED);
    expect((await key(here.as)).status).toBe(201);
  });

  test('needs the present password, and a new one that is long enough', async () => {
    const user = await register();
    expect(await problemOf(await change(user, 'not the password'))).toEqual(WRONG);
    expect(await problemOf(await change(user, OLD, 'short'))).toEqual([400, 'invalid_request']);
    expect(await problemOf(await change(user, '', NEXT))).toEqual(WRONG);
    expect((await tryLogIn(user.email, OLD)).status).toBe(200);
    const events = await eventsOf(processes.database, user.id);
    expect(events.filter((type) => type === 'auth.password!')).toHaveLength(2);
    expect(events).not.toContain('auth.password');
  });

  test('is not possible for an account of an identity provider, which has no password here', async () => {
    const user = await register();
    await processes.database.query(`UPDATE users SET password_hash = NULL, external_id = $2 WHERE id = $1`, [
      user.id,
      `https://issuer|${user.id}`,
    ]);
    expect(await problemOf(await change(user, OLD))).toEqual([409, 'wrong_state']);
    expect(await problemOf(await tryLogIn(user.email, OLD))).toEqual(WRONG);
  });

  test('refuses a sign-in that is under way with the old password', async () => {
    const user = await register();
    // The password changes after the sign-in has compared the hash, and before it opens the session.
    const blocker = await processes.database.connect();
    await blocker.query('BEGIN');
    await blocker.query(`UPDATE users SET password_hash = 'changed' WHERE id = $1`, [user.id]);
    const late = tryLogIn(user.email, OLD);
    await whenSomebodyWaitsFor(processes.database, blocker);
    await blocker.query('COMMIT');
    expect(await problemOf(await late)).toEqual(WRONG);
  });
});

describe('sessions', () => {
  const list = async (as: TestUser) => (await as.get('/api/me/sessions')).items;

  test('are listed with where they are from, the present one marked', async () => {
    const user = await register();
    const answer = await postAuth(
      processes.url,
      'login',
      { email: user.email, password: 'correct horse battery' },
      { 'User-Agent': `A browser ${'x'.repeat(500)}` },
    );
    const { accessToken } = await answer.json();
    const { items } = await (await withBearer(accessToken, '/api/me/sessions')).json();
    expect(items).toHaveLength(2);
    expect(items[0]).toEqual({
      id: expect.any(String),
      current: true,
      createdAt: expect.any(String),
      lastUsedAt: expect.any(String),
      expiresAt: expect.any(String),
      address: expect.stringMatching(/127\.0\.0\.1$/),
      userAgent: `A browser ${'x'.repeat(190)}`,
    });
    expect(items[1]).toMatchObject({ current: false });
    expect(JSON.stringify(items)).not.toMatch(/token|hash/i);
  });

  test('are ended one by one, and only by their owner', async () => {
    const [user, stranger] = [await register(), await register()];
    const other = await signIn(user);
    const [{ id }] = (await list(other.as)).filter(({ current }: { current: boolean }) => current);
    for (const as of [stranger, admin]) {
      const answer = await as.fetch(`/api/me/sessions/${id}`, { method: 'DELETE' });
      expect(await problemOf(answer)).toEqual([404, 'not_found']);
    }
    expect(await refreshStatus(other.refreshToken)).toBe(200);
    expect((await user.fetch(`/api/me/sessions/${id}`, { method: 'DELETE' })).status).toBe(204);
    expect(await refreshStatus(other.refreshToken)).toBe(401);
    const again = await user.fetch(`/api/me/sessions/${id}`, { method: 'DELETE' });
    expect(await problemOf(again)).toEqual([404, 'not_found']);
    const events = ['access!', 'access!', 'session.revoked'];
    expect(await eventsOf(processes.database, id)).toEqual(events);
  });

  test('are ended all but this one', async () => {
    const user = await register();
    const [here, one, two] = [await signIn(user), await signIn(user), await signIn(user)];
    expect((await here.as.fetch('/api/me/sessions', { method: 'DELETE' })).status).toBe(204);
    expect(await list(here.as)).toEqual([expect.objectContaining({ current: true })]);
    for (const { refreshToken } of [one, two]) expect(await refreshStatus(refreshToken)).toBe(401);
    expect(await refreshStatus(here.refreshToken)).toBe(200);
  });

  test('can be ended from two places at once while they are refreshed', async () => {
    const user = await register();
    const opened: Awaited<ReturnType<typeof signIn>>[] = [];
    for (let i = 0; i < 6; i++) opened.push(await signIn(user));
    const [a, b] = opened.slice(-2).map(({ as }) => as) as [TestUser, TestUser];
    const [first] = (await list(opened[0]?.as as TestUser)).filter(
      ({ current }: { current: boolean }) => current,
    );
    const waiting = (count: number) => waitingForLocks(processes.database, count);

    // One transaction has just refreshed the session, which moves its row, and another waits to do so.
    const [one, two] = [await processes.database.connect(), await processes.database.connect()];
    await one.query('BEGIN');
    await one.query('UPDATE sessions SET last_used_at = now() WHERE id = $1', [first.id]);
    await two.query('BEGIN');
    const locked = two.query('SELECT FROM sessions WHERE id = $1 FOR UPDATE', [first.id]);
    await waiting(1);
    const endings = [a.fetch('/api/me/sessions', { method: 'DELETE' })];
    await waiting(2);
    await one.query('COMMIT');
    await locked;
    endings.push(b.fetch('/api/me/sessions', { method: 'DELETE' }));
    await waiting(2);
    await two.query('COMMIT');
    // The first request has ended the session of the second.
    expect((await Promise.all(endings)).map(({ status }) => status)).toEqual([204, 401]);
  });

  test('end when a token that was already replaced signs out', async () => {
    const { refreshToken, as } = await signIn(await register());
    const { refreshToken: newest } = await (await refresh(processes.url, refreshToken)).json();
    expect((await postAuth(processes.url, 'logout', { refreshToken })).status).toBe(204);
    expect(await refreshStatus(newest)).toBe(401);
    expect(await problemOf(await key(as))).toEqual(ENDED);
  });
});

describe('an account that is disabled', () => {
  const setDisabled = async (who: TestUser, disabled: boolean) => {
    const answer = await changeUser(who.id, { disabled });
    expect([answer.status, (await answer.json()).disabled]).toEqual([200, disabled]);
  };

  test('opens nothing any more, and its earlier tokens open nothing when it is enabled again', async () => {
    const user = await register();
    const { refreshToken, as } = await signIn(user);
    const { key: apiKey } = await (await key(user)).json();
    const { token: uploadToken } = await (await send(user, 'POST', '/api/upload-tokens', {})).json();
    expect((await withBearer(apiKey)).status).toBe(200);
    const begin = (token: string) =>
      fetch(`${processes.url}/uploads`, {
        method: 'POST',
        headers: { Authorization: `Bearer ${token}`, 'Tus-Resumable': '1.0.0', 'Upload-Length': '3' },
      });

    await setDisabled(user, true);
    expect(await refreshStatus(refreshToken)).toBe(401);
    expect(await problemOf(await withBearer(apiKey))).toEqual(ENDED);
    expect((await begin(uploadToken)).status).toBe(401);
    expect((await begin(user.token)).status).toBe(401);
    expect(await problemOf(await key(as))).toEqual(ENDED);

    await setDisabled(user, false);
    expect(await refreshStatus(refreshToken)).toBe(401);
    expect(await problemOf(await key(as))).toEqual(ENDED);
    expect((await (await signIn(user)).as.fetch('/api/keys')).status).toBe(200);
    // The key and the upload token work again: a lock-out suspends them and does not revoke them.
    expect((await withBearer(apiKey)).status).toBe(200);
    expect((await begin(uploadToken)).status).toBe(201);
  });

  test('looks like a wrong password', async () => {
    const user = await register();
    await setDisabled(user, true);
    const right = await tryLogIn(user.email, 'correct horse battery');
    const unknown = await tryLogIn(newAddress(), 'correct horse battery');
    expect(await right.json()).toEqual(await unknown.json());
    expect(right.status).toBe(unknown.status);
    expect((await eventsOf(processes.database, user.id)).at(-1)).toBe('auth.login!');
  });

  test('shuts out a sign-in that is under way', async () => {
    const user = await register();
    const blocker = await processes.database.connect();
    await blocker.query('BEGIN');
    await blocker.query('UPDATE users SET disabled_at = now() WHERE id = $1', [user.id]);
    const late = tryLogIn(user.email, 'correct horse battery');
    await whenSomebodyWaitsFor(processes.database, blocker);
    await blocker.query('COMMIT');
    expect(await problemOf(await late)).toEqual(WRONG);
  });
});

describe('a request whose body comes late', () => {
  /** Lets the server look at the head, then calls `meanwhile`, then sends the body. */
  function sendLate(
    as: TestUser,
    method: string,
    path: string,
    body: object,
    meanwhile: () => Promise<unknown>,
  ): Promise<number | undefined> {
    const text = JSON.stringify(body);
    return new Promise((resolve, reject) => {
      const outgoing = request(`${processes.url}${path}`, {
        method,
        headers: {
          Authorization: `Bearer ${as.token}`,
          'Content-Type': 'application/json',
          'Content-Length': Buffer.byteLength(text),
          // The server answers 100 when it wants the body, so by then it has accepted the head.
          Expect: '100-continue',
        },
      });
      outgoing.on('error', reject);
      outgoing.on('response', (answer) => resolve(answer.resume().statusCode));
      outgoing.on('continue', () => meanwhile().then(() => outgoing.end(text), reject));
      outgoing.flushHeaders();
    });
  }

  test('does nothing when its sender was locked out meanwhile', async () => {
    for (const [method, path, body] of [
      ['POST', '/api/keys', { name: 'a', scopes: ['manage'] }],
      ['POST', '/api/upload-tokens', {}],
      ['POST', '/api/me/password', { currentPassword: PASSWORD, newPassword: NEXT }],
    ] as const) {
      const { as } = await signIn(await register());
      const status = await sendLate(as, method, path, body, () => changeUser(as.id, { disabled: true }));
      expect([path, status]).toEqual([path, 401]);
    }
  });

  test('gives no one a role back', async () => {
    const other = await registerAdmin(() => processes.url, processes.database);
    const path = `/api/admin/users/${other.id}`;
    const demote = () => changeUser(other.id, { role: 'user' });
    expect(await sendLate(other, 'PATCH', path, { role: 'admin' }, demote)).toBe(401);
    const { rows } = await processes.database.query('SELECT role FROM users WHERE id = $1', [other.id]);
    expect(rows).toEqual([{ role: 'user' }]);
  });

  test('is answered as ever otherwise', async () => {
    const { as } = await signIn(await register());
    const nothing = async () => {};
    expect(await sendLate(as, 'POST', '/api/keys', { name: 'a', scopes: ['read'] }, nothing)).toBe(201);
  });
});

describe('roles', () => {
  test('are taken away at once, from the token, the key and the cookie of the board', async () => {
    const other = await registerAdmin(() => processes.url, processes.database);
    const login = await tryLogIn(other.email, 'correct horse battery');
    const board = /landfall_board=([^;]+)/.exec(login.headers.getSetCookie().join())?.[1] ?? '';
    const openBoard = () =>
      fetch(`${processes.urlOf('server-2')}/admin/queues`, {
        headers: { Cookie: `landfall_board=${board}` },
      });
    expect((await openBoard()).status).toBe(200);
    expect((await other.fetch('/api/admin/users')).status).toBe(200);

    // The test changes the row itself, because the API would end the sessions too.
    await setRole(processes.database, other.id, 'user');
    expect(await problemOf(await other.fetch('/api/admin/users'))).toEqual([403, 'forbidden']);
    expect(await problemOf(await openBoard())).toEqual([403, 'forbidden']);
    await setRole(processes.database, other.id, 'admin');
    expect((await openBoard()).status).toBe(200);

    expect((await changeUser(other.id, { role: 'user' })).status).toBe(200);
    expect(await problemOf(await other.fetch('/api/admin/users'))).toEqual(ENDED);
    expect(await problemOf(await openBoard())).toEqual(ENDED);
  });

  test('are given, with a new sign-in', async () => {
    const user = await register();
    expect((await changeUser(user.id, { role: 'admin' })).status).toBe(200);
    expect(await problemOf(await user.fetch('/api/admin/users'))).toEqual(ENDED);
    const { as, user: now } = await signIn(user);
    expect(now.role).toBe('admin');
    expect((await as.fetch('/api/admin/users')).status).toBe(200);
    expect((await changeUser(user.id, { role: 'user' })).status).toBe(200);
    const { rows } = await processes.database.query(
      `SELECT data, actor ->> 'userId' AS by FROM all_events WHERE type = 'user.changed' AND subject_id = $1
       ORDER BY id`,
      [user.id],
    );
    expect(rows).toEqual([
      { data: { role: 'admin' }, by: admin.id },
      { data: { role: 'user' }, by: admin.id },
    ]);
  });

  test('leave one admin: the last cannot be demoted or disabled', async () => {
    for (const change of [{ role: 'user' }, { disabled: true }]) {
      expect(await problemOf(await changeUser(admin.id, change))).toEqual([409, 'wrong_state']);
    }
    // An admin who is locked out does not count.
    const other = await registerAdmin(() => processes.url, processes.database);
    expect((await changeUser(other.id, { disabled: true })).status).toBe(200);
    expect(await problemOf(await changeUser(admin.id, { disabled: true }))).toEqual([409, 'wrong_state']);
    expect((await changeUser(other.id, { role: 'user', disabled: false })).status).toBe(200);
    expect((await admin.fetch('/api/admin/users')).status).toBe(200);
  });

  test('leave one admin, also when two demote or disable each other at once on two servers', async () => {
    for (let round = 0; round < 6; round++) {
      const other = await registerAdmin(() => processes.url, processes.database);
      const change = round % 2 ? { role: 'user' } : { disabled: true };
      const answers = await Promise.all([
        changeUser(other.id, change, admin),
        changeUser(
          admin.id,
          change,
          other.at(() => processes.urlOf('server-2')),
        ),
      ]);
      const statuses = answers.map(({ status }) => status).sort();
      expect(statuses[0]).toBe(200);
      expect([401, 403, 409]).toContain(statuses[1]);
      const { rows } = await processes.database.query(
        `SELECT id FROM users WHERE role = 'admin' AND disabled_at IS NULL`,
      );
      expect(rows).toHaveLength(1);
      // Restore the state in which this round began.
      await setRole(processes.database, other.id, 'user');
      await processes.database.query(`UPDATE users SET role = 'admin', disabled_at = NULL WHERE id = $1`, [
        admin.id,
      ]);
      if (answers[1]?.ok) admin = (await signIn(admin)).as;
    }
  });

  test('cannot be changed of an account that does not exist, nor to a role that does not exist', async () => {
    const answer = await changeUser('01890000-0000-7000-8000-000000000001', { role: 'admin' });
    expect(await problemOf(answer)).toEqual([404, 'not_found']);
    const odd = await changeUser(admin.id, { role: 'root' });
    expect(await problemOf(odd)).toEqual([400, 'invalid_request']);
    expect(await problemOf(await changeUser(admin.id, { email: 'x@example.org' }))).toEqual([
      400,
      'invalid_request',
    ]);
  });
});

test('a change without a field is refused, and the error names the fields', async () => {
  const user = await register();
  const answer = await changeUser(user.id, {});
  expect(answer.status).toBe(400);
  expect(await answer.json()).toMatchObject({
    code: 'invalid_request',
    detail: expect.stringMatching(/role, disabled, maxBytes, maxFiles/),
  });
  const { rows } = await processes.database.query(
    `SELECT FROM all_events WHERE type = 'user.changed' AND subject_id = $1`,
    [user.id],
  );
  expect(rows).toEqual([]);
});

test('many sign-ins at once remove expired sessions without an error', async () => {
  const users = await Promise.all([register(), register(), register(), register()]);
  for (const { email } of users) await logIn(processes.url, email);
  await processes.database.query(`UPDATE sessions SET expires_at = now() - interval '1 second'`);
  const answers = await Promise.all(
    [...users, ...users].map(({ email }) => tryLogIn(email, 'correct horse battery')),
  );
  expect(answers.map(({ status }) => status)).toEqual(Array(8).fill(200));
  const { rows } = await processes.database.query('SELECT FROM sessions WHERE expires_at < now()');
  expect(rows).toEqual([]);
});
