import { createHash, randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import type { IncomingMessage } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Browser, BrowserContext, Locator, Page, Response } from 'playwright-core';
import { deriveKeys } from '../server/auth/keys.js';
import { signToken } from '../server/auth/tokens.js';
import { launchBrowser } from './support/browser.js';
import { encodeMetadata } from './support/client.js';
import { type HttpProxy, startHttpProxy } from './support/http-proxy.js';
import {
  choose,
  completed,
  expectToFit,
  fillIn,
  PASSWORD,
  recordFaults,
  recordUploads,
  register,
  signIn,
} from './support/page.js';
import { type Processes, startProcesses } from './support/processes.js';
import { until } from './support/until.js';

const MiB = 2 ** 20;
const SECRET = 'a secret of this test, long enough for a key';

/** Read by each server when it starts. */
const env: Record<string, string> = { JWT_SECRET: SECRET };

let processes: Processes;
let browser: Browser;
let folder: string;
let adminEmail: string;
let context: BrowserContext;
let page: Page;
let faults: string[][];

beforeAll(async () => {
  [processes, browser, folder] = await Promise.all([
    startProcesses(env),
    launchBrowser(),
    mkdtemp(join(tmpdir(), 'landfall-account-page-')),
  ]);
  const first = await browser.newContext();
  adminEmail = await register(await first.newPage(), processes.url);
  await first.close();
});

afterAll(async () => {
  await browser?.close();
  await processes?.close();
  if (folder) await rm(folder, { recursive: true, force: true });
});

beforeEach(async () => {
  faults = [];
  context = await newContext();
  page = await openTab(context);
});

afterEach(async () => {
  await Promise.all(browser.contexts().map((open) => open.close()));
  expect(faults.flat()).toEqual([]);
});

function newContext(): Promise<BrowserContext> {
  return browser.newContext({ viewport: { width: 1100, height: 900 }, locale: 'en-GB' });
}

async function openTab(of: BrowserContext): Promise<Page> {
  const tab = await of.newPage();
  faults.push(recordFaults(tab));
  return tab;
}

/** Somebody else's browser, signed in as an admin. */
async function openAdmin(url = processes.url): Promise<Page> {
  const tab = await openTab(await newContext());
  await tab.goto(url);
  await signIn(tab, adminEmail);
  return tab;
}

/** Opens the account dialog at one of its parts. */
async function openAccount(tab: Page, part: string): Promise<Locator> {
  const dialog = tab.getByRole('dialog', { name: 'Account' });
  if (!(await dialog.isVisible())) await tab.getByRole('button', { name: /^Account/ }).click();
  await dialog.locator('summary', { hasText: part }).click();
  return dialog.locator('details[open]');
}

async function signedOut(tab: Page): Promise<void> {
  await tab.getByRole('heading', { name: 'Sign in' }).waitFor();
}

async function signedIn(tab: Page): Promise<void> {
  await tab.getByRole('button', { name: 'Sign out', exact: true }).waitFor();
}

/** The bytes that the server holds of a file. */
async function sha256Of(filename: string): Promise<string> {
  const { rows } = await processes.database.query('SELECT sha256 FROM files WHERE filename = $1', [filename]);
  expect(rows).toHaveLength(1);
  return rows[0].sha256;
}

const sha256 = (content: Buffer) => createHash('sha256').update(content).digest('hex');

