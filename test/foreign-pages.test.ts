import { isIPv4 } from 'node:net';
import { networkInterfaces } from 'node:os';
import { PASSWORD } from './support/client.js';
import { type ForeignSite, openForeignSite } from './support/foreign-site.js';
import * as ownPage from './support/page.js';
import { type Processes, startProcesses } from './support/processes.js';
import { exchange, formRequest } from './support/raw-http.js';
import { newAddress, postAuth } from './support/sign-in.js';

/*
 * Which pages may make accounts. The first account is the admin's, and any page in the owner's browser can
 * reach a server that is closed to the world. The pages from which cookies are accepted are in
 * security-headers.test.ts.
 */

const LISTED = 'https://app.example';
const PUBLIC = 'https://files.example.org';

const open: Processes[] = [];

async function start(env: Record<string, string> = {}): Promise<Processes> {
  const processes = await startProcesses(env, ['server']);
  open.push(processes);
  return processes;
}

afterEach(async () => {
  await Promise.all(open.splice(0).map((processes) => processes.close()));
});

/** Registers with these headers, of which fetch() would not send all. Answers with status and code or role. */
async function register(url: string, headers: Record<string, string>): Promise<unknown[]> {
  const body = JSON.stringify({ email: newAddress(), password: PASSWORD });
  const { host } = new URL(url);
  const all = { Host: host, 'Content-Type': 'application/json', ...headers };
  const answer = await exchange(url, formRequest('POST', '/api/auth/register', all, body));
  const { code, user } = JSON.parse(answer?.body ?? '{}');
  return [answer?.status, code ?? user?.role];
}

/** The headers of a request by a page at this origin to its own server. */
const pageAt = (origin: string) => ({ Host: new URL(origin).host, Origin: origin });

async function countUsers({ database }: Processes): Promise<number> {
  return (await database.query('SELECT FROM users')).rows.length;
}

const REFUSED = [403, 'forbidden'];

test('a page of another origin makes no account, and the attempt is in the log', async () => {
  const fresh = await start();
  const { port } = new URL(fresh.url);
  const origins = [
    ...[
      'https://evil.example',
      'null',
      '',
      'http://localhost',
      'http://localhost:1',
      `https://localhost:${port}`,
    ],
    ...[`http://localhost:${port}.evil.example`, `http://127.0.0.2:${port}`, 'chrome-extension://abcdefgh'],
  ];
  for (const Origin of origins) {
    expect([Origin, await register(fresh.url, { Origin })]).toEqual([Origin, REFUSED]);
  }
  expect(await countUsers(fresh)).toBe(0);
  const { rows } = await fresh.database.query(
    `SELECT type, data FROM all_events WHERE result = 'refused' ORDER BY id`,
  );
  const refusal = {
    type: 'auth.register',
    data: { action: 'register', code: 'forbidden', method: 'POST' },
  };
  expect(rows).toEqual(origins.map(() => refusal));
});

test('the refusal names the variables to set', async () => {
  const fresh = await start();
  const body = { email: newAddress(), password: PASSWORD };
  const answer = await postAuth(fresh.url, 'register', body, { Origin: 'https://evil.example' });
  const { detail } = await answer.json();
  for (const name of ['PUBLIC_URL', 'TRUST_PROXY', 'CORS_ORIGINS']) expect(detail).toContain(name);
  // Without this header the page could not read the refusal.
  expect(answer.headers.get('Access-Control-Allow-Origin')).toBe('*');
});

test('programs make accounts, whatever they call the server', async () => {
  const fresh = await start();
  expect(await register(fresh.url, {})).toEqual([201, 'admin']);
  expect(await register(fresh.url, { Host: 'files.lan:3000' })).toEqual([201, 'user']);
});

test('the server’s own page makes accounts at localhost, not at other names', async () => {
  const fresh = await start();
  const { port } = new URL(fresh.url);
  for (const host of [
    ...['evil.example', 'localhost.evil.example', '127.0.0.1.evil.example', 'notlocalhost', '192.0.2.1'],
    ...['evil-127.0.0.1', 'fd00::1', '[fd00::1]', '[::2]'],
  ]) {
    const headers = { Host: `${host}:${port}`, Origin: `http://${host}:${port}` };
    expect([host, await register(fresh.url, headers)]).toEqual([host, REFUSED]);
  }
  expect(await countUsers(fresh)).toBe(0);
  for (const host of ['localhost', 'files.localhost', '127.0.0.1', '127.1.2.3', '[::1]']) {
    const [status] = await register(fresh.url, pageAt(`http://${host}:${port}`));
    expect([host, status]).toEqual([host, 201]);
  }
});

test('the cookie is accepted from the same pages only', async () => {
  const fresh = await start();
  const { port } = new URL(fresh.url);
  const made = await postAuth(fresh.url, 'register', { email: newAddress(), password: PASSWORD });
  const Cookie = /landfall_refresh=[^;]+/.exec(made.headers.getSetCookie().join())?.[0] ?? '';
  const refresh = async (origin: string) =>
    (await exchange(fresh.url, formRequest('POST', '/api/auth/refresh', { ...pageAt(origin), Cookie })))
      ?.status;
  expect(await refresh(`http://evil.example:${port}`)).toBe(403);
  expect(await refresh(`http://localhost:${port}`)).toBe(200);
});

