import { closeBarrier, waitingForLocks } from './support/barrier.js';
import { PASSWORD, registerUser, type TestUser } from './support/client.js';
import { type Processes, startProcesses } from './support/processes.js';
import {
  eventsOf,
  newSession,
  postAuth,
  problemOf,
  refresh,
  registerAdmin,
  send,
} from './support/sign-in.js';

/*
 * Requests that arrive while the right to them is being taken away. A thief with a stolen session must not
 * gain another way in while that session is being ended. The same changes one after the other are in
 * account-changes.test.ts.
 */

const NEXT = 'another long password';
const THIEFS = 'password of a thief';
const WRONG = [401, 'wrong_credentials'];
const ENDED = [401, 'unauthenticated'];
const DONE = [204];

let processes: Processes;
let admin: TestUser;

beforeAll(async () => {
  processes = await startProcesses({}, ['server', 'server-2']);
  admin = await registerUser(() => processes.url);
});

afterAll(() => processes?.close());

type Session = Awaited<ReturnType<typeof newSession>>;

const signIn = (who: TestUser) => newSession(() => processes.url, who.email);
const elsewhere = (as: TestUser) => as.at(() => processes.urlOf('server-2'));
const changePassword = (as: TestUser, newPassword: string) =>
  send(as, 'POST', '/api/me/password', { currentPassword: PASSWORD, newPassword });
const changeUser = (as: TestUser, id: string, change: object) =>
  send(as, 'PATCH', `/api/admin/users/${id}`, change);
const logsIn = async (email: string, password: string) =>
  (await postAuth(processes.url, 'login', { email, password })).ok;
const outcomeOf = async (answer: Response) => (answer.ok ? [answer.status] : problemOf(answer));

/**
 * Stops `first` before it changes a row and starts `second`. Both go on once `second` waits for `first` or is
 * answered.
 * @param statement such as `UPDATE ON users`
 * @param when which rows, in terms of NEW and OLD
 */
async function meanwhile(
  [statement, when]: readonly [string, string],
  first: () => Promise<Response>,
  second: () => Promise<Response>,
): Promise<unknown[][]> {
  const barrier = await closeBarrier(processes.database, statement, when);
  const one = first();
  await barrier.reached();
  const other = second();
  let isAnswered = false;
  other.then(() => {
    isAnswered = true;
  });
  await waitingForLocks(processes.database, 2, () => isAnswered);
  await barrier.open();
  return Promise.all([one, other].map(async (answer) => outcomeOf(await answer)));
}

const newHash = (id: string) =>
  ['UPDATE ON users', `NEW.id = '${id}' AND NEW.password_hash <> OLD.password_hash`] as const;

describe('of two changes of the password at once, with the same old one,', () => {
  test('the second does nothing: a thief does not override the owner who has just shut him out', async () => {
    const user = await registerUser(() => processes.url);
    const [victim, thief] = [await signIn(user), await signIn(user)];
    const outcomes = await meanwhile(
      newHash(user.id),
      () => changePassword(victim.as, NEXT),
      () => changePassword(elsewhere(thief.as), THIEFS),
    );
    expect(outcomes).toEqual([DONE, ENDED]);
    expect(await logsIn(user.email, THIEFS)).toBe(false);
    expect(await logsIn(user.email, NEXT)).toBe(true);
    expect((await refresh(processes.url, victim.refreshToken)).status).toBe(200);
    expect((await refresh(processes.url, thief.refreshToken)).status).toBe(401);
  });

  test('by one session, the second finds that it is not the old one any more', async () => {
    const user = await registerUser(() => processes.url);
    const outcomes = await meanwhile(
      newHash(user.id),
      () => changePassword(user, NEXT),
      () => changePassword(elsewhere(user), 'a third long password'),
    );
    expect(outcomes).toEqual([DONE, WRONG]);
    expect(await logsIn(user.email, NEXT)).toBe(true);
    const events = await eventsOf(processes.database, user.id);
    expect(events.filter((type) => type.startsWith('auth.password'))).toEqual([
      'auth.password',
      'auth.password!',
    ]);
  });
});