describe('registration', () => {
  afterEach(async () => {
    delete env.REGISTRATION;
    await processes.stop('server-2');
  });

  async function startWith(registration: string): Promise<string> {
    env.REGISTRATION = registration;
    await processes.start('server-2');
    return processes.urlOf('server-2');
  }

  test('by invitation needs the link that an admin has made, which works once', async () => {
    const url = await startWith('invite');
    await page.goto(url);
    await page.getByText('Ask an administrator for an invitation').waitFor();
    expect(await page.getByRole('button', { name: 'Create an account' }).isVisible()).toBe(false);

    const admin = await openAdmin(url);
    const invitations = await openAccount(admin, 'Invitations');
    await invitations.getByRole('button', { name: 'Create invitation' }).click();
    const link = await invitations.getByLabel('The secret').inputValue();
    expect(link).toMatch(new RegExp(`^${url}/#invitation=`));
    await invitations.locator('.item', { hasText: 'For anybody' }).waitFor();

    const guest = await openTab(await newContext());
    await guest.goto(link);
    await guest.getByRole('heading', { name: 'Create an account' }).waitFor();
    expect(guest.url()).toBe(`${url}/`);
    await fillIn(guest, `guest-${randomBytes(4).toString('hex')}@example.org`, PASSWORD);
    await guest.getByRole('button', { name: 'Create account' }).click();
    await signedIn(guest);

    // A second person opens the same link, written with a query.
    await page.goto(link.replace('#', '?'));
    await page.getByRole('heading', { name: 'Create an account' }).waitFor();
    expect(page.url()).toBe(`${url}/`);
    await fillIn(page, `late-${randomBytes(4).toString('hex')}@example.org`, PASSWORD);
    await page.getByRole('button', { name: 'Create account' }).click();
    await page.locator('#sign-in-error', { hasText: 'was used before' }).waitFor();
  });

  test('that is open shows its form at once to a person with a link', async () => {
    await page.goto(`${await startWith('open')}/#invitation=whatever`);
    await page.getByRole('heading', { name: 'Create an account' }).waitFor();
  });

  test('that is closed is not offered, even with an invitation', async () => {
    const url = await startWith('closed');
    const answered = page.waitForResponse(`${url}/api/auth`);
    await page.goto(url);
    expect(await (await answered).json()).toEqual({ registration: 'closed', signIn: true });
    await signedOut(page);
    expect(await page.getByRole('button', { name: 'Create an account' }).isVisible()).toBe(false);
    await page.goto('about:blank');
    await page.goto(`${url}/#invitation=whatever`);
    await page.getByText('Nobody can create an account here').waitFor();
    expect(await page.getByRole('button', { name: 'Create an account' }).isVisible()).toBe(false);
  });
});

