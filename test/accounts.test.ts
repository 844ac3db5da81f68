import { randomUUID } from 'node:crypto';
import jwt from 'jsonwebtoken';
import { v7 as uuidv7 } from 'uuid';
import { deriveKeys } from '../server/auth/keys.js';
import { signToken } from '../server/auth/tokens.js';
import { idOf, PASSWORD, registerUser, type TestUser } from './support/client.js';
import { type Processes, startProcesses } from './support/processes.js';
import { until } from './support/until.js';

const SECRET = 'a secret of this test, long enough for a key';
const keys = deriveKeys(SECRET);

let processes: Processes;
let admin: TestUser;
let user: TestUser;

beforeAll(async () => {
  processes = await startProcesses({ JWT_SECRET: SECRET, TRUST_PROXY: 'loopback' }, ['server']);
  admin = await registerUser(() => processes.url);
  user = await registerUser(() => processes.url);
});

afterAll(() => processes?.close());

type Action = 'register' | 'login' | 'refresh' | 'logout';

function post(action: Action, body: unknown, headers: Record<string, string> = {}): Promise<Response> {
  return fetch(`${processes.url}/api/auth/${action}`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json', ...headers },
    body: typeof body === 'string' ? body : JSON.stringify(body),
  });
}

const newAccount = () => ({ email: `${randomUUID()}@example.org`, password: PASSWORD });

/** Cookies of an answer: name → value and attributes (in lower case). */
function cookiesOf(answer: Response): Record<string, { value: string; attributes: string[] }> {
  return Object.fromEntries(
    answer.headers.getSetCookie().map((line) => {
      const [pair = '', ...attributes] = line.split('; ');
      const [name = '', value = ''] = pair.split('=');
      return [name, { value, attributes: attributes.map((attribute) => attribute.toLowerCase()) }];
    }),
  );
}

const refreshCookieOf = (answer: Response) => `landfall_refresh=${cookiesOf(answer).landfall_refresh?.value}`;

async function expectProblem(answer: Response, status: number, code: string): Promise<{ detail?: string }> {
  const problem = await answer.json();
  expect(problem).toMatchObject({ status, code, title: expect.any(String), type: 'about:blank' });
  expect(answer.status).toBe(status);
  expect(answer.headers.get('Content-Type')).toMatch(/^application\/problem\+json/);
  if (status === 401) expect(answer.headers.get('WWW-Authenticate')).toBe('Bearer');
  return problem;
}

