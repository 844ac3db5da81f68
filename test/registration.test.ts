import { PASSWORD, registerUser, type TestUser } from './support/client.js';
import { type Processes, startProcesses } from './support/processes.js';
import { eventsOf, newAddress, postAuth, problemOf, send } from './support/sign-in.js';

/*
 * REGISTRATION=invite and closed. Open registration is in accounts.test.ts.
 */

const CLOSED = [403, 'registration_closed'];

let invite: Processes;
let admin: TestUser;

beforeAll(async () => {
  invite = await startProcesses({ REGISTRATION: 'invite' }, ['server', 'server-2']);
});

afterAll(() => invite?.close());

function register(email: string, invitation?: string, part: 'server' | 'server-2' = 'server') {
  const body = { email, password: PASSWORD, ...(invitation === undefined ? {} : { invitation }) };
  return postAuth(invite.urlOf(part), 'register', body);
}

interface InvitationJson {
  id: string;
  email: string | null;
  expiresAt: string;
  token: string;
}

async function createInvitation(body: object = {}): Promise<InvitationJson> {
  const answer = await send(admin, 'POST', '/api/admin/invitations', body);
  expect(answer.status).toBe(201);
  expect(answer.headers.get('Cache-Control')).toBe('no-store');
  return answer.json();
}

const offered = async (url: string) => (await (await fetch(`${url}/api/auth`)).json()).registration;

test('the first account needs no invitation and is the admin’s; the next one does', async () => {
  expect(await offered(invite.url)).toBe('open');
  admin = await registerUser(() => invite.url);
  expect(admin.role).toBe('admin');
  expect(await offered(invite.url)).toBe('invite');
  expect(await problemOf(await register(newAddress()))).toEqual(CLOSED);
  expect(await problemOf(await register(newAddress(), ''))).toEqual(CLOSED);
  expect(await problemOf(await register(newAddress(), 'x'.repeat(43)))).toEqual(CLOSED);
});

test('an invitation makes one account, also when twenty people use it at once on two servers', async () => {
  const { id, token } = await createInvitation();
  const answers = await Promise.all(
    Array.from({ length: 20 }, (_, n) => register(newAddress(), token, n % 2 ? 'server' : 'server-2')),
  );
  const made = answers.filter(({ status }) => status === 201);
  expect(made).toHaveLength(1);
  const refused = answers.filter((answer) => !made.includes(answer));
  for (const answer of refused) expect(await problemOf(answer)).toEqual(CLOSED);
  const { user } = await (made[0] as Response).json();
  expect(user.role).toBe('user');
  const { rows } = await invite.database.query(
    `SELECT data FROM all_events WHERE type = 'auth.register' AND subject_id = $1`,
    [user.id],
  );
  expect(rows).toEqual([{ data: { role: 'user', invitation: id } }]);
  const { rows: counted } = await invite.database.query('SELECT count(*)::integer AS n FROM users');
  expect(counted).toEqual([{ n: 2 }]);
});

test('an invitation for an address admits only that address, however it is written', async () => {
  const email = newAddress();
  const { token, email: bound } = await createInvitation({ email: email.toUpperCase() });
  expect(bound).toBe(email);
  expect(await problemOf(await register(newAddress(), token))).toEqual(CLOSED);
  expect((await register(email.toUpperCase(), token)).status).toBe(201);
});

test('an invitation that has expired or was revoked admits no one', async () => {
  const expired = await createInvitation({ expiresInHours: 1 });
  await invite.database.query(`UPDATE invitations SET expires_at = now() WHERE id = $1`, [expired.id]);
  const revoked = await createInvitation();
  const left = await createInvitation();
  const revoke = () => admin.fetch(`/api/admin/invitations/${revoked.id}`, { method: 'DELETE' });
  expect((await revoke()).status).toBe(204);
  expect(await problemOf(await revoke())).toEqual([404, 'not_found']);
  for (const { token } of [expired, revoked]) {
    expect(await problemOf(await register(newAddress(), token))).toEqual(CLOSED);
  }
  const { items } = await admin.get('/api/admin/invitations');
  expect(items.map(({ id }: InvitationJson) => id)).toEqual([left.id]);
  expect(JSON.stringify(items)).not.toContain(left.token);
  expect(await eventsOf(invite.database, revoked.id)).toEqual(['invitation.created', 'invitation.revoked']);
});

