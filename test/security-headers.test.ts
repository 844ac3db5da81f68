import { randomUUID } from 'node:crypto';
import type { Browser } from 'playwright-core';
import { launchBrowser } from './support/browser.js';
import { PASSWORD, registerUser, type TestUser } from './support/client.js';
import { makeHtml, makeJpeg, makeSvg, makeXmlSvg } from './support/fixtures.js';
import { type Processes, startProcesses } from './support/processes.js';

const OTHER = 'https://other.example';
const LISTED = 'https://app.example';

let processes: Processes;
/** Takes pages of one other origin only. */
let strict: Processes;
let admin: TestUser;

beforeAll(async () => {
  processes = await startProcesses();
  admin = await registerUser(() => processes.url);
  strict = await startProcesses(
    {
      CORS_ORIGINS: `${LISTED}, https://b.example:8443`,
      CORS_HEADERS: 'X-Tenant, X-App_Version',
      PUBLIC_URL: 'https://files.example.org/base',
    },
    ['server'],
  );
});

afterAll(async () => {
  await processes?.close();
  await strict?.close();
});

const NOTHING = "default-src 'none';base-uri 'none';form-action 'none';frame-ancestors 'none'";

const policyOf = (answer: Response) => answer.headers.get('Content-Security-Policy') ?? '';

describe('every answer', () => {
  test.each([
    ['JSON', '/api/auth', {}],
    ['a refusal', '/api/me', {}],
    ['no route', '/nowhere', {}],
    ['no method', '/api/files', { method: 'PUT' }],
    ['tus', '/uploads', { method: 'OPTIONS' }],
    ['a refusal of tus', '/uploads', { method: 'POST' }],
    ['a broken path', '/api/files/%zz', {}],
  ])('lets nothing be made of it: %s', async (_what, path, init) => {
    const answer = await fetch(`${processes.url}${path}`, init);
    expect(Object.fromEntries(answer.headers)).toMatchObject({
      'content-security-policy': NOTHING,
      'x-content-type-options': 'nosniff',
      'x-frame-options': 'DENY',
      'referrer-policy': 'no-referrer',
      'cross-origin-opener-policy': 'same-origin',
      'cross-origin-resource-policy': 'same-origin',
    });
    expect(answer.headers.has('X-Powered-By')).toBe(false);
    expect(answer.headers.has('Access-Control-Allow-Credentials')).toBe(false);
  });

  test('asks for encryption from then on where it comes encrypted, and only there', async () => {
    const plain = await fetch(`${processes.url}/api/auth`, { headers: { 'X-Forwarded-Proto': 'https' } });
    expect(plain.headers.has('Strict-Transport-Security')).toBe(false);
    const published = await fetch(`${strict.url}/api/auth`);
    expect(published.headers.get('Strict-Transport-Security')).toBe('max-age=31536000');
    const behind = await startProcesses({ TRUST_PROXY: 'loopback' }, ['server']);
    try {
      const ask = (scheme: string) =>
        fetch(`${behind.url}/api/auth`, { headers: { 'X-Forwarded-Proto': scheme } });
      expect((await ask('https')).headers.has('Strict-Transport-Security')).toBe(true);
      expect((await ask('http')).headers.has('Strict-Transport-Security')).toBe(false);
    } finally {
      await behind.close();
    }
  });
});