describe('registration', () => {
  test('makes only the first account an admin, also when ten people register at once', async () => {
    const fresh = await startProcesses({}, ['server']);
    try {
      const users = await Promise.all(Array.from({ length: 10 }, () => registerUser(() => fresh.url)));
      expect(users.filter(({ role }) => role === 'admin')).toHaveLength(1);
      expect(users.filter(({ role }) => role === 'user')).toHaveLength(9);
      const { rows } = await fresh.database.query(`SELECT id FROM users WHERE role = 'admin'`);
      expect(rows).toEqual([{ id: users.find(({ role }) => role === 'admin')?.id }]);
    } finally {
      await fresh.close();
    }
  });

  test('answers with the account and its tokens, which work', async () => {
    const account = newAccount();
    const answer = await post('register', account);
    expect(answer.status).toBe(201);
    expect(answer.headers.get('Cache-Control')).toBe('no-store');
    const body = await answer.json();
    expect(body).toEqual({
      user: { id: expect.any(String), email: account.email, role: 'user' },
      accessToken: expect.any(String),
      refreshToken: expect.any(String),
      expiresIn: 900,
    });
    const me = await fetch(`${processes.url}/api/me`, {
      headers: { Authorization: `Bearer ${body.accessToken}` },
    });
    expect(await me.json()).toMatchObject({ id: body.user.id, role: 'user' });
  });

  test('keeps neither password nor refresh token in the clear', async () => {
    const account = newAccount();
    const { user: made, refreshToken } = await (await post('register', account)).json();
    const { rows } = await processes.database.query(
      `SELECT u.*, t.token_hash FROM users u JOIN sessions s ON s.user_id = u.id
       JOIN refresh_tokens t ON t.session_id = s.id WHERE u.id = $1`,
      [made.id],
    );
    expect(rows[0].password_hash).toMatch(/^\$argon2id\$/);
    expect(JSON.stringify(rows)).not.toContain(PASSWORD);
    expect(rows[0].token_hash).toHaveLength(32);
    expect(rows[0].token_hash.toString()).not.toContain(refreshToken);
  });

  test('takes an address once, however it is written and at the same time', async () => {
    const account = newAccount();
    const shouted = { ...account, email: account.email.toUpperCase() };
    const answers = await Promise.all([post('register', account), post('register', shouted)]);
    expect(answers.map(({ status }) => status).sort()).toEqual([201, 409]);
    await expectProblem(await post('register', shouted), 409, 'email_taken');
    await expectProblem(await post('register', account), 409, 'email_taken');
  });

  test.each([
    ['email', { password: PASSWORD }],
    ['email', { email: 'nobody', password: PASSWORD }],
    ['email', { email: 'two@at@example.org', password: PASSWORD }],
    ['email', { email: 'nul\0@example.org', password: PASSWORD }],
    ['email', { email: `${'x'.repeat(250)}@example.org`, password: PASSWORD }],
    ['email', { email: { $ne: null }, password: PASSWORD }],
    ['password', { email: 'a@example.org' }],
    ['password', { email: 'a@example.org', password: 'short' }],
    ['password', { email: 'a@example.org', password: 'x'.repeat(201) }],
    ['password', { email: 'a@example.org', password: 12345678 }],
  ])('names the field that is wrong: %s in %j', async (field, body) => {
    for (const action of ['register', 'login'] as const) {
      const { detail } = await expectProblem(await post(action, body), 400, 'invalid_request');
      expect(detail).toMatch(new RegExp(`^${field} in the body: `));
    }
  });

  test.each([
    ['half of JSON', '{"email": "a@ex'],
    ['a list', '[]'],
    ['a word', '"admin"'],
    ['null', 'null'],
    ['nothing', ''],
  ])('a body that is %s is refused', async (_name, body) => {
    await expectProblem(await post('register', body), 400, 'invalid_request');
  });

  test('a body without end or of another type is refused', async () => {
    await expectProblem(
      await post('register', { ...newAccount(), x: 'x'.repeat(200_000) }),
      413,
      'too_large',
    );
    const form = { 'Content-Type': 'application/x-www-form-urlencoded' };
    await expectProblem(
      await post('register', 'email=a%40example.org&password=12345678', form),
      415,
      'unsupported_media_type',
    );
  });

  test('a role cannot be asked for', async () => {
    const answer = await post('register', { ...newAccount(), role: 'admin', id: admin.id });
    expect((await answer.json()).user.role).toBe('user');
  });
});

describe('signing in', () => {
  test('works with the address in any case, and with the right password only', async () => {
    const answer = await post('login', { email: user.email.toUpperCase(), password: PASSWORD });
    expect(answer.status).toBe(200);
    expect(await answer.json()).toMatchObject({ user: { id: user.id, email: user.email, role: 'user' } });
    for (const password of [PASSWORD.toUpperCase(), `${PASSWORD} `, PASSWORD.slice(0, -1)]) {
      expect((await post('login', { email: user.email, password })).status).toBe(401);
    }
  });

  test('does not tell whether an address has an account', async () => {
    const wrong = await post('login', { email: user.email, password: 'not the password' });
    const unknown = await post('login', { email: 'unknown@example.org', password: 'not the password' });
    // These headers differ for each request.
    const headers = (answer: Response) =>
      [...answer.headers].filter(([name]) => !['date', 'x-request-id', 'ratelimit'].includes(name));
    expect(headers(unknown)).toEqual(headers(wrong));
    const problem = await expectProblem(wrong, 401, 'wrong_credentials');
    expect(await unknown.json()).toEqual(problem);
  });
});