describe('the session', () => {
  let proxy: HttpProxy;

  beforeEach(async () => {
    proxy = await startHttpProxy(() => processes.url);
  });

  afterEach(() => proxy.close());

  const refreshCookie = async () =>
    (await context.cookies(`${proxy.url}/api/auth/refresh`)).find(({ name }) => name === 'landfall_refresh')
      ?.value;

  test('goes on over reloads, with another cookie each time', async () => {
    await register(page, proxy.url);
    const cookies = [await refreshCookie()];
    for (let reloads = 0; reloads < 3; reloads++) {
      await page.reload();
      await signedIn(page);
      cookies.push(await refreshCookie());
    }
    expect(cookies).not.toContain(undefined);
    expect(new Set(cookies).size).toBe(4);
  });

  test('survives two tabs that refresh at the same time where there are no locks', async () => {
    await context.addInitScript(() =>
      Object.defineProperty(Navigator.prototype, 'locks', { value: undefined }),
    );
    await register(page, proxy.url);
    const other = await openTab(context);
    const waiting: IncomingMessage[] = [];
    let goOn = () => {};
    const both = new Promise<void>((resolve) => {
      goOn = resolve;
    });
    proxy.meddle = async (request) => {
      if (request.url !== '/api/auth/refresh') return false;
      waiting.push(request);
      if (waiting.length === 2) goOn();
      await both;
      return false;
    };
    await Promise.all([page.reload(), other.goto(proxy.url)]);
    await Promise.all([signedIn(page), signedIn(other)]);
    const [first, second] = waiting.map(({ headers }) => headers.cookie);
    expect(first).toMatch(/landfall_refresh=/);
    expect(second).toBe(first);
    await Promise.all([page.reload(), other.reload()]);
    await Promise.all([signedIn(page), signedIn(other)]);
  });

  test.each(['broken', 'silent'] as const)(
    'survives a refresh whose answer never arrives (the connection is %s)',
    async (how) => {
      await register(page, proxy.url);
      const before = await refreshCookie();
      proxy.loseNext('/api/auth/refresh', how);
      await page.reload();
      await signedIn(page);
      expect(await refreshCookie()).not.toBe(before);
      await page.reload();
      await signedIn(page);
    },
  );

  test('does not end because the server cannot be reached', async () => {
    await register(page, proxy.url);
    let isAway = true;
    proxy.meddle = (request) => {
      const fails = isAway && request.url === '/api/auth/refresh';
      if (fails) request.socket.destroy();
      return fails;
    };
    await page.reload();
    await page.getByText('The server cannot be reached').waitFor();
    expect(await page.getByRole('heading', { name: 'Sign in' }).isVisible()).toBe(false);
    isAway = false;
    await signedIn(page);
  });

  test('too many sign-ins are answered with the time of the next one', async () => {
    await page.goto(proxy.url);
    proxy.meddle = (request, response) => {
      if (request.url !== '/api/auth/login') return false;
      response.writeHead(429, { 'Content-Type': 'application/problem+json', 'Retry-After': '42' });
      response.end(JSON.stringify({ status: 429, code: 'rate_limited', title: 'Too many requests' }));
      return true;
    };
    await fillIn(page, adminEmail, PASSWORD);
    await page.getByRole('button', { name: 'Sign in' }).click();
    await page.locator('#sign-in-error', { hasText: 'Try again in 42 seconds' }).waitFor();
  });

  test('every file of many is uploaded when new uploads are limited, without a storm of requests', async () => {
    await register(page, proxy.url);
    // The proxy refuses creations as the server's limit does: after each four that it admits, for 1.5 s from the
    // first that it refuses. So it refuses some however slow the machine is.
    let windows = 0;
    let opens: number | undefined;
    let passed = 0;
    let refused = 0;
    proxy.meddle = (request, response) => {
      if (request.method !== 'POST' || request.url !== '/uploads') return false;
      if (opens !== undefined && Date.now() >= opens) {
        opens = undefined;
        passed = 0;
      }
      if (passed < 4) {
        passed++;
        return false;
      }
      if (opens === undefined) {
        windows++;
        opens = Date.now() + 1500;
      }
      refused++;
      const seconds = Math.ceil((opens - Date.now()) / 1000);
      response.writeHead(429, { 'Content-Type': 'application/problem+json', 'Retry-After': String(seconds) });
      response.end(JSON.stringify({ status: 429, code: 'rate_limited', title: 'Too many requests' }));
      return true;
    };
    const files = Array.from({ length: 14 }, (_, n) => ({
      name: `many-${n}.txt`,
      mimeType: 'text/plain',
      buffer: Buffer.from(`content ${n}`),
    }));
    await page.locator('input[type=file][multiple]').setInputFiles(files);
    await page.getByRole('status').filter({ hasText: 'The server takes no more new uploads' }).waitFor();
    await until('all files to be uploaded', async () => {
      const { rows } = await processes.database.query(`SELECT id FROM files WHERE filename LIKE 'many-%'`);
      return rows.length === files.length;
    });
    expect(refused).toBeGreaterThan(0);
    // Three uploads run at a time, so at most three can be refused in each window.
    expect(refused).toBeLessThanOrEqual(3 * windows);
  });

  test('a file that is paused while new uploads are limited is created once', async () => {
    await register(page, proxy.url);
    let creations = 0;
    proxy.meddle = (request, response) => {
      if (request.method !== 'POST' || request.url !== '/uploads') return false;
      creations++;
      if (creations > 1) return false;
      // The pause is long enough for two clicks.
      response.writeHead(429, { 'Content-Type': 'text/plain', 'Retry-After': '10' }).end('Later');
      return true;
    };
    await choose(page, folder, 'patience.txt', Buffer.from('no hurry'));
    await page.getByRole('status').filter({ hasText: 'The server takes no more new uploads' }).waitFor();
    await page.getByRole('button', { name: 'Pause patience.txt' }).click();
    await page.getByRole('button', { name: 'Resume patience.txt' }).click();
    await completed(page, 'patience.txt');
    // The refused creation and one more; the retry that waited when the pause began is not sent too.
    expect(creations).toBe(2);
  });
});