describe('the page', () => {
  test('runs its own scripts and styles only, and nothing inline', async () => {
    const answer = await fetch(processes.url);
    expect(answer.status).toBe(200);
    const policy = policyOf(answer);
    expect(policy).not.toContain('unsafe');
    for (const directive of [
      "default-src 'none'",
      "script-src 'self'",
      "style-src 'self'",
      "frame-ancestors 'none'",
      "base-uri 'none'",
      "form-action 'none'",
    ]) {
      expect(policy.split(';')).toContain(directive);
    }
    expect(policyOf(await fetch(`${processes.url}/index.html`))).toBe(policy);
    // With no-referrer, some browsers hide from a server that its own page asks.
    expect(answer.headers.get('Referrer-Policy')).toBe('same-origin');
  });

  test('works under its policy, which stops everything that is not its own', async () => {
    let browser: Browser | undefined;
    try {
      browser = await launchBrowser();
      const page = await browser.newPage();
      await page.addInitScript(() => {
        const seen: string[] = [];
        Object.assign(window, { seen });
        document.addEventListener('securitypolicyviolation', (event) => {
          seen.push(`${event.effectiveDirective} ${event.blockedURI}`);
        });
      });
      const violations = () => page.evaluate(() => (window as unknown as { seen: string[] }).seen);
      await page.goto(processes.url);
      await page.getByRole('button', { name: 'Create an account' }).click();
      await page.getByRole('textbox', { name: 'E-mail' }).fill(`${randomUUID()}@example.org`);
      await page.locator('#password').fill(PASSWORD);
      await page.getByRole('button', { name: 'Create account' }).click();
      await page.locator('input[type=file][multiple]').setInputFiles({
        name: 'a.jpg',
        mimeType: 'image/jpeg',
        buffer: await makeJpeg({ width: 300, height: 200 }),
      });
      await page.waitForFunction(
        () => (document.querySelector<HTMLImageElement>('.file .thumb img')?.naturalWidth ?? 0) > 0,
      );
      expect(await violations()).toEqual([]);

      const hasRun = await page.evaluate(async (other) => {
        const script = document.createElement('script');
        script.textContent = 'window.injected = true';
        document.body.append(script);
        document.body.setAttribute('onclick', 'window.injected = true');
        document.body.click();
        const style = document.createElement('style');
        style.textContent = 'body { color: rgb(1, 2, 3) }';
        document.head.append(style);
        await fetch(other).catch(() => {});
        const isStyled = getComputedStyle(document.body).color === 'rgb(1, 2, 3)';
        return 'injected' in window || isStyled;
      }, OTHER);
      expect(hasRun).toBe(false);
      // The page is told of violations only after they happen.
      const stopped = ['script-src-elem', 'script-src-attr', 'style-src-elem', 'connect-src'];
      await page.waitForFunction((directives) => {
        const { seen } = window as unknown as { seen: string[] };
        return directives.every((directive) => seen.some((line) => line.startsWith(`${directive} `)));
      }, stopped);
    } finally {
      await browser?.close();
    }
  });
});

describe('a file that a user has sent', () => {
  const xhtml = Buffer.from(
    '<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><script>alert(1)</script></html>',
  );
  const bom = Buffer.concat([Buffer.from('\ufeff'), makeHtml()]);

  test.each([
    ['SVG with a script', makeSvg(), 'a.svg', 'image/svg+xml'],
    ['SVG in mixed case', makeSvg(), 'a.SVG', 'Image/SVG+XML'],
    ['SVG as XML', makeXmlSvg(), 'a.svg', 'image/svg+xml'],
    ['SVG that says it is a PNG', makeSvg(), 'a.png', 'image/png'],
    ['HTML that says it is a JPEG', makeHtml(), 'a.jpg', 'image/jpeg'],
    ['HTML in mixed case', makeHtml(), 'a.HtMl', 'TEXT/HTML; charset=utf-7'],
    ['HTML behind a byte order mark', bom, 'a.html', 'text/html'],
    ['XHTML', xhtml, 'a.xhtml', 'application/xhtml+xml'],
    [
      'XML with a style sheet',
      Buffer.from('<?xml version="1.0"?><?xml-stylesheet href="x"?><a/>'),
      'a.xml',
      'text/xml',
    ],
    ['JavaScript', Buffer.from('alert(document.domain)'), 'a.js', 'text/javascript'],
  ])('never runs in a browser: %s', async (_what, bytes, filename, filetype) => {
    const { id } = await admin.settled(await admin.upload(bytes, { filename, filetype }));
    const answer = await admin.fetch(`/api/files/${id}/content`);
    expect(answer.status).toBe(200);
    const type = answer.headers.get('Content-Type') ?? '';
    const disposition = answer.headers.get('Content-Disposition') ?? '';
    // The browser shows it as text, which nosniff stops it from guessing anew, or downloads it.
    if (type !== 'text/plain; charset=utf-8') expect(disposition).toMatch(/^attachment/);
    expect(type).not.toMatch(/html|svg|javascript/i);
    expect(answer.headers.get('X-Content-Type-Options')).toBe('nosniff');
    expect(policyOf(answer)).toBe("default-src 'none'; sandbox");
    expect(answer.headers.get('Referrer-Policy')).toBe('no-referrer');
  });

  test('may be shown, like its thumbnails, by pages of other origins that have a link', async () => {
    const jpeg = await makeJpeg({ width: 300, height: 200 });
    const { links } = await admin.settled(
      await admin.upload(jpeg, { filename: 'a.jpg', filetype: 'image/jpeg' }),
    );
    for (const link of [links.content, links.thumbnails?.small]) {
      const answer = await fetch(`${processes.url}${link}`);
      expect(answer.status).toBe(200);
      expect(answer.headers.get('Cross-Origin-Resource-Policy')).toBe('cross-origin');
      expect(answer.headers.get('X-Frame-Options')).toBe('SAMEORIGIN');
    }
  });
});