describe('a session', () => {
  async function logIn(): Promise<{ answer: Response; refreshToken: string }> {
    const answer = await post('login', { email: user.email, password: PASSWORD });
    return { answer, refreshToken: (await answer.clone().json()).refreshToken };
  }

  test('goes on with the cookie of the page', async () => {
    const { answer } = await logIn();
    const refreshed = await post('refresh', {}, { Cookie: refreshCookieOf(answer) });
    expect(refreshed.status).toBe(200);
    const { accessToken, user: who } = await refreshed.json();
    expect(who.id).toBe(user.id);
    const me = await fetch(`${processes.url}/api/me`, {
      headers: { Authorization: `Bearer ${accessToken}` },
    });
    expect(me.status).toBe(200);
  });

  test('goes on with the token in the body', async () => {
    const { refreshToken } = await logIn();
    const refreshed = await post('refresh', { refreshToken });
    expect(refreshed.status).toBe(200);
    expect((await refreshed.json()).user.id).toBe(user.id);
  });

  test('ends at sign-out, by cookie or by body, and other sessions go on', async () => {
    const [byCookie, byBody, other] = [await logIn(), await logIn(), await logIn()];
    const cookie = refreshCookieOf(byCookie.answer);
    const out = await post('logout', {}, { Cookie: cookie });
    expect(out.status).toBe(204);
    for (const name of ['landfall_refresh', 'landfall_board']) {
      expect(cookiesOf(out)[name]).toEqual({
        value: '',
        attributes: expect.arrayContaining(['expires=thu, 01 jan 1970 00:00:00 gmt']),
      });
    }
    await expectProblem(await post('refresh', {}, { Cookie: cookie }), 401, 'unauthenticated');

    expect((await post('logout', { refreshToken: byBody.refreshToken })).status).toBe(204);
    await expectProblem(await post('refresh', { refreshToken: byBody.refreshToken }), 401, 'unauthenticated');
    expect((await post('refresh', { refreshToken: other.refreshToken })).status).toBe(200);
    // A second sign-out succeeds too: the session has ended, as asked.
    expect((await post('logout', {})).status).toBe(204);
    expect((await post('logout', { refreshToken: byBody.refreshToken })).status).toBe(204);
  });

  test('ends after its time', async () => {
    const { refreshToken } = await logIn();
    await processes.database.query(
      `UPDATE sessions SET expires_at = now() - interval '1 second'
       WHERE id = (SELECT session_id FROM refresh_tokens WHERE token_hash = sha256($1))`,
      [refreshToken],
    );
    await expectProblem(await post('refresh', { refreshToken }), 401, 'unauthenticated');
  });

  test('needs a refresh token that was given out', async () => {
    await expectProblem(await post('refresh', {}), 401, 'unauthenticated');
    for (const refreshToken of ['', 'x'.repeat(43), user.token]) {
      await expectProblem(await post('refresh', { refreshToken }), 401, 'unauthenticated');
    }
    for (const refreshToken of [1, '\0']) {
      await expectProblem(await post('refresh', { refreshToken }), 400, 'invalid_request');
    }
  });
});

describe('cookies', () => {
  const logIn = (who: TestUser, headers = {}) =>
    post('login', { email: who.email, password: PASSWORD }, headers);

  test('are out of reach of scripts and other sites, and sent only where they are needed', async () => {
    const { landfall_refresh: refresh, landfall_board: board } = cookiesOf(await logIn(admin));
    const days30 = `max-age=${30 * 86_400}`;
    expect(refresh?.attributes).toEqual(
      expect.arrayContaining(['httponly', 'samesite=strict', 'path=/api/auth', days30]),
    );
    expect(board?.attributes).toEqual(
      expect.arrayContaining(['httponly', 'samesite=strict', 'path=/admin/queues', 'max-age=900']),
    );
  });

  test('are for encrypted connections only where there is one', async () => {
    const encrypted = cookiesOf(await logIn(admin, { 'X-Forwarded-Proto': 'https' }));
    const plain = cookiesOf(await logIn(admin));
    for (const name of ['landfall_refresh', 'landfall_board']) {
      expect(encrypted[name]?.attributes).toContain('secure');
      expect(plain[name]?.attributes).not.toContain('secure');
    }
  });

  test('are for encrypted connections too where the public address says so', async () => {
    const hidden = await startProcesses({ PUBLIC_URL: 'https://files.example.org' }, ['server']);
    try {
      const { email } = await registerUser(() => hidden.url);
      const answer = await fetch(`${hidden.url}/api/auth/login`, {
        method: 'POST',
        headers: { 'Content-Type': 'application/json' },
        body: JSON.stringify({ email, password: PASSWORD }),
      });
      const { landfall_refresh: refresh, landfall_board: board } = cookiesOf(answer);
      for (const cookie of [refresh, board]) expect(cookie?.attributes).toContain('secure');
    } finally {
      await hidden.close();
    }
  });

  test('for the board go to admins; the sign-in of a user removes them from the browser', async () => {
    const { landfall_board: board } = cookiesOf(await logIn(user));
    expect(board?.value ?? '').toBe('');
    expect(board?.attributes).toEqual(
      expect.arrayContaining(['path=/admin/queues', 'expires=thu, 01 jan 1970 00:00:00 gmt']),
    );
  });
});

