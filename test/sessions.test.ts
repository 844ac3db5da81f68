import { randomBytes } from 'node:crypto';
import { waitingForLocks, whenSomebodyWaitsFor } from './support/barrier.js';
import { registerUser, type TestUser } from './support/client.js';
import { countRead } from './support/plans.js';
import { startPostgresProxy } from './support/postgres-proxy.js';
import { type Processes, startProcesses } from './support/processes.js';
import { eventsOf, newSession, postAuth, problemOf, refresh, refreshed, sha256 } from './support/sign-in.js';

/*
 * The rotation of refresh tokens, and the end of a session when a token comes a second time. Two servers
 * share the database.
 */

const ENDED = [401, 'unauthenticated'];

let processes: Processes;
let user: TestUser;

beforeAll(async () => {
  processes = await startProcesses({}, ['server', 'server-2']);
  user = await registerUser(() => processes.url);
});

afterAll(() => processes?.close());

const signIn = () => newSession(() => processes.url, user.email);
const here = (token: string) => refresh(processes.url, token);
const there = (token: string) => refresh(processes.urlOf('server-2'), token);
const next = async (token: string) => (await refreshed(processes.url, token)).refreshToken;

/** Makes the token one that was replaced longer ago than its grace. */
async function endGrace(token: string): Promise<void> {
  const { rowCount } = await processes.database.query(
    `UPDATE refresh_tokens SET replaced_at = replaced_at - interval '10 seconds' WHERE token_hash = $1
       AND replaced_at IS NOT NULL`,
    [sha256(token)],
  );
  expect(rowCount).toBe(1);
}

/** How often the log says that a token was used a second time in this session. */
async function reuses(token: { sessionId: string }): Promise<number> {
  const { rows } = await processes.database.query(
    `SELECT FROM all_events WHERE type = 'auth.token_reused' AND result = 'refused' AND subject_id = $1
       AND actor ->> 'sessionId' = $2`,
    [user.id, token.sessionId],
  );
  return rows.length;
}

async function sessionOf(token: string): Promise<string> {
  const { rows } = await processes.database.query(
    'SELECT session_id FROM refresh_tokens WHERE token_hash = $1',
    [sha256(token)],
  );
  return rows[0].session_id;
}

test('each refresh gives a new token, which works next, and moves the expiry of the session', async () => {
  const { refreshToken: first, accessToken } = await signIn();
  const sessionId = await sessionOf(first);
  await processes.database.query(
    `UPDATE sessions SET expires_at = now() + interval '1 hour', last_used_at = now() - interval '1 day'
     WHERE id = $1`,
    [sessionId],
  );
  const second = await refreshed(processes.url, first);
  const third = await refreshed(processes.urlOf('server-2'), second.refreshToken);
  expect(new Set([first, second.refreshToken, third.refreshToken]).size).toBe(3);
  const sid = (token: string) =>
    JSON.parse(Buffer.from(token.split('.')[1] ?? '', 'base64url').toString()).sid;
  expect([accessToken, second.accessToken, third.accessToken].map(sid)).toEqual(Array(3).fill(sessionId));
  const { rows } = await processes.database.query(
    `SELECT expires_at > now() + interval '29 days' AS later, last_used_at > now() - interval '1 minute' AS used
     FROM sessions WHERE id = $1`,
    [sessionId],
  );
  expect(rows).toEqual([{ later: true, used: true }]);
});

test('no table holds a refresh token', async () => {
  const { refreshToken } = await signIn();
  const tokens = [refreshToken, await next(refreshToken)];
  const { rows: tables } = await processes.database.query(
    `SELECT quote_ident(table_schema) || '.' || quote_ident(table_name) AS name FROM information_schema.tables
     WHERE table_schema NOT IN ('pg_catalog', 'information_schema') AND table_type = 'BASE TABLE'`,
  );
  expect(tables.map(({ name }) => name)).toContain('public.refresh_tokens');
  for (const { name } of tables) {
    const { rows } = await processes.database.query(`SELECT t::text AS row FROM ${name} AS t`);
    const all = rows.map(({ row }) => row).join('\n');
    for (const token of tokens) {
      expect(all).not.toContain(token);
      expect(all).not.toContain(Buffer.from(token).toString('hex'));
      expect(all).not.toContain(Buffer.from(token, 'base64url').toString('hex'));
    }
  }
});