/** The actions that end the thief's session, and the statement at which each can be stopped. */
const ENDS = {
  'another password': (victim: Session) => ({
    at: newHash(victim.user.id),
    end: () => changePassword(victim.as, NEXT),
  }),
  'a lock-out': ({ user }: Session) => ({
    at: ['UPDATE ON users', `NEW.id = '${user.id}' AND NEW.disabled_at IS NOT NULL`] as const,
    end: () => changeUser(admin, user.id, { disabled: true }),
  }),
  'another role': ({ user }: Session) => ({
    at: ['UPDATE ON users', `NEW.id = '${user.id}' AND NEW.role <> OLD.role`] as const,
    end: () => changeUser(admin, user.id, { role: 'admin' }),
  }),
  'its end by the owner': ({ user, as }: Session) => ({
    at: ['DELETE ON sessions', `OLD.user_id = '${user.id}'`] as const,
    end: () => as.fetch('/api/me/sessions', { method: 'DELETE' }),
  }),
};

/** The requests that would let a thief stay. */
const ATTEMPTS: [string, (as: TestUser) => Promise<Response>][] = [
  ['password', (as) => changePassword(as, THIEFS)],
  ['key', (as) => send(as, 'POST', '/api/keys', { name: 'a', scopes: ['manage'] })],
  ['upload token', (as) => send(as, 'POST', '/api/upload-tokens', {})],
  ['end of the others', (as) => as.fetch('/api/me/sessions', { method: 'DELETE' })],
];

test.each(Object.entries(ENDS))(
  'a session that is being ended by %s leaves no key, token or password behind',
  async (_how, endOf) => {
    for (const [what, attempt] of ATTEMPTS) {
      const user = await registerUser(() => processes.url);
      const [victim, thief] = [await signIn(user), await signIn(user)];
      const { at, end } = endOf(victim);
      const [ended, tried] = await meanwhile(at, end, () => attempt(elsewhere(thief.as)));
      expect([what, ended?.[0], tried]).toEqual([what, expect.any(Number), ENDED]);
      expect(ended?.[0]).toBeLessThan(300);
      const { rows } = await processes.database.query(
        `SELECT id FROM api_keys WHERE user_id = $1 UNION ALL SELECT id FROM upload_tokens WHERE owner_id = $1`,
        [user.id],
      );
      expect([what, rows]).toEqual([what, []]);
      expect(await logsIn(user.email, THIEFS)).toBe(false);
    }
  },
);

describe('an admin who is being locked out', () => {
  let other: TestUser;
  let user: TestUser;

  beforeEach(async () => {
    other = await registerAdmin(() => processes.url, processes.database);
    user = await registerUser(() => processes.url);
  });

  const lockOut = (attempt: (as: TestUser) => Promise<Response>) =>
    meanwhile(
      ['UPDATE ON users', `NEW.id = '${other.id}' AND NEW.disabled_at IS NOT NULL`],
      () => changeUser(admin, other.id, { disabled: true }),
      () => attempt(elsewhere(other)),
    );

  test('changes no account', async () => {
    expect(await lockOut((as) => changeUser(as, user.id, { role: 'admin' }))).toEqual([[200], ENDED]);
    const { rows } = await processes.database.query('SELECT role FROM users WHERE id = $1', [user.id]);
    expect(rows).toEqual([{ role: 'user' }]);
  });

  test('cannot invite', async () => {
    expect(await lockOut((as) => send(as, 'POST', '/api/admin/invitations', {}))).toEqual([[200], ENDED]);
    expect((await processes.database.query('SELECT FROM invitations')).rows).toEqual([]);
  });

  test.each([
    ['changes no account', () => changeUser(other, user.id, { role: 'admin' })],
    ['invites nobody', () => send(other, 'POST', '/api/admin/invitations', {})],
  ])('or demoted without a session, %s', async (_what, attempt) => {
    // A token of an identity provider belongs to no session. This session stays because the test writes the
    // row itself.
    const blocker = await processes.database.connect();
    await blocker.query('BEGIN');
    await blocker.query(`UPDATE users SET role = 'user' WHERE id = $1`, [other.id]);
    const late = attempt();
    await waitingForLocks(processes.database, 1);
    await blocker.query('COMMIT');
    const answer = await late;
    expect(await problemOf(answer)).toEqual([403, 'forbidden']);
    const { rows } = await processes.database.query(
      `SELECT data ->> 'code' AS code FROM all_events WHERE result = 'refused' AND actor ->> 'requestId' = $1`,
      [answer.headers.get('X-Request-Id')],
    );
    expect(rows).toEqual([{ code: 'forbidden' }]);
  });
});