test('the board has a policy of its own', async () => {
  const answer = await admin.fetch('/admin/queues');
  expect(answer.status).toBe(200);
  expect(policyOf(answer)).toContain("frame-ancestors 'none'");
  expect(answer.headers.get('X-Frame-Options')).toBe('DENY');
  expect(answer.headers.has('X-Powered-By')).toBe(false);
});

describe('pages of other origins', () => {
  const preflight = (url: string, path: string, origin: string, method: string) =>
    fetch(`${url}${path}`, {
      method: 'OPTIONS',
      headers: {
        Origin: origin,
        'Access-Control-Request-Method': method,
        'Access-Control-Request-Headers': 'authorization,content-type,upload-offset',
      },
    });
  const list = (answer: Response, name: string) => answer.headers.get(name)?.toLowerCase().split(/, ?/) ?? [];

  test.each(['/api/files', '/uploads'])('are let in as CORS_ORIGINS says, at %s', async (path) => {
    for (const [origin, allowed] of [
      [LISTED, LISTED],
      ['https://b.example:8443', 'https://b.example:8443'],
      ['https://b.example', null],
      [`${LISTED}.evil.example`, null],
      [LISTED.toUpperCase(), null],
      ['http://app.example', null],
      ['null', null],
    ]) {
      const asked = await preflight(strict.url, path, origin ?? '', 'DELETE');
      const answered = await fetch(`${strict.url}${path}`, { headers: { Origin: origin ?? '' } });
      for (const answer of [asked, answered]) {
        expect([origin, answer.headers.get('Access-Control-Allow-Origin')]).toEqual([origin, allowed]);
        expect(list(answer, 'Vary')).toContain('origin');
        expect(answer.headers.has('Access-Control-Allow-Credentials')).toBe(false);
      }
    }
    expect(
      (await preflight(processes.url, path, 'null', 'GET')).headers.get('Access-Control-Allow-Origin'),
    ).toBe('*');
  });

  test.each(['/api/files', '/uploads'])(
    'may send what tracing tools add, and what CORS_HEADERS names, at %s',
    async (path) => {
      const allowed = list(await preflight(strict.url, path, LISTED, 'POST'), 'Access-Control-Allow-Headers');
      expect(allowed).toEqual(
        expect.arrayContaining(['traceparent', 'tracestate', 'baggage', 'sentry-trace', 'x-requested-with']),
      );
      expect(allowed).toEqual(
        expect.arrayContaining(['if-match', 'if-none-match', 'x-tenant', 'x-app_version']),
      );
      const usual = list(await preflight(processes.url, path, OTHER, 'POST'), 'Access-Control-Allow-Headers');
      expect(usual).not.toContain('x-tenant');
    },
  );

  test.each([
    ['/api/files', []],
    [
      '/uploads',
      ['tus-resumable', 'upload-concat', 'upload-checksum', 'upload-defer-length', 'x-http-method-override'],
    ],
  ])('may send every header of uploads that scripts can set, at %s', async (path, ofTus) => {
    const asked = await preflight(processes.url, path, OTHER, 'POST');
    expect(list(asked, 'Access-Control-Allow-Headers')).toEqual(
      expect.arrayContaining([
        ...ofTus,
        ...['upload-draft-interop-version', 'upload-complete', 'upload-incomplete', 'upload-offset'],
        ...['upload-length', 'upload-metadata', 'content-digest', 'repr-digest', 'want-repr-digest'],
        ...['content-type', 'content-disposition', 'content-encoding', 'incremental', 'x-request-id'],
      ]),
    );
  });

  test('may use every method and read the headers that they need', async () => {
    for (const method of ['GET', 'HEAD', 'POST', 'PATCH', 'DELETE']) {
      const answer = await preflight(processes.url, '/api/files', OTHER, method);
      expect(answer.status).toBe(204);
      expect(list(answer, 'Access-Control-Allow-Methods')).toContain(method.toLowerCase());
      expect(list(answer, 'Access-Control-Allow-Headers')).toEqual(
        expect.arrayContaining([
          'authorization',
          'content-type',
          'range',
          'last-event-id',
          'idempotency-key',
        ]),
      );
    }
    for (const path of ['/api/files', '/uploads']) {
      const answer = await fetch(`${processes.url}${path}`, { headers: { Origin: OTHER } });
      expect(list(answer, 'Access-Control-Expose-Headers')).toEqual(
        expect.arrayContaining(['retry-after', 'ratelimit', 'ratelimit-policy', 'x-request-id', 'location']),
      );
    }
  });
});