describe('the board', () => {
  const open = (headers: Record<string, string>, path = '') =>
    fetch(`${processes.url}/admin/queues${path}`, { headers });

  test.each(['', '/', '/api/queues', '/static/js/main.js'])(
    '%s is closed to all but admins',
    async (path) => {
      await expectProblem(await open({}, path), 401, 'unauthenticated');
      const bearer = { Authorization: `Bearer ${user.token}` };
      await expectProblem(await open(bearer, path), 403, 'forbidden');
      const ofUser = signToken({ userId: user.id, role: 'user' }, keys.board, 5);
      await expectProblem(await open({ Cookie: `landfall_board=${ofUser}` }, path), 403, 'forbidden');
      // An access token is not a token for the board.
      await expectProblem(
        await open({ Cookie: `landfall_board=${admin.token}` }, path),
        401,
        'unauthenticated',
      );
    },
  );

  test('opens for an admin by the cookie of the page, and shows the queue', async () => {
    const answer = await post('login', { email: admin.email, password: PASSWORD });
    const Cookie = `landfall_board=${cookiesOf(answer).landfall_board?.value}`;
    // It is unavailable while the queue does not answer, as on a busy machine.
    const shown = (path?: string) =>
      until('the board', async () => {
        const answer = await open({ Cookie }, path);
        return answer.status !== 503 && answer;
      });
    const board = await shown();
    expect(board.status).toBe(200);
    expect(await board.text()).toContain('Landfall');
    const { queues } = await (await shown('/api/queues')).json();
    expect(queues).toEqual([expect.objectContaining({ name: 'processing' })]);
  });

  test('opens for an admin by bearer token', async () => {
    const bearer = { Authorization: `Bearer ${admin.token}` };
    expect((await open(bearer)).status).toBe(200);
    const { queues } = await (await open(bearer, '/api/queues')).json();
    expect(queues).toEqual([expect.objectContaining({ name: 'processing' })]);
  });

  test('has a token that no other route accepts', async () => {
    const token = signToken({ userId: admin.id, role: 'admin' }, keys.board, 5);
    const answer = await fetch(`${processes.url}/api/me`, { headers: { Authorization: `Bearer ${token}` } });
    await expectProblem(answer, 401, 'unauthenticated');
    // A browser sends the cookie to the board only, but other clients may send it anywhere.
    for (const path of ['/api/me', '/api/admin/users', '/api/files']) {
      const byCookie = await fetch(`${processes.url}${path}`, {
        headers: { Cookie: `landfall_board=${token}` },
      });
      await expectProblem(byCookie, 401, 'unauthenticated');
    }
    const create = await fetch(`${processes.url}/uploads`, {
      method: 'POST',
      headers: { Cookie: `landfall_board=${token}`, 'Tus-Resumable': '1.0.0', 'Upload-Length': '3' },
    });
    expect(create.status).toBe(401);
  });
});