describe('an access token that expires', () => {
  test('before any request of an upload costs nothing', async () => {
    await register(page, processes.url);
    const { rows } = await processes.database.query('SELECT id FROM users ORDER BY id DESC LIMIT 1');
    const expired = signToken({ userId: rows[0].id, role: 'user' }, deriveKeys(SECRET).access, -1);
    const left = new Set(['POST', 'PATCH', 'HEAD']);
    await page.route('**/uploads{,/*}', (route) => {
      const headers = route.request().headers();
      const isFirst = left.delete(route.request().method());
      return route.continue(isFirst ? { headers: { ...headers, authorization: `Bearer ${expired}` } } : {});
    });
    const answers: string[] = [];
    page.on('response', (response) => {
      if (new URL(response.url()).pathname.startsWith('/uploads'))
        answers.push(`${response.request().method()} ${response.status()}`);
    });
    const content = randomBytes(64 * 1024);
    await choose(page, folder, 'expired.bin', content);
    await completed(page, 'expired.bin');
    expect(await sha256Of('expired.bin')).toBe(sha256(content));
    expect(answers).toEqual(['POST 401', 'POST 201', 'PATCH 401', 'HEAD 423', 'HEAD 200', 'PATCH 204']);
  });

  test('in the middle of an upload loses nothing: it goes on at the byte that the server has', async () => {
    // A server with another secret takes no access token of the first. Refresh tokens do not depend on the
    // secret.
    env.JWT_SECRET = 'another secret of this test, as long as the first';
    await processes.start('server-2');
    let url = processes.url;
    const proxy = await startHttpProxy(() => url);
    try {
      await register(page, proxy.url);
      const devTools = await context.newCDPSession(page);
      const limitUploads = (bytesPerSecond: number) =>
        devTools.send('Network.emulateNetworkConditions', {
          offline: false,
          latency: 0,
          downloadThroughput: -1,
          uploadThroughput: bytesPerSecond,
        });
      // At this rate the upload still has some seconds to go when it is cut.
      await limitUploads(2 * MiB);
      const content = randomBytes(12 * MiB);
      await choose(page, folder, 'long-way.bin', content);
      await page.waitForFunction(() => {
        const bar = document.querySelector('.file[data-upload] [role=progressbar]');
        return Number(bar?.getAttribute('aria-valuenow')) >= 30;
      });

      const uploads = recordUploads(page);
      const answers: Response[] = [];
      page.on('response', (response) => answers.push(response));
      const failed = page.waitForEvent('requestfailed', (request) => request.method() === 'PATCH');
      proxy.meddle = (request) => {
        request.socket.destroy();
        return true;
      };
      proxy.cut();
      await failed;
      await limitUploads(-1);
      url = processes.urlOf('server-2');
      proxy.meddle = () => false;
      await completed(page, 'long-way.bin');

      expect(await sha256Of('long-way.bin')).toBe(sha256(content));
      expect(answers.map((answer) => answer.status())).toContain(401);
      const head = answers.find((answer) => answer.request().method() === 'HEAD' && answer.ok());
      const offset = Number(head?.headers()['upload-offset']);
      expect(offset).toBeGreaterThan(0);
      expect(uploads.filter(({ method }) => method !== 'HEAD')).toEqual([{ method: 'PATCH', offset }]);
    } finally {
      env.JWT_SECRET = SECRET;
      proxy.close();
      await processes.stop('server-2');
    }
  });
});