describe('within its grace a token that was replaced', () => {
  test('gives all of ten parallel refreshes on two servers the same successor, and the session lives', async () => {
    const { refreshToken } = await signIn();
    const answers = await Promise.all(
      Array.from({ length: 10 }, (_, n) => (n % 2 ? here(refreshToken) : there(refreshToken))),
    );
    expect(answers.map(({ status }) => status)).toEqual(Array(10).fill(200));
    const tokens = new Set(await Promise.all(answers.map(async (a) => (await a.json()).refreshToken)));
    expect(tokens.size).toBe(1);
    const [successor = ''] = tokens;
    expect((await there(successor)).status).toBe(200);
  });

  test('gives the newest token, also when its successor was replaced meanwhile', async () => {
    const { refreshToken: first } = await signIn();
    const second = await next(first);
    const third = await next(second);
    expect(await next(first)).toBe(third);
    expect(await next(second)).toBe(third);
    expect((await here(third)).status).toBe(200);
  });

  test('is good for ten seconds and no longer', async () => {
    const { refreshToken } = await signIn();
    const successor = await next(refreshToken);
    const age = (seconds: number) =>
      processes.database.query(
        `UPDATE refresh_tokens SET replaced_at = now() - $2 * interval '1 second' WHERE token_hash = $1`,
        [sha256(refreshToken), seconds],
      );
    await age(5);
    expect(await next(refreshToken)).toBe(successor);
    await age(10);
    expect(await problemOf(await here(refreshToken))).toEqual(ENDED);
  });
});

test('the grace begins when the next token is made, however long the refresh had to wait', async () => {
  const { refreshToken } = await signIn();
  const blocker = await processes.database.connect();
  await blocker.query('BEGIN');
  await blocker.query('SELECT FROM sessions WHERE id = $1 FOR UPDATE', [await sessionOf(refreshToken)]);
  const answer = here(refreshToken);
  await whenSomebodyWaitsFor(processes.database, blocker);
  const { rows } = await blocker.query('SELECT clock_timestamp() AS released');
  await blocker.query('COMMIT');
  expect((await answer).status).toBe(200);
  const { rowCount } = await processes.database.query(
    'SELECT FROM refresh_tokens WHERE token_hash = $1 AND replaced_at > $2',
    [sha256(refreshToken), rows[0].released],
  );
  expect(rowCount).toBe(1);
});

describe('a token that comes a second time after its grace ends the session', () => {
  test('with its newest token, and an event says so, once', async () => {
    const { refreshToken: first, as } = await signIn();
    const sessionId = await sessionOf(first);
    const other = await signIn();
    const second = await next(first);
    const third = await next(second);
    await endGrace(first);
    expect(await problemOf(await here(first))).toEqual(ENDED);
    for (const token of [third, second, first]) expect(await problemOf(await there(token))).toEqual(ENDED);
    expect(await reuses({ sessionId })).toBe(1);
    // The access token can still read files until it expires. The other session goes on.
    expect(await problemOf(await as.fetch('/api/me/sessions'))).toEqual(ENDED);
    expect((await here(other.refreshToken)).status).toBe(200);
  });

  test('when the thief comes first', async () => {
    const { refreshToken: stolen } = await signIn();
    const sessionId = await sessionOf(stolen);
    const ofThief = await next(stolen);
    await endGrace(stolen);
    expect(await problemOf(await here(stolen))).toEqual(ENDED);
    expect(await problemOf(await here(ofThief))).toEqual(ENDED);
    expect(await reuses({ sessionId })).toBe(1);
  });

  test('when the victim comes first', async () => {
    const { refreshToken: stolen } = await signIn();
    const ofVictim = await next(await next(stolen));
    await endGrace(stolen);
    expect(await problemOf(await there(stolen))).toEqual(ENDED);
    expect(await problemOf(await here(ofVictim))).toEqual(ENDED);
  });

  test('when thief and victim come at the same moment, to two servers', async () => {
    for (let round = 0; round < 15; round++) {
      const { refreshToken: stolen } = await signIn();
      const sessionId = await sessionOf(stolen);
      const newest = await next(stolen);
      await endGrace(stolen);
      const [thief, victim] = await Promise.all([here(stolen), there(newest)]);
      expect(await problemOf(thief)).toEqual(ENDED);
      expect([200, 401]).toContain(victim.status);
      const got = victim.ok ? (await victim.json()).refreshToken : newest;
      expect(await problemOf(await here(got))).toEqual(ENDED);
      expect(await reuses({ sessionId })).toBe(1);
    }
  });
});

