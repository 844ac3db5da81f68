import { registerUser, useAccount } from './support/client.js';
import { type ForeignSite, openForeignSite } from './support/foreign-site.js';
import { type Processes, startProcesses } from './support/processes.js';
import { exchange, formRequest } from './support/raw-http.js';
import { newAddress, postAuth, problemOf, send } from './support/sign-in.js';
import { until } from './support/until.js';

/*
 * AUTH=off: every request acts as one local account. Foreign pages must not be able to use that.
 */

const PUBLIC = 'https://files.example.org';

const open: Processes[] = [];

async function start(env: Record<string, string> = {}): Promise<Processes> {
  const processes = await startProcesses({ AUTH: 'off', ...env }, ['server']);
  open.push(processes);
  return processes;
}

afterEach(async () => {
  await Promise.all(open.splice(0).map((processes) => processes.close()));
});

/** Status and code of a request with these headers, of which fetch() would not send all. */
async function ask(
  { url }: Processes,
  headers: Record<string, string> = {},
  [method, path]: [string, string] = ['GET', '/api/me'],
): Promise<[number | undefined, string | undefined]> {
  const answer = await exchange(url, formRequest(method, path, { Host: new URL(url).host, ...headers }));
  const isProblem = answer?.headers.get('Content-Type')?.startsWith('application/problem+json');
  return [answer?.status, isProblem ? JSON.parse(answer?.body || '{}').code : undefined];
}

const OK = [200, undefined];
const REFUSED = [403, 'forbidden'];

test('requests need no token, and all act as one admin, whatever token they bring', async () => {
  const server = await start();
  const me = await (await fetch(`${server.url}/api/me`)).json();
  expect(me).toMatchObject({ email: 'local@localhost', role: 'admin' });
  for (const token of ['nonsense', 'lfu_nonsense', 'lfk_nonsense']) {
    const as = useAccount(me, token, () => server.url);
    expect((await as.get('/api/me')).id).toBe(me.id);
    const id = await as.upload(Buffer.from('bytes'), { filename: 'a.txt' });
    const listed = await (await fetch(`${server.url}/api/files`)).json();
    expect(listed.items[0]).toMatchObject({ id, filename: 'a.txt' });
    expect((await as.fetch(`/api/files/${id}`, { method: 'DELETE' })).status).toBe(204);
  }
  for (const path of ['/api/admin/users', '/api/keys', '/api/me/sessions']) {
    expect([path, (await fetch(server.url + path)).status]).toEqual([path, 200]);
  }
  // On a busy machine the board may take too long to load.
  await until('the board', async () => (await fetch(`${server.url}/admin/queues`)).status === 200);
});

test('nobody signs in or registers, and the page gets its user', async () => {
  const server = await start();
  expect(await (await fetch(`${server.url}/api/auth`)).json()).toEqual({
    registration: 'closed',
    signIn: false,
  });
  const form = { email: newAddress(), password: 'correct horse battery' };
  for (const action of ['register', 'login'] as const) {
    expect(await problemOf(await postAuth(server.url, action, form))).toEqual([409, 'wrong_state']);
  }
  const answer = await postAuth(server.url, 'refresh', {});
  expect(answer.headers.getSetCookie()).toEqual([]);
  const { user, accessToken } = await answer.json();
  expect(user).toMatchObject({ email: 'local@localhost', role: 'admin' });

  // With accounts again, the token that the page had opens nothing, and the first account is the admin's.
  await server.stop('server');
  await server.start('server', { AUTH: 'on', REGISTRATION: 'closed' });
  expect(await (await fetch(`${server.url}/api/auth`)).json()).toEqual({
    registration: 'open',
    signIn: true,
  });
  const late = useAccount(user, accessToken, () => server.url);
  expect(await problemOf(await late.fetch('/api/me'))).toEqual([401, 'unauthenticated']);
  const admin = await registerUser(() => server.url);
  expect(admin.role).toBe('admin');
  // The local account is an admin's too, but nobody can sign in to it.
  const demoted = await send(admin, 'PATCH', `/api/admin/users/${admin.id}`, { role: 'user' });
  expect(await problemOf(demoted)).toEqual([409, 'wrong_state']);

  expect((await send(admin, 'PATCH', `/api/admin/users/${user.id}`, { disabled: true })).status).toBe(200);
  await server.stop('server');
  await expect(server.start('server')).rejects.toThrow();
});

test('a request must name this machine, so that a foreign name that points here is useless', async () => {
  const server = await start();
  const { port } = new URL(server.url);
  for (const host of ['localhost', 'files.localhost', '127.0.0.1', '127.1.2.3', '[::1]']) {
    expect([host, await ask(server, { Host: `${host}:${port}` })]).toEqual([host, OK]);
  }
  for (const host of [
    ...['evil.example', 'localhost.evil.example', '127.0.0.1.evil.example', 'notlocalhost', '192.0.2.1'],
    ...['[fd00::1]', '[::2]', 'evil.example@localhost', 'localhost@evil.example', ''],
  ]) {
    const headers = { Host: `${host}:${port}`, 'Sec-Fetch-Site': 'same-origin' };
    expect([host, await ask(server, headers)]).toEqual([host, REFUSED]);
    expect((await ask(server, headers, ['POST', '/api/auth/refresh']))[0]).not.toBe(200);
  }
  // A route that tells nothing of anybody is open, as with accounts.
  expect((await ask(server, { Host: 'evil.example' }, ['GET', '/health/live']))[0]).toBe(200);
});