describe('the account dialog', () => {
  test('changes the password, which signs out every other browser', async () => {
    const email = await register(page, processes.url);
    const other = await openTab(await newContext());
    await other.goto(processes.url);
    await signIn(other, email);
    let attempts = 0;
    page.on('request', (request) => {
      if (request.url().endsWith('/api/me/password')) attempts++;
    });

    const part = await openAccount(page, 'Password');
    await part.getByLabel('Current password').fill('not the right one');
    await part.getByLabel('New password').fill('another long secret');
    await part.getByRole('button', { name: 'Change password' }).click();
    await part.getByText('The current password is wrong').waitFor();
    expect(attempts).toBe(1);

    await part.getByLabel('Current password').fill(PASSWORD);
    await part.getByLabel('New password').fill('another long secret');
    await part.getByRole('button', { name: 'Change password' }).click();
    await part.getByText('You are signed out everywhere else').waitFor();

    await other.reload();
    await signedOut(other);
    await page.reload();
    await signedIn(page);
    await signIn(other, email, 'another long secret');
  });

  test('lists the sessions, ends one and then all others', async () => {
    const email = await register(page, processes.url);
    const post = (path: string, body: object, userAgent = 'test') =>
      fetch(`${processes.url}/api/auth/${path}`, {
        method: 'POST',
        headers: { 'Content-Type': 'application/json', 'User-Agent': userAgent },
        body: JSON.stringify(body),
      });
    const openSession = async (userAgent: string): Promise<string> =>
      (await (await post('login', { email, password: PASSWORD }, userAgent)).json()).refreshToken;
    const phone = await openSession('Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) Safari/604.1');
    const script = await openSession('curl/8.5.0');

    const part = await openAccount(page, 'Where you are signed in');
    const sessions = part.locator('.item');
    await sessions.nth(2).waitFor();
    expect(await sessions.filter({ hasText: 'This one' }).getByRole('button').count()).toBe(0);
    await sessions.filter({ hasText: 'curl/8.5.0' }).waitFor();

    await part.getByRole('button', { name: /^Sign out Safari on iPhone/ }).click();
    await sessions.filter({ hasText: 'iPhone' }).waitFor({ state: 'detached' });
    expect((await post('refresh', { refreshToken: phone })).status).toBe(401);
    const next = await (await post('refresh', { refreshToken: script })).json();

    await part.getByRole('button', { name: 'Sign out everywhere else' }).click();
    await page.locator('#confirm').getByRole('button', { name: 'Sign out' }).click();
    await part.getByText('You are signed in only here').waitFor();
    expect(await sessions.count()).toBe(1);
    expect((await post('refresh', { refreshToken: next.refreshToken })).status).toBe(401);
    await page.reload();
    await signedIn(page);
  });

  test('creates an API key that works as it was copied, until it is revoked', async () => {
    await context.grantPermissions(['clipboard-read', 'clipboard-write']);
    await register(page, processes.url);
    const part = await openAccount(page, 'API keys');
    await part.getByText('There are no keys').waitFor();
    await part.getByRole('textbox', { name: 'Name' }).fill('Backup');
    await part.getByLabel('upload', { exact: true }).uncheck();
    await part.getByLabel('Expires').selectOption('in 30 days');
    await part.getByRole('button', { name: 'Create key' }).click();
    await part.getByRole('button', { name: 'Copy' }).click();
    await part.getByText('Copied').waitFor();
    const key = await page.evaluate(() => navigator.clipboard.readText());

    const read = () => fetch(`${processes.url}/api/files`, { headers: { Authorization: `Bearer ${key}` } });
    expect((await read()).status).toBe(200);
    const upload = await fetch(`${processes.url}/uploads`, {
      method: 'POST',
      headers: { Authorization: `Bearer ${key}`, 'Tus-Resumable': '1.0.0', 'Upload-Length': '1' },
    });
    expect(upload.status).toBe(403);

    await part.getByRole('button', { name: 'Done' }).click();
    expect(await part.getByLabel('The secret').count()).toBe(0);
    const row = part.locator('.item', { hasText: 'Backup' });
    expect(await row.textContent()).toContain(key.slice(0, 16));
    await row.getByRole('button', { name: 'Revoke the key Backup' }).click();
    await page.locator('#confirm').getByRole('button', { name: 'Revoke' }).click();
    await row.waitFor({ state: 'detached' });
    await part.getByText('There are no keys').waitFor();
    expect((await read()).status).toBe(401);
  });

  test('makes no key without a scope, and shows why', async () => {
    await register(page, processes.url);
    const part = await openAccount(page, 'API keys');
    await part.getByRole('textbox', { name: 'Name' }).fill('Nothing');
    for (const scope of await part.getByRole('checkbox').all()) await scope.uncheck();
    await part.getByRole('button', { name: 'Create key' }).click();
    await part.getByText('must name at least one scope').waitFor();
  });

  test('creates an upload token that sends one file, and says that it was used', async () => {
    await register(page, processes.url);
    const part = await openAccount(page, 'Upload tokens');
    await part.getByLabel('Label').fill('Photos');
    await part.getByLabel('Largest size', { exact: false }).first().fill('1.5');
    await part.getByLabel('Unit of the largest size').selectOption('KiB');
    await part.getByLabel('Types').fill('text/plain, image/*');
    await part.getByRole('button', { name: 'Create token' }).click();
    const token = await part.getByLabel('The secret').inputValue();
    const row = part.locator('.item', { hasText: 'Photos' });
    await row.filter({ hasText: 'at most 1.5 KiB · text/plain, image/* · expires' }).waitFor();

    const uploadWith = (length: number) =>
      fetch(`${processes.url}/uploads`, {
        method: 'POST',
        headers: {
          Authorization: `Bearer ${token}`,
          'Tus-Resumable': '1.0.0',
          'Upload-Length': String(length),
          'Upload-Metadata': encodeMetadata({ filename: 'sent.txt', filetype: 'text/plain' }),
          'Content-Type': 'application/offset+octet-stream',
        },
        body: 'x'.repeat(length),
      });
    expect((await uploadWith(1537)).status).toBe(413);
    expect((await uploadWith(1536)).status).toBe(201);
    const { rows } = await processes.database.query(`SELECT size FROM files WHERE filename = 'sent.txt'`);
    expect(rows).toEqual([{ size: '1536' }]);

    await part.locator('summary').click();
    await openAccount(page, 'Upload tokens');
    await row.filter({ hasText: 'Used' }).waitFor();
    await row.getByRole('button', { name: 'Revoke the upload token Photos' }).click();
    await page.locator('#confirm').getByRole('button', { name: 'Revoke' }).click();
    await part.getByText('There are no upload tokens').waitFor();
  });

  test('shows the quota that an admin has set; uploads beyond it are refused in the server’s words', async () => {
    const email = await register(page, processes.url);
    const usage = page.getByRole('dialog', { name: 'Account' });
    await page.getByRole('button', { name: /^Account/ }).click();
    await usage.getByText('There is no limit').waitFor();
    expect(await usage.getByRole('meter').count()).toBe(0);
    await page.keyboard.press('Escape');

    const admin = await openAdmin();
    const users = await openAccount(admin, 'Users');
    const row = users.locator('.item', { hasText: email });
    await row.getByRole('button', { name: `Change ${email}` }).click();
    await row.getByLabel('Limit of bytes').selectOption('this many:');
    await row.getByLabel('How many bytes').fill('1');
    await row.getByLabel('Unit of the limit').selectOption('MiB');
    await row.getByRole('button', { name: 'Save' }).click();
    await row.filter({ hasText: '0 B of 1 MiB' }).waitFor();

    await choose(page, folder, 'fits.bin', randomBytes(0.95 * MiB));
    await completed(page, 'fits.bin');
    await page.getByText('Your quota is nearly used up: 973 KiB of 1 MiB in use.').waitFor();
    await page.getByRole('button', { name: /^Account/ }).click();
    const meter = usage.getByRole('meter', { name: /of 1 MiB/ });
    await meter.waitFor();
    expect(await meter.evaluate((one: HTMLMeterElement) => [one.value, one.max])).toEqual([
      Math.floor(0.95 * MiB),
      MiB,
    ]);
    await page.getByRole('button', { name: 'Close' }).click();

    await choose(page, folder, 'too-much.bin', randomBytes(0.1 * MiB));
    await page
      .locator('.file', { hasText: 'too-much.bin' })
      .filter({ hasText: /996147 of 1048576 bytes are in use.*: delete something first/ })
      .waitFor();

    await page.getByRole('button', { name: 'Delete fits.bin' }).click();
    await page.getByText('Your quota is nearly used up').waitFor({ state: 'detached' });
    await page.getByRole('button', { name: 'Retry too-much.bin' }).click();
    await completed(page, 'too-much.bin');
  });

  test('locks an account out for an admin, and the account is signed out', async () => {
    const email = await register(page, processes.url);
    const admin = await openAdmin();
    const users = await openAccount(admin, 'Users');
    const row = users.locator('.item', { hasText: email });
    await row.getByRole('button', { name: `Change ${email}` }).click();
    // Nothing has been changed yet.
    await row.getByRole('button', { name: 'Save' }).click();
    await row.locator('form').waitFor({ state: 'detached' });
    await row.getByRole('button', { name: `Change ${email}` }).click();
    await row.getByLabel('Locked out').check();
    await row.getByRole('button', { name: 'Save' }).click();
    await row.locator('.badge', { hasText: 'Locked out' }).waitFor();
    await page.reload();
    await signedOut(page);

    const own = users.locator('.item', { hasText: adminEmail });
    await own.getByRole('button', { name: `Change ${adminEmail}` }).click();
    await own.getByLabel('Role').selectOption('user');
    await own.getByRole('button', { name: 'Save' }).click();
    await own.getByText('This is the only admin').waitFor();
  });

  test('does not offer a user the parts for admins', async () => {
    await register(page, processes.url);
    await page.getByRole('button', { name: /^Account/ }).click();
    const dialog = page.getByRole('dialog', { name: 'Account' });
    await dialog.locator('summary', { hasText: 'API keys' }).waitFor();
    expect(await dialog.locator('summary:visible').allTextContents()).not.toContain('Users');
    expect(await dialog.locator('summary:visible').allTextContents()).not.toContain('Invitations');
  });

  test('is used with the keyboard alone; Escape closes, and the focus returns', async () => {
    await register(page, processes.url);
    const focused = () =>
      page.evaluate(() => {
        const element = document.activeElement;
        return (element?.getAttribute('aria-label') || element?.textContent || element?.id || '').trim();
      });
    const tabTo = (text: RegExp) =>
      until(`the focus to come to ${text}`, async () => {
        await page.keyboard.press('Tab');
        return text.test(await focused());
      });

    await tabTo(/^Account /);
    await page.keyboard.press('Enter');
    const dialog = page.getByRole('dialog', { name: 'Account' });
    await dialog.waitFor();
    await tabTo(/^API keys$/);
    await page.keyboard.press('Enter');
    await dialog.getByText('There are no keys').waitFor();
    await until('the focus to come to the name', async () => {
      await page.keyboard.press('Tab');
      return page.evaluate(() => document.activeElement?.id === 'key-name');
    });
    await page.keyboard.type('By hand');
    await page.keyboard.press('Enter');
    await until('the focus to come to the key', async () => (await focused()) === 'The secret');
    await tabTo(/^Copy$/);
    await tabTo(/^Done$/);
    await page.keyboard.press('Enter');
    await until('the focus to come to the part', async () => (await focused()) === 'API keys');

    await tabTo(/^Revoke the key By hand$/);
    await page.keyboard.press('Enter');
    await page.locator('#confirm').waitFor();
    await page.keyboard.press('Escape');
    await page.locator('#confirm').waitFor({ state: 'hidden' });
    expect(await dialog.isVisible()).toBe(true);
    await until('the focus to return', async () => (await focused()) === 'Revoke the key By hand');
    await page.keyboard.press('Enter');
    await page.locator('#confirm').waitFor();
    await tabTo(/^Revoke$/);
    await page.keyboard.press('Enter');
    await dialog.getByText('There are no keys').waitFor();
    await until('the focus to come back to the part', async () => (await focused()) === 'API keys');

    await page.keyboard.press('Escape');
    await dialog.waitFor({ state: 'hidden' });
    await until('the focus to return', async () => /^Account /.test(await focused()));
  });

  test('fits a phone in the dark', async () => {
    await page.setViewportSize({ width: 360, height: 740 });
    await page.emulateMedia({ colorScheme: 'dark' });
    await page.goto(processes.url);
    await signIn(page, adminEmail);
    await expectToFit(page);
    for (const part of ['Password', 'Where you are', 'API keys', 'Upload tokens', 'Invitations', 'Users']) {
      const open = await openAccount(page, part);
      await open.locator('form, .item').first().waitFor();
      const body = page.locator('.sheet-body');
      const [needed, given] = await body.evaluate((one) => [one.scrollWidth, one.clientWidth]);
      expect(needed).toBeLessThanOrEqual(given ?? 0);
    }
    await expectToFit(page);
  });
});