describe('of a long session', () => {
  /** Moves all its refreshes so far back by `ago`. */
  const age = (sessionId: string, ago: string) =>
    processes.database.query(
      'UPDATE refresh_tokens SET replaced_at = replaced_at - $2::interval WHERE session_id = $1',
      [sessionId, ago],
    );

  /** Refreshes the session `times` times. @returns all its tokens, oldest first */
  async function goOn(token: string, times: number): Promise<string[]> {
    const tokens = [token];
    const sessionId = await sessionOf(token);
    for (let n = 0; n < times; n++) {
      tokens.push(await next(tokens.at(-1) ?? ''));
      await age(sessionId, '2 minutes');
    }
    return tokens;
  }

  const count = async (sessionId: string) =>
    (await processes.database.query('SELECT FROM refresh_tokens WHERE session_id = $1', [sessionId]))
      .rowCount ?? 0;

  test('few hashes are kept, and the oldest token still ends it, once', async () => {
    const { refreshToken } = await signIn();
    const sessionId = await sessionOf(refreshToken);
    const tokens = await goOn(refreshToken, 30);
    expect(await count(sessionId)).toBeLessThan(5);
    const newest = tokens.at(-1) ?? '';
    expect(await problemOf(await there(tokens[0] ?? ''))).toEqual(ENDED);
    expect(await problemOf(await here(newest))).toEqual(ENDED);
    expect(await problemOf(await here(tokens[1] ?? ''))).toEqual(ENDED);
    expect(await reuses({ sessionId })).toBe(1);
  });

  test('the oldest token signs out', async () => {
    const { refreshToken } = await signIn();
    const [oldest = '', ...later] = await goOn(refreshToken, 3);
    expect((await postAuth(processes.url, 'logout', { refreshToken: oldest })).status).toBe(204);
    expect(await problemOf(await here(later.at(-1) ?? ''))).toEqual(ENDED);
  });

  test('a forged token cannot end the session', async () => {
    const [mine, other] = await Promise.all([signIn(), signIn()]);
    const tokens = await goOn(mine.refreshToken, 3);
    const [secret = '', session = '', seal = ''] = mine.refreshToken.split('.');
    const [, otherSession = '', otherSeal = ''] = other.refreshToken.split('.');
    const another = randomBytes(32).toString('base64url');
    // A forged token does not wait for the session either: many of them must not delay its owner.
    const holder = await processes.database.connect();
    await holder.query('BEGIN');
    await holder.query('SELECT FROM sessions WHERE user_id = $1 FOR UPDATE', [user.id]);
    for (const forged of [
      [another, session, seal],
      [secret, session, otherSeal],
      [secret, otherSession, seal],
      [another, session, randomBytes(16).toString('base64url')],
      [secret, session],
      [secret, session, ''],
    ]) {
      expect(await problemOf(await here(forged.join('.')))).toEqual(ENDED);
      await postAuth(processes.url, 'logout', { refreshToken: forged.join('.') });
    }
    await holder.query('COMMIT');
    expect((await here(tokens.at(-1) ?? '')).status).toBe(200);
    expect((await here(other.refreshToken)).status).toBe(200);
  });

  test('opened by an earlier version, the tokens of that version are accepted too', async () => {
    const { refreshToken } = await signIn();
    const sessionId = await sessionOf(refreshToken);
    const early = randomBytes(32).toString('base64url');
    const used = randomBytes(32).toString('base64url');
    await processes.database.query('DELETE FROM refresh_tokens WHERE session_id = $1', [sessionId]);
    await processes.database.query('UPDATE sessions SET token_key = NULL WHERE id = $1', [sessionId]);
    await processes.database.query(
      `INSERT INTO refresh_tokens (token_hash, session_id, replaced_at)
       VALUES ($1, $3, NULL), ($2, $3, now() - interval '20 days')`,
      [sha256(early), sha256(used), sessionId],
    );
    const second = await next(early);
    expect(await next(early)).toBe(second);
    await age(sessionId, '2 minutes');
    await goOn(second, 3);
    // The two hashes without a seal are kept, and of the others the last ones.
    expect(await count(sessionId)).toBeLessThan(7);
    expect(await problemOf(await here(used))).toEqual(ENDED);
    expect(await reuses({ sessionId })).toBe(1);
  });
});