test('a page with Sec-Fetch-Site: same-origin makes accounts, whatever its address', async () => {
  const fresh = await start();
  const headers = { Origin: PUBLIC, 'Sec-Fetch-Site': 'same-origin' };
  expect(await register(fresh.url, headers)).toEqual([201, 'admin']);
  for (const site of ['same-site', 'cross-site', 'none']) {
    expect(await register(fresh.url, { Origin: PUBLIC, 'Sec-Fetch-Site': site })).toEqual(REFUSED);
  }
});

test('pages of the origins in CORS_ORIGINS make accounts, and no others', async () => {
  const strict = await start({ CORS_ORIGINS: `${LISTED}, https://b.example:8443, null` });
  expect(await register(strict.url, { Origin: LISTED })).toEqual([201, 'admin']);
  expect(await register(strict.url, { Origin: 'https://b.example:8443' })).toEqual([201, 'user']);
  // `null` in CORS_ORIGINS does not count: every page can send that origin from a frame.
  for (const Origin of ['https://b.example', `${LISTED}.evil.example`, 'null']) {
    expect([Origin, await register(strict.url, { Origin })]).toEqual([Origin, REFUSED]);
  }
});

test('the server’s own page makes accounts at PUBLIC_URL', async () => {
  const published = await start({ PUBLIC_URL: `${PUBLIC}/base` });
  const { host, port } = new URL(published.url);
  // A proxy forwards the Host of the request or sends its own.
  expect(await register(published.url, { Host: 'files.example.org', Origin: PUBLIC })).toEqual([
    201,
    'admin',
  ]);
  expect(await register(published.url, { Host: host, Origin: PUBLIC })).toEqual([201, 'user']);
  expect(await register(published.url, pageAt(`http://localhost:${port}`))).toEqual([201, 'user']);
  for (const Origin of ['http://files.example.org', 'https://evil.example']) {
    expect([Origin, await register(published.url, { Origin })]).toEqual([Origin, REFUSED]);
  }
  expect(await register(published.url, pageAt(`http://evil.example:${port}`))).toEqual(REFUSED);
});

test('the server’s own page makes accounts at any name behind a trusted proxy', async () => {
  const proxied = await start({ TRUST_PROXY: '1' });
  const { host } = new URL(proxied.url);
  expect(await register(proxied.url, pageAt('http://files.lan:3000'))).toEqual([201, 'admin']);
  const forwarded = { Host: host, 'X-Forwarded-Host': 'files.example.org', 'X-Forwarded-Proto': 'https' };
  expect(await register(proxied.url, { ...forwarded, Origin: PUBLIC })).toEqual([201, 'user']);
  expect(await register(proxied.url, { ...forwarded, Origin: 'https://evil.example' })).toEqual(REFUSED);
  // Without TRUST_PROXY the headers of a proxy do not count.
  const direct = await start();
  expect(await register(direct.url, { ...forwarded, Origin: PUBLIC })).toEqual(REFUSED);
});

const neighbours = Object.values(networkInterfaces())
  .flatMap((addresses) => addresses ?? [])
  .find(({ internal, address }) => !internal && isIPv4(address))?.address;

// A machine without a network has no such address.
(neighbours ? test : test.skip)(
  'its own page makes them on another machine, by address and by name',
  async () => {
    const wide = await start({ HOST: '0.0.0.0' });
    const { port } = new URL(wide.url);
    const url = `http://${neighbours}:${port}`;
    expect(await register(url, { Origin: 'https://evil.example' })).toEqual(REFUSED);
    expect(await register(url, pageAt(url))).toEqual([201, 'admin']);
    expect(await register(url, pageAt(`http://files.lan:${port}`))).toEqual([201, 'user']);
    expect(await register(wide.url, pageAt(`http://files.lan:${port}`))).toEqual(REFUSED);
    expect(await register(wide.url, pageAt(`http://localhost:${port}`))).toEqual([201, 'user']);
  },
);

describe('in a browser', () => {
  let site: ForeignSite;
  beforeAll(async () => {
    site = await openForeignSite();
  });
  afterAll(() => site?.close());

  /** Registers by a script of the page at `origin`. */
  async function registerFrom(origin: string, server: string): Promise<[number, string]> {
    const page = await site.browser.newPage();
    try {
      await page.goto(origin);
      return await page.evaluate(
        async ([url, email, password]) => {
          const answer = await fetch(`${url}/api/auth/register`, {
            method: 'POST',
            headers: { 'Content-Type': 'application/json' },
            body: JSON.stringify({ email, password }),
          });
          const { code, user } = await answer.json();
          return [answer.status, code ?? user.role];
        },
        [server, newAddress(), PASSWORD] as const,
      );
    } finally {
      await page.close();
    }
  }

  test('a page of another site makes no account, and our own at localhost makes the admin’s', async () => {
    const fresh = await start();
    const { port } = new URL(fresh.url);
    const foreign = site.origin;
    for (const server of [fresh.url, `http://localhost:${port}`]) {
      expect(await registerFrom(foreign, server)).toEqual(REFUSED);
    }
    // The other site's name now resolves to this machine, so the browser takes the script's page for one of
    // ours.
    const rebound = `http://rebound.example:${port}`;
    expect(await registerFrom(rebound, rebound)).toEqual(REFUSED);
    expect(await countUsers(fresh)).toBe(0);

    for (const [host, role] of [
      ['localhost', 'admin'],
      ['127.0.0.1', 'user'],
    ]) {
      const page = await site.browser.newPage();
      const email = await ownPage.register(page, `http://${host}:${port}`);
      await page.close();
      const { rows } = await fresh.database.query('SELECT role FROM users WHERE email = $1', [email]);
      expect([host, rows]).toEqual([host, [{ role }]]);
    }
  });
});