describe('without a valid token', () => {
  const unsigned = () => jwt.sign({ role: 'admin', sub: user.id }, '', { algorithm: 'none', expiresIn: 60 });
  const cases: [string, () => Record<string, string>][] = [
    ['none', () => ({})],
    ['an empty one', () => ({ Authorization: 'Bearer ' })],
    ['another scheme', () => ({ Authorization: `Basic ${btoa(`${user.email}:${PASSWORD}`)}` })],
    ['nonsense', () => ({ Authorization: 'Bearer nonsense' })],
    ['one that has expired', () => bearer(signToken({ userId: user.id, role: 'user' }, keys.access, -1))],
    ['one without a signature', () => bearer(unsigned())],
    ['one with the signature cut off', () => bearer(user.token.replace(/[^.]+$/, ''))],
    ['one of another server', () => bearer(signToken({ userId: user.id, role: 'user' }, keys.link, 5))],
    ['one signed with the bare secret', () => bearer(jwt.sign({ role: 'user', sub: user.id }, SECRET))],
    [
      'one of another algorithm',
      () => bearer(jwt.sign({ role: 'user', sub: user.id }, keys.access, { algorithm: 'HS512' })),
    ],
    ['one that was changed', () => bearer(changed())],
    ['one without a subject', () => bearer(jwt.sign({ role: 'user' }, keys.access))],
  ];

  function bearer(token: string) {
    return { Authorization: `Bearer ${token}` };
  }

  function changed(): string {
    const [header, , signature] = user.token.split('.');
    const { payload } = jwt.decode(user.token, { complete: true }) ?? {};
    const claims = { ...(payload as object), role: 'admin' };
    return [header, Buffer.from(JSON.stringify(claims)).toString('base64url'), signature].join('.');
  }

  test.each(cases)('(%s) the server changes nothing and reveals nothing', async (name, headers) => {
    const path = await user.create(6);
    await user.tus('PATCH', path, { 'Upload-Offset': '0' }, 'abc');
    const file = await user.upload(Buffer.from('mine'));
    const before = await processes.database.query('SELECT * FROM uploads ORDER BY id');

    const tus = { 'Tus-Resumable': '1.0.0', ...headers() };
    const body = { 'Content-Type': 'application/offset+octet-stream' };
    const requests: [string, string, RequestInit][] = [
      ['POST', '/uploads', { headers: { ...tus, ...body, 'Upload-Length': '3' }, body: 'abc' }],
      ['PATCH', path, { headers: { ...tus, ...body, 'Upload-Offset': '3' }, body: 'def' }],
      ['DELETE', path, { headers: tus }],
      ['DELETE', `/uploads/${file}`, { headers: tus }],
      ['GET', '/api/uploads', { headers: headers() }],
      ['GET', `/api/uploads/${idOf(path)}`, { headers: headers() }],
      ['GET', `/api/files/${file}`, { headers: headers() }],
      ['GET', `/api/files/${file}/content`, { headers: headers() }],
      ['DELETE', `/api/files/${file}?permanent=1`, { headers: headers() }],
      ['GET', '/api/me', { headers: headers() }],
      ['GET', '/admin/queues/api/queues', { headers: headers() }],
    ];
    for (const [method, address, init] of requests) {
      await expectProblem(
        await fetch(`${processes.url}${address}`, { method, ...init }),
        401,
        'unauthenticated',
      );
    }
    const head = await fetch(`${processes.url}${path}`, { method: 'HEAD', headers: tus });
    // After a 401 or 404 to HEAD a client gives the upload up, so an expired token gets 423: see
    // expired-token.test.ts.
    expect(head.status).toBe(name === 'one that has expired' ? 423 : 401);
    expect(head.headers.get('WWW-Authenticate')).toMatch(/^Bearer/);
    expect(head.headers.has('Upload-Offset')).toBe(false);

    const after = await processes.database.query('SELECT * FROM uploads ORDER BY id');
    expect(after.rows).toEqual(before.rows);
    expect((await user.get(`/api/files/${file}`)).id).toBe(file);
  });

  test('an access token in the address does not count', async () => {
    const answer = await fetch(`${processes.url}/api/me?token=${user.token}`);
    await expectProblem(answer, 401, 'unauthenticated');
    const content = await fetch(`${processes.url}/api/files/${uuidv7()}/content?token=${user.token}`);
    await expectProblem(content, 401, 'unauthenticated');
  });
});