describe('a cookie', () => {
  async function signIn(server: Processes): Promise<string> {
    const answer = await fetch(`${server.url}/api/auth/register`, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ email: `${randomUUID()}@example.org`, password: PASSWORD }),
    });
    return answer.headers
      .getSetCookie()
      .map((line) => line.split(';')[0])
      .join('; ');
  }

  const post = (url: string, action: string, headers: Record<string, string>, body?: string) =>
    fetch(`${url}/api/auth/${action}`, {
      method: 'POST',
      headers: { ...headers, ...(body ? { 'Content-Type': 'application/json' } : {}) },
      ...(body ? { body } : {}),
    });

  test.each(['refresh', 'logout'])(
    'is taken from pages of this server for %s, and from no others',
    async (action) => {
      const Cookie = await signIn(processes);
      const { host, port } = new URL(processes.url);
      for (const origin of [
        ...[OTHER, 'null', `https://${host}`, 'http://127.0.0.1', `http://127.0.0.1:${Number(port) + 1}`],
        ...[`http://evil.${host}`, `${processes.url}.evil.example`, ''],
      ]) {
        const answer = await post(processes.url, action, { Cookie, Origin: origin });
        expect([origin, answer.status]).toEqual([origin, 403]);
        expect(await answer.json()).toMatchObject({ code: 'forbidden' });
        expect(answer.headers.getSetCookie()).toEqual([]);
      }
      // None of that has ended the session.
      const own = await post(processes.url, action, { Cookie, Origin: processes.url });
      expect(own.status).toBe(action === 'refresh' ? 200 : 204);
    },
  );

  test('is also taken from PUBLIC_URL, and from programs, which send no Origin', async () => {
    for (const headers of [
      { Origin: 'https://files.example.org' },
      { Origin: strict.url },
      {} as Record<string, string>,
    ]) {
      const answer = await post(strict.url, 'refresh', { Cookie: await signIn(strict), ...headers });
      expect([headers, answer.status]).toEqual([headers, 200]);
    }
    // That one may call with a token of its own.
    for (const Origin of [LISTED, OTHER]) {
      const others = await post(strict.url, 'refresh', { Cookie: await signIn(strict), Origin });
      expect([Origin, others.status]).toEqual([Origin, 403]);
    }
  });

  test('is also taken from pages that the browser knows to be ours, whatever proxies made of the address', async () => {
    for (const [site, status] of [
      ['same-origin', 200],
      ['same-site', 403],
      ['cross-site', 403],
    ] as const) {
      // TLS ends at a proxy that this server does not know of.
      const headers = { Origin: OTHER, 'Sec-Fetch-Site': site };
      const answer = await post(processes.url, 'refresh', { Cookie: await signIn(processes), ...headers });
      expect([site, answer.status]).toEqual([site, status]);
    }
  });

  test('is no matter where the token comes in the body', async () => {
    const refreshToken = /landfall_refresh=([^;]+)/.exec(await signIn(processes))?.[1];
    const body = JSON.stringify({ refreshToken });
    expect((await post(processes.url, 'refresh', { Origin: OTHER }, body)).status).toBe(200);
  });

  test('of an admin changes the queue from the board’s own pages only', async () => {
    const fresh = await startProcesses({}, ['server']);
    try {
      const Cookie = await signIn(fresh);
      const pause = (Origin: string) =>
        fetch(`${fresh.url}/admin/queues/api/queues/processing/pause`, {
          method: 'PUT',
          headers: { Cookie, Origin },
        });
      expect((await pause(OTHER)).status).toBe(403);
      expect((await pause(fresh.url)).status).toBe(200);
    } finally {
      await fresh.close();
    }
  });
});