test('a refresh while all sessions of the account are being ended gets 200 or 401', async () => {
  for (let round = 0; round < 5; round++) {
    const [{ as }, ...others] = await Promise.all([signIn(), signIn(), signIn(), signIn()]);
    const answers = await Promise.all([
      ...others.map(({ refreshToken }) => there(refreshToken)),
      as.fetch('/api/me/sessions', { method: 'DELETE' }),
    ]);
    expect(answers.pop()?.status).toBe(204);
    for (const { status } of answers) expect([200, 401]).toContain(status);
  }
});

describe('a server that is killed', () => {
  afterEach(() => processes.start('server'));

  test('before the exchange is committed leaves the old token good', async () => {
    const { refreshToken } = await signIn();
    const blocker = await processes.database.connect();
    await blocker.query('BEGIN');
    await blocker.query('SELECT FROM sessions WHERE id = $1 FOR UPDATE', [await sessionOf(refreshToken)]);
    const lost = here(refreshToken).then(
      () => 'answered',
      () => 'lost',
    );
    await waitingForLocks(processes.database, 1);
    await processes.kill('server');
    expect(await lost).toBe('lost');
    await blocker.query('COMMIT');
    expect((await there(refreshToken)).status).toBe(200);
  });

  test('between commit and answer leaves both tokens good, the old one for its grace', async () => {
    const { refreshToken } = await signIn();
    const unheard = await next(refreshToken);
    await processes.kill('server');
    // The token is stored nowhere: the other server derives the same one.
    const { refreshToken: again } = await refreshed(processes.urlOf('server-2'), refreshToken);
    expect(again).toBe(unheard);
    expect((await there(again)).status).toBe(200);
  });
});

test('another JWT_SECRET ends access tokens at once, and sessions go on', async () => {
  const renewed = await startProcesses(
    { JWT_SECRET: randomBytes(32).toString('hex') },
    ['server'],
    async () => processes.database.url,
  );
  try {
    // This token must still be in its grace when it comes to the new server, so it is replaced only now.
    const { refreshToken, as } = await signIn();
    const replaced = await signIn();
    const successor = await next(replaced.refreshToken);
    expect(await problemOf(await as.at(() => renewed.url).fetch('/api/me'))).toEqual(ENDED);
    const { accessToken } = await refreshed(renewed.url, refreshToken);
    const me = await fetch(`${renewed.url}/api/me`, { headers: { Authorization: `Bearer ${accessToken}` } });
    expect((await me.json()).id).toBe(user.id);
    // The new secret cannot derive the same successor again, but a client that has the successor goes on.
    expect(await problemOf(await refresh(renewed.url, replaced.refreshToken))).toEqual(ENDED);
    expect((await refresh(renewed.url, successor)).status).toBe(200);
  } finally {
    await renewed.close();
  }
});

test('tokens of no session are refused, whatever their form', async () => {
  const unknown = randomBytes(32).toString('base64url');
  for (const token of [unknown, user.token, 'x', '😀'.repeat(100), "' OR 1=1 --"]) {
    expect(await problemOf(await here(token))).toEqual(ENDED);
  }
  expect(await eventsOf(processes.database, user.id)).not.toContain('auth.token_reused');
});

test('a refresh reads few tokens, however many its session has had', async () => {
  const proxy = await startPostgresProxy();
  const own = await startProcesses({}, ['server'], proxy.reach);
  try {
    const { email } = await registerUser(() => own.url);
    const { refreshToken } = await newSession(() => own.url, email);
    await own.database.query(
      `INSERT INTO refresh_tokens
       SELECT sha256(n::text::bytea), session_id, now() FROM refresh_tokens, generate_series(1, 50000) AS n
       WHERE token_hash = $1`,
      [sha256(refreshToken)],
    );
    await own.database.query('ANALYZE refresh_tokens');
    const before = proxy.statements.length;
    await refreshed(own.url, refreshToken);
    const statements = proxy.statements.slice(before).filter(({ text }) => text.includes('refresh_tokens'));
    expect(statements.map(({ text }) => /^\w+/.exec(text)?.[0])).toEqual(
      expect.arrayContaining(['SELECT', 'UPDATE', 'DELETE', 'INSERT']),
    );
    for (const { text, parameters } of statements) {
      if (text.startsWith('INSERT')) continue;
      // The proxy shows parameters as text, which a binary hash is not.
      const values = text.includes('token_hash = $1')
        ? [sha256(refreshToken), ...parameters.slice(1)]
        : parameters;
      const read = await countRead(own.database, text, values);
      expect([text, read < 10 ? 'few' : read]).toEqual([text, 'few']);
    }
  } finally {
    await own.close();
    await proxy.close();
  }
});