test('the database does not hold the token of an invitation', async () => {
  const { id, token } = await createInvitation();
  const { rows } = await invite.database.query(
    `SELECT t::text AS row FROM invitations t UNION ALL SELECT e::text FROM all_events e`,
  );
  const all = rows.map(({ row }) => row).join('\n');
  expect(all).toContain(id);
  expect(all).not.toContain(token);
  expect(all).not.toContain(Buffer.from(token).toString('hex'));
});

test('a caller without an invitation cannot find out whether an address has an account', async () => {
  const known = await register(admin.email, 'x'.repeat(43));
  const unknown = await register(newAddress(), 'x'.repeat(43));
  expect(await known.json()).toEqual(await unknown.json());
  expect([known.status, unknown.status]).toEqual([403, 403]);
  // A registration of an address that is taken does not spend the invitation.
  const { token } = await createInvitation();
  expect(await problemOf(await register(admin.email, token))).toEqual([409, 'email_taken']);
  expect((await register(newAddress(), token)).status).toBe(201);
});

test.each([
  ['without an invitation', 'registration_closed', async () => [newAddress(), 'x'.repeat(43)]],
  ['of an address that is taken', 'email_taken', async () => [admin.email, (await createInvitation()).token]],
] as const)('a registration %s is in the log, without the address', async (_what, code, form) => {
  const [email = '', invitation] = await form();
  const answer = await register(email, invitation);
  expect((await answer.json()).code).toBe(code);
  const { rows } = await invite.database.query(
    `SELECT type, data, result, e::text AS row FROM all_events e WHERE actor ->> 'requestId' = $1`,
    [answer.headers.get('X-Request-Id')],
  );
  expect(rows).toEqual([
    {
      type: 'auth.register',
      data: { action: 'register', code, method: 'POST' },
      result: 'refused',
      row: expect.not.stringContaining(email),
    },
  ]);
});

test('open registration needs no invitation, but spends one that comes along', async () => {
  const open = await startProcesses({}, ['server']);
  try {
    const boss = await registerUser(() => open.url);
    const { token } = await (await send(boss, 'POST', '/api/admin/invitations', {})).json();
    const attempt = (invitation: string) =>
      postAuth(open.url, 'register', { email: newAddress(), password: PASSWORD, invitation });
    for (const invitation of [token, token, 'x'.repeat(43)]) {
      expect((await attempt(invitation)).status).toBe(201);
    }
    expect((await boss.get('/api/admin/invitations')).items).toEqual([]);
  } finally {
    await open.close();
  }
});

test('closed registration admits only the first account, also when ten people register at once', async () => {
  const closed = await startProcesses({ REGISTRATION: 'closed' }, ['server']);
  try {
    expect(await offered(closed.url)).toBe('open');
    const attempt = () => postAuth(closed.url, 'register', { email: newAddress(), password: PASSWORD });
    const answers = await Promise.all(Array.from({ length: 10 }, attempt));
    const made = answers.filter(({ status }) => status === 201);
    expect(made).toHaveLength(1);
    for (const answer of answers) {
      if (answer.status !== 201) expect(await problemOf(answer)).toEqual(CLOSED);
    }
    const { user } = await (made[0] as Response).json();
    expect(user.role).toBe('admin');
    expect(await offered(closed.url)).toBe('closed');
    const taken = await postAuth(closed.url, 'register', { email: user.email, password: PASSWORD });
    expect(await problemOf(taken)).toEqual(CLOSED);
  } finally {
    await closed.close();
  }
});