test('a page of another origin can neither read nor change anything', async () => {
  const server = await start();
  const { port } = new URL(server.url);
  const id = (await (await fetch(`${server.url}/api/me`)).json()).id;
  const foreign = [
    ...['https://evil.example', 'null', '', 'http://localhost', 'http://localhost:1'].map((Origin) => ({
      Origin,
    })),
    ...[`https://127.0.0.1:${port}`, `http://localhost:${port}`].map((Origin) => ({ Origin })),
    ...['cross-site', 'same-site'].map((site) => ({ 'Sec-Fetch-Site': site })),
    { Origin: `http://evil.example:${port}`, 'Sec-Fetch-Site': 'same-site' },
  ];
  const requests: [string, string][] = [
    ['GET', '/api/me'],
    ['GET', '/admin/queues'],
    ['HEAD', `/uploads/${id}`],
    ['POST', '/uploads'],
    ['POST', '/api/files'],
    ['POST', '/api/auth/refresh'],
    ['DELETE', `/api/files/${id}`],
    ['GET', '/api/events'],
  ];
  for (const headers of foreign) {
    for (const request of requests) {
      const [status] = await ask(server, { 'Tus-Resumable': '1.0.0', ...headers }, request);
      expect([headers, request, status]).toEqual([headers, request, 403]);
    }
  }
  const { rows } = await server.database.query(
    `SELECT count(*)::integer AS count FROM all_events WHERE result = 'refused'`,
  );
  expect(rows[0].count).toBeGreaterThan(0);
});

test('pages of this server and of the origins in CORS_ORIGINS can', async () => {
  const server = await start({ CORS_ORIGINS: 'http://localhost:5173, null' });
  const { origin, port } = new URL(server.url);
  expect(await ask(server, { Origin: origin })).toEqual(OK);
  expect(await ask(server, { Host: `localhost:${port}`, Origin: `http://localhost:${port}` })).toEqual(OK);
  expect(await ask(server, { 'Sec-Fetch-Site': 'same-origin' })).toEqual(OK);
  expect(await ask(server, { 'Sec-Fetch-Site': 'none' })).toEqual(OK);
  const named = { Origin: 'http://localhost:5173', 'Sec-Fetch-Site': 'same-site' };
  expect(await ask(server, named)).toEqual(OK);
  expect(await ask(server, { Origin: 'null', 'Sec-Fetch-Site': 'cross-site' })).toEqual(REFUSED);
});

test('what a proxy or a tunnel passes on is not from this machine', async () => {
  const server = await start();
  for (const name of ['Forwarded', 'X-Forwarded-For', 'X-Forwarded-Host', 'Via']) {
    expect([name, await ask(server, { [name]: 'x' })]).toEqual([name, REFUSED]);
  }
});

test('AUTH_OFF_ANYWHERE admits other machines by address or by PUBLIC_URL, and no other name', async () => {
  const wide = await start({ HOST: '0.0.0.0', AUTH_OFF_ANYWHERE: 'true', PUBLIC_URL: PUBLIC });
  for (const host of ['192.0.2.1:3000', '[2001:db8::1]:3000', 'files.example.org', 'localhost:3000']) {
    expect([host, await ask(wide, { Host: host, 'X-Forwarded-For': '192.0.2.9' })]).toEqual([host, OK]);
  }
  expect(await ask(wide, { Host: 'evil.example' })).toEqual(REFUSED);
  expect(await ask(wide, { Host: 'files.example.org', Origin: PUBLIC })).toEqual(OK);
  expect(await ask(wide, { Host: 'files.example.org', Origin: 'https://evil.example' })).toEqual(REFUSED);
});

test('the log warns of it at the start', async () => {
  const server = await start({ LOG_LEVEL: 'warn' });
  await until('the warning', () => server.logOf('server').includes('AUTH=off'));
});

describe('in a browser', () => {
  let site: ForeignSite;
  beforeAll(async () => {
    site = await openForeignSite();
  });
  afterAll(() => site?.close());

  test('our page shows the files at once, and nothing of signing in', async () => {
    const server = await start();
    const me = await (await fetch(`${server.url}/api/me`)).json();
    await useAccount(me, 'none', () => server.url).upload(Buffer.from('x'), { filename: 'mine.txt' });
    const page = await site.browser.newPage();
    await page.goto(server.url);
    await page.locator('.file').filter({ hasText: 'mine.txt' }).waitFor();
    await page.getByRole('button', { name: 'Sign out' }).waitFor({ state: 'hidden' });
    expect(await page.locator('#sign-in').isVisible()).toBe(false);
    await page.getByRole('button', { name: 'Account local@localhost' }).click();
    expect(await page.locator('#account-keys').isVisible()).toBe(true);
    expect(await page.locator('#account-password').isVisible()).toBe(false);
    await page.close();
  });

  test('a page of another site, and one whose name was turned to this machine, read and change nothing', async () => {
    const server = await start();
    const { port } = new URL(server.url);
    const foreign = site.origin;
    const rebound = `http://rebound.example:${port}`;
    for (const [origin, target] of [
      [foreign, server.url],
      [foreign, `http://localhost:${port}`],
      [rebound, rebound],
    ] as const) {
      const page = await site.browser.newPage();
      await page.goto(origin);
      const answers = await page.evaluate(
        async ([url]) => {
          const read = await fetch(`${url}/api/me`).catch(() => undefined);
          const changed = await fetch(`${url}/api/files?filename=a`, {
            method: 'POST',
            headers: { 'Content-Type': 'text/plain' },
            body: 'x',
          }).catch(() => undefined);
          return [read?.status, changed?.status];
        },
        [target] as const,
      );
      expect([origin, answers]).toEqual([origin, [403, 403]]);
      await page.close();
    }
    expect((await server.database.query('SELECT FROM uploads')).rows).toEqual([]);
  });
});
