import { randomBytes, randomUUID } from 'node:crypto';
import type { Options } from 'express-rate-limit';
import { v7 as uuidv7 } from 'uuid';
import { deriveKeys } from '../server/auth/keys.js';
import { signLink } from '../server/auth/links.js';
import { createMemoryStore } from '../server/limits/counts.js';
import { encodeMetadata, PASSWORD, registerUser, type TestUser, useAccount } from './support/client.js';
import { type Processes, startProcesses } from './support/processes.js';
import { until } from './support/until.js';

const SECRET = 'a secret of this test, long enough for a key';

/** So long that none ends during a test. */
const ENV = {
  JWT_SECRET: SECRET,
  TRUST_PROXY: 'loopback',
  RATE_LIMIT_UPLOADS: '3/1h',
  RATE_LIMIT_STATUS: '4/1h',
  RATE_LIMIT_DOWNLOADS: '5/1h',
  RATE_LIMIT_PROCESSING: '6/1h',
  RATE_LIMIT_AUTH: '5/1h',
  RATE_LIMIT_GLOBAL: '30/1h',
};

let processes: Processes;

let addresses = 0;

/** One that no other test has. */
function newAddress(): string {
  addresses++;
  return `198.51.${addresses >> 8}.${addresses & 255}`;
}

/** As a proxy on the loopback says from where a request comes. */
const from = (address: string) => ({ 'X-Forwarded-For': address });

const newUser = () => registerUser(() => processes.url, from(newAddress()));

function call(path: string, address: string, init: RequestInit = {}): Promise<Response> {
  return fetch(`${processes.url}${path}`, {
    ...init,
    headers: { ...from(address), ...(init.headers as Record<string, string>) },
  });
}

/** A RateLimit header: name → items left and seconds until the window ends. */
function leftIn(answer: Response): Record<string, { left: number; seconds: number }> {
  const header = answer.headers.get('RateLimit') ?? '';
  return Object.fromEntries(
    [...header.matchAll(/"([\w-]+)"; r=(\d+); t=(\d+)/g)].map(([, name = '', left, seconds]) => [
      name,
      { left: Number(left), seconds: Number(seconds) },
    ]),
  );
}

async function expectRefused(answer: Response, detail = /./): Promise<void> {
  expect(answer.status).toBe(429);
  expect(answer.headers.get('Content-Type')).toMatch(/^application\/problem\+json/);
  const wait = answer.headers.get('Retry-After') ?? '';
  expect(wait).toMatch(/^[1-9]\d*$/);
  const problem = await answer.json();
  expect(problem).toMatchObject({ status: 429, code: 'rate_limited', title: 'Too many requests' });
  expect(problem.detail).toMatch(detail);
  expect(problem.detail).toMatch(new RegExp(`: try again in ${wait} s$`));
}

/** Asks until it is refused. Returns the statuses before that. */
async function exhaust(ask: () => Promise<Response>, detail?: RegExp): Promise<number[]> {
  const statuses: number[] = [];
  for (let asked = 0; asked < 100; asked++) {
    const answer = await ask();
    if (answer.status === 429) {
      await expectRefused(answer, detail);
      return statuses;
    }
    await answer.arrayBuffer();
    statuses.push(answer.status);
  }
  throw new Error('nothing was refused');
}

async function statusOf(answer: Promise<Response>): Promise<number> {
  const { status } = await answer;
  return status;
}

const isRefused = async (answer: Promise<Response>) => (await statusOf(answer)) === 429;

const times = <T>(count: number, value: T): T[] => Array.from({ length: count }, () => value);

beforeAll(async () => {
  processes = await startProcesses(ENV, ['server']);
  // The admin is not the user of any test.
  await newUser();
});

afterAll(() => processes?.close());

describe('a user', () => {
  type Ask = (user: TestUser, address: string) => Promise<Response>;
  const create: Ask = (user, address) =>
    user.tus('POST', '/uploads', { 'Upload-Length': '3', ...from(address) });
  const presign: Ask = (user, address) =>
    user.fetch('/api/uploads/presign', {
      method: 'POST',
      headers: { 'Content-Type': 'application/json', ...from(address) },
      body: JSON.stringify({ size: 3 }),
    });
  const get =
    (path: string): Ask =>
    (user, address) =>
      user.fetch(path, { headers: from(address) });
  const remove: Ask = (user, address) =>
    user.fetch(`/api/files/${uuidv7()}`, { method: 'DELETE', headers: from(address) });
  const terminate: Ask = (user, address) => user.tus('DELETE', `/uploads/${uuidv7()}`, from(address));
  const content = get(`/api/files/${uuidv7()}/content`);

  const cases: [bucket: string, limit: number, one: Ask, other: Ask, detail: RegExp][] = [
    ['uploads', 3, create, presign, /^At most 3 new uploads in 3600 s: /],
    ['status', 4, get('/api/files'), get('/api/me'), /^At most 4 questions in 3600 s: /],
    ['downloads', 5, content, get(`/api/files/${uuidv7()}/thumbnails/small`), /^At most 5 downloads in /],
    ['processing', 6, remove, terminate, /^At most 6 changes in 3600 s: /],
  ];

  test.each(cases)(
    'has a number of %s, from wherever they come',
    async (bucket, limit, one, other, detail) => {
      const [user, neighbour] = [await newUser(), await newUser()];
      const address = newAddress();
      expect(await exhaust(() => one(user, address), detail)).toHaveLength(limit);
      await expectRefused(await other(user, newAddress()), detail);
      // Other callers at that address have no less for it, nor has any limit that is counted apart.
      const answer = await one(neighbour, address);
      expect(answer.status).not.toBe(429);
      expect(leftIn(answer)[bucket]?.left).toBe(limit - 1);
      const apart = cases.filter(([name]) => name !== bucket).map(([, , ask]) => ask);
      for (const ask of apart) expect(await isRefused(ask(user, newAddress()))).toBe(false);
    },
  );

  test('is told how much is left, of each limit that counts the request', async () => {
    const [user, address] = [await newUser(), newAddress()];
    await user.fetch('/api/files', { headers: from(address) });
    const answer = await user.fetch('/api/files', { headers: from(address) });
    expect(leftIn(answer)).toEqual({
      global: { left: 28, seconds: expect.any(Number) },
      status: { left: 2, seconds: expect.any(Number) },
    });
    expect(answer.headers.get('RateLimit-Policy')).toMatch(
      /^"global"; q=30; w=3600; pk=:[^:]+:, "status"; q=4; w=3600; pk=:[^:]+:$/,
    );
    expect(answer.headers.get('X-RateLimit-Limit')).toBeNull();
    expect(answer.headers.get('Retry-After')).toBeNull();
  });

  test('hears of a refusal in a page of another origin too', async () => {
    const user = await newUser();
    const page = { Origin: 'https://page.example' };
    await exhaust(() => create(user, newAddress()));
    await exhaust(() => get('/api/files')(user, newAddress()));
    const answers = [
      await user.tus('POST', '/uploads', { 'Upload-Length': '3', ...page, ...from(newAddress()) }),
      await user.fetch('/api/files', { headers: { ...page, ...from(newAddress()) } }),
      await user.tus('HEAD', `/uploads/${uuidv7()}`, { ...page, ...from(newAddress()) }),
    ];
    expect(answers.map(({ status }) => status)).toEqual([429, 429, 404]);
    for (const { headers } of answers) {
      expect(headers.get('Access-Control-Allow-Origin')).toBe('*');
      const exposed = headers.get('Access-Control-Expose-Headers')?.split(/, ?/);
      expect(exposed).toEqual(expect.arrayContaining(['RateLimit', 'RateLimit-Policy', 'Retry-After']));
    }
  });

  test('at the limit may still ask for further addresses of an upload that was let in', async () => {
    const user = await newUser();
    await exhaust(() => create(user, newAddress()));
    const answer = await user.fetch('/api/uploads/presign', {
      method: 'POST',
      headers: { 'Content-Type': 'application/json', ...from(newAddress()) },
      body: JSON.stringify({ id: uuidv7(), parts: [1] }),
    });
    // 409, not 429: here the bytes are in a folder, where direct upload does not exist.
    expect(answer.status).toBe(409);
  });

  test('is not counted together with the guests who use his upload tokens', async () => {
    const user = await newUser();
    const token = async () => {
      const answer = await user.fetch('/api/upload-tokens', {
        method: 'POST',
        headers: { 'Content-Type': 'application/json', ...from(newAddress()) },
        body: '{}',
      });
      return (await answer.json()).token as string;
    };
    const use = (bearer: string) =>
      call('/uploads', newAddress(), {
        method: 'POST',
        headers: { Authorization: `Bearer ${bearer}`, 'Tus-Resumable': '1.0.0', 'Upload-Length': '3' },
      });
    const [one, other] = [await token(), await token()];
    expect(await exhaust(() => use(one))).toHaveLength(3);
    expect(await statusOf(use(other))).toBe(201);
    expect(await statusOf(create(user, newAddress()))).toBe(201);
  });
});

describe('an address', () => {
  test('without a signed-in user has a number of downloads', async () => {
    const user = await newUser();
    const link = signLink(`/api/files/${uuidv7()}/content`, deriveKeys(SECRET).link);
    const address = newAddress();
    expect(await exhaust(() => call(link, address))).toEqual(times(5, 404));
    expect(await statusOf(call(link, newAddress()))).toBe(404);
    const [path = ''] = link.split('?');
    expect(await statusOf(user.fetch(path, { headers: from(address) }))).toBe(404);
  });

  test('has a number of requests to everything but health and page, of all callers together', async () => {
    const [user, address] = [await newUser(), newAddress()];
    const wrong = { headers: { Authorization: 'Bearer wrong' } };
    const statuses = await exhaust(() => call('/api/files', address, wrong), /^At most 30 requests /);
    expect(statuses).toEqual(times(30, 401));
    for (const path of ['/api/auth', '/api/none', '/admin/queues', '/admin/queues/api/queues']) {
      await expectRefused(await user.fetch(path, { headers: from(address) }), /^At most 30 requests /);
    }
    for (const method of ['POST', 'DELETE']) {
      const path = method === 'POST' ? '/uploads' : `/uploads/${uuidv7()}`;
      expect(await statusOf(user.tus(method, path, { 'Upload-Length': '3', ...from(address) }))).toBe(429);
    }
    expect(await statusOf(call('/health/live', address))).toBe(200);
    expect(await isRefused(call('/', address))).toBe(false);
    expect(await statusOf(call('/api/auth', newAddress()))).toBe(200);
  });

  test.each([
    ['2001:db8:1:2::1', '2001:db8:1:2:ffff::9', true],
    ['2001:db8:1:3::1', '2001:db8:1:4::1', false],
    ['2001:db8:1:5::1', '2001:DB8:0001:0005:0:0:0:1', true],
    ['::ffff:203.0.113.1', '203.0.113.1', true],
    ['203.0.113.2', '203.0.113.3', false],
    ['203.0.113.4:1000', '203.0.113.4:2000', true],
    ['[2001:db8:1:6::1]:1000', '2001:db8:1:6::2', true],
    ['nonsense', 'more nonsense', true],
  ])('%s and %s are one: %s', async (one, other, same) => {
    const before = leftIn(await call('/api/auth', one)).global?.left ?? 0;
    const after = leftIn(await call('/api/auth', other)).global?.left;
    expect(after).toBe(same ? before - 1 : 29);
  });
});

describe('while all other requests are at their limit', () => {
  let user: TestUser;
  let address: string;
  let path: string;

  beforeAll(async () => {
    user = await newUser();
    address = newAddress();
    path = (await user.create(6, from(address))) as string;
    await exhaust(() => user.tus('POST', '/uploads', { 'Upload-Length': '3', ...from(newAddress()) }));
    await exhaust(() => call('/api/auth', address));
  });

  test('PATCH and HEAD go on, also under another name', async () => {
    const patch = (offset: number, body: string) =>
      user.tus('PATCH', path, { 'Upload-Offset': String(offset), ...from(address) }, body);
    expect(await statusOf(patch(0, 'ab'))).toBe(204);
    for (const method of times(40, 'HEAD')) {
      const answer = await user.tus(method, path, from(address));
      expect([answer.status, answer.headers.get('Upload-Offset')]).toEqual([200, '2']);
      expect(answer.headers.get('RateLimit')).toBeNull();
    }
    const renamed = { 'X-HTTP-Method-Override': 'PATCH', 'Upload-Offset': '2', ...from(address) };
    const type = { 'Content-Type': 'application/offset+octet-stream' };
    expect(await statusOf(user.tus('POST', path, { ...renamed, ...type }, 'cd'))).toBe(204);
    expect(await statusOf(user.tus('OPTIONS', '/uploads', from(address)))).toBe(200);
    expect(await statusOf(patch(4, 'ef'))).toBe(204);
  });

  test('requests with a wrong token are counted', async () => {
    const head = (token: string) =>
      fetch(`${processes.url}${path}`, {
        method: 'HEAD',
        headers: { 'Tus-Resumable': '1.0.0', Authorization: `Bearer ${token}`, ...from(address) },
      });
    expect((await head(`lfk_${'0'.repeat(12)}_${'a'.repeat(43)}`)).status).toBe(429);
    expect((await head('nonsense')).status).toBe(429);
    expect((await head(user.token)).status).toBe(200);
  });

  test('requests for an upload that is missing, ended or another user’s are counted', async () => {
    const stranger = await newUser();
    const theirs = await stranger.create(6, from(newAddress()));
    const ended = await stranger.create(6, from(newAddress()));
    expect((await stranger.tus('DELETE', ended, from(newAddress()))).status).toBe(204);
    const head = (who: TestUser, at: string, where: string) => who.tus('HEAD', at, from(where));
    const patch = (who: TestUser, at: string, where: string) =>
      who.tus('PATCH', at, { 'Upload-Offset': '0', ...from(where) }, 'abc');
    const missing: [who: TestUser, at: string, status: number][] = [
      [user, `/uploads/${uuidv7()}`, 404],
      [user, '/uploads/no-id', 404],
      [user, theirs, 404],
      [stranger, ended, 410],
    ];
    for (const [who, at, status] of missing) {
      for (const ask of [head, patch]) {
        const place = newAddress();
        const answer = await ask(who, at, place);
        expect([at, answer.status, leftIn(answer).global?.left]).toEqual([at, status, 29]);
        expect((await head(who, at, address)).status).toBe(429);
        await expectRefused(await patch(who, at, address), /^At most 30 requests from this address /);
      }
    }
    expect((await head(user, path, address)).status).toBe(200);

    const place = newAddress();
    const statuses = await exhaust(() => patch(stranger, ended, place));
    expect(statuses).toEqual(times(30, 410));
    expect(await isRefused(call('/api/auth', place))).toBe(true);
    expect((await head(stranger, theirs, place)).status).toBe(200);
    expect((await patch(stranger, theirs, place)).status).toBe(204);
    expect((await patch(stranger, theirs, place)).status).toBe(409);
  });

  test('requests with a key that may not upload are counted', async () => {
    const made = await user.fetch('/api/keys', {
      method: 'POST',
      headers: { 'Content-Type': 'application/json', ...from(newAddress()) },
      body: JSON.stringify({ name: 'reader', scopes: ['read'] }),
    });
    const reader = useAccount(user, (await made.json()).key, () => processes.url);
    expect((await reader.tus('HEAD', path, from(newAddress()))).status).toBe(403);
    expect((await reader.tus('HEAD', path, from(address))).status).toBe(429);
  });

  test('an upload of many parts that was begun before is finished by tus-js-client', async () => {
    const uploader = await newUser();
    const place = newAddress();
    const content = randomBytes(300_000);
    const metadata = { 'Upload-Metadata': encodeMetadata({ filename: 'many.bin' }) };
    const begun = await uploader.create(content.length, { ...metadata, ...from(place) });
    await exhaust(() => call('/api/auth', place));
    const id = await uploader.tusUpload(content, {
      uploadUrl: `${processes.url}${begun}`,
      headers: { Authorization: `Bearer ${uploader.token}`, ...from(place) },
      chunkSize: 8_000,
      retryDelays: [],
    });
    const { rows } = await processes.database.query('SELECT size FROM files WHERE id = $1', [id]);
    expect(rows).toEqual([{ size: String(content.length) }]);
  });

  test('a creation cannot pass the limit as another method', async () => {
    const count = async () => (await processes.database.query('SELECT count(*) FROM uploads')).rows;
    const before = await count();
    const body = { 'Upload-Length': '3', 'Upload-Offset': '0', ...from(address) };
    const type = { 'Content-Type': 'application/offset+octet-stream' };
    const statuses: number[] = [];
    for (const [method, override, to] of [
      ['POST', 'PATCH', '/uploads'],
      ['POST', 'patch', '/uploads/'],
      ['POST', 'PATCH', `/uploads/${uuidv7()}`],
      ['POST', 'HEAD', '/uploads'],
      ['POST', 'OPTIONS', '/uploads'],
      ['PATCH', 'POST', '/uploads'],
      ['PATCH', 'post', '/uploads'],
    ] as const) {
      const headers = { 'X-HTTP-Method-Override': override, ...body, ...type };
      statuses.push(await statusOf(user.tus(method, to, headers, 'abc')));
    }
    expect(statuses).toEqual([429, 429, 429, 429, 200, 429, 429]);
    const both = { 'X-HTTP-Method-Override': 'PATCH, POST', ...body, ...type };
    expect([405, 429]).toContain(await statusOf(user.tus('POST', '/uploads', both, 'abc')));
    expect(await count()).toEqual(before);
    // Only tus knows that header.
    const answer = await user.fetch('/api/files', {
      method: 'POST',
      headers: { 'X-HTTP-Method-Override': 'PATCH', ...from(address) },
    });
    expect(answer.status).toBe(429);
  });
});

describe('signing in', () => {
  const post = (action: string, body: unknown, address = newAddress(), headers = {}) =>
    call(`/api/auth/${action}`, address, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json', ...headers },
      body: JSON.stringify(body),
    });
  const logIn = (email: string, password = PASSWORD, address = newAddress()) =>
    post('login', { email, password }, address);
  const newEmail = () => `${randomUUID()}@example.org`;
  const WRONG = 'a wrong password';

  /** Refusals by these limits in the event log, of these addresses. */
  async function refusalsFrom(...of: string[]) {
    const { rows } = await processes.database.query(
      `SELECT actor ->> 'address' AS address FROM all_events
       WHERE type = 'access' AND result = 'refused' AND data ->> 'action' = 'auth'
       AND data ->> 'code' = 'rate_limited' AND actor ->> 'address' = ANY ($1)`,
      [of],
    );
    return rows;
  }

  test('an address tries many accounts: a few, then none, not even its own', async () => {
    const [user, address] = [await newUser(), newAddress()];
    const statuses = await exhaust(() => logIn(newEmail(), WRONG, address), /^At most 5 attempts /);
    expect(statuses).toEqual(times(5, 401));
    await expectRefused(await logIn(user.email, PASSWORD, address));
    await expectRefused(await post('register', { email: newEmail(), password: PASSWORD }, address));
    expect(await statusOf(logIn(user.email))).toBe(200);
    await until('the refusal to be noted', async () => (await refusalsFrom(address)).length > 0);
    // A second refusal of the first address would be in the log by the time that this later one is.
    const other = newAddress();
    await exhaust(() => logIn(newEmail(), WRONG, other));
    await until('the next one', async () => (await refusalsFrom(other)).length > 0);
    expect(await refusalsFrom(address)).toHaveLength(1);
  });

  test('many addresses try one account: a few, then none, not even with the right password', async () => {
    const victim = await newUser();
    const session = await (await logIn(victim.email)).json();
    const tried: string[] = [];
    const spelled = [victim.email, victim.email.toUpperCase()];
    const statuses = await exhaust(() => {
      tried.push(newAddress());
      return logIn(spelled[tried.length % 2] ?? '', WRONG, tried.at(-1));
    }, /^At most 5 failed attempts for this account /);
    expect(statuses).toEqual(times(5, 401));
    await expectRefused(await logIn(victim.email));
    await expectRefused(await logIn(victim.email, WRONG, tried[0]));
    await until('the refusal to be noted', async () => (await refusalsFrom(...tried)).length > 0);
    // The session that is open goes on, and other accounts are not affected.
    expect(await statusOf(post('refresh', { refreshToken: session.refreshToken }))).toBe(200);
    expect(await statusOf(logIn((await newUser()).email))).toBe(200);
    expect(await refusalsFrom(...tried)).toHaveLength(1);
  });

  test('signing in with the right password neither uses up attempts nor gives back failed ones', async () => {
    const { email } = await newUser();
    for (let times = 0; times < 7; times++) expect(await statusOf(logIn(email))).toBe(200);
    for (let times = 0; times < 4; times++) expect(await statusOf(logIn(email, WRONG))).toBe(401);
    expect(await statusOf(logIn(email))).toBe(200);
    expect(await statusOf(logIn(email, WRONG))).toBe(401);
    await expectRefused(await logIn(email));
  });

  test('attempts for an account that does not exist are counted in the same way', async () => {
    const email = newEmail();
    expect(await exhaust(() => logIn(email, WRONG))).toEqual(times(5, 401));
  });

  test('many guesses at once get no more attempts', async () => {
    const { email } = await newUser();
    const answers = await Promise.all(times(20, WRONG).map((password) => logIn(email, password)));
    expect(answers.filter(({ status }) => status === 401)).toHaveLength(5);
    expect(answers.filter(({ status }) => status === 429)).toHaveLength(15);
  });

  test('an address registers a few accounts', async () => {
    const address = newAddress();
    const register = () => post('register', { email: newEmail(), password: PASSWORD }, address);
    expect(await exhaust(register)).toEqual(times(5, 201));
  });

  test('a malformed sign-in counts against the address, not against the account', async () => {
    const { email } = await newUser();
    const address = newAddress();
    expect(await exhaust(() => post('login', { email, password: 'x' }, address))).toEqual(times(5, 400));
    expect(await exhaust(() => post('login', { email: 1 }, address))).toEqual([]);
    expect(await statusOf(logIn(email))).toBe(200);
  });

  test('a change of password allows a few wrong attempts, from whatever addresses', async () => {
    const user = await newUser();
    const change = (currentPassword: string) =>
      post('../me/password', { currentPassword, newPassword: 'another password' }, newAddress(), {
        Authorization: `Bearer ${user.token}`,
      });
    expect(await exhaust(() => change(WRONG))).toEqual(times(5, 401));
    await expectRefused(await change(PASSWORD));
    expect(await statusOf(logIn(user.email))).toBe(200);
  });
});

test('a server keeps the counts of callers who come again and again, and forgets others before they become too many', async () => {
  const store = createMemoryStore(10);
  store.init?.({ windowMs: 60_000 } as Options);
  const hits = async (key: string) => (await store.increment(key)).totalHits;
  expect(await hits('once')).toBe(1);
  let often = 0;
  for (let other = 0; other < 100; other++) {
    often = await hits('often');
    await hits(`other ${other}`);
  }
  expect(often).toBe(100);
  expect(await hits('once')).toBe(1);
  expect(await hits('other 99')).toBe(2);
  await store.shutdown?.();
});

describe('of a server that trusts no proxy', () => {
  const OFF = Object.fromEntries(
    ['UPLOADS', 'DOWNLOADS', 'PROCESSING', 'GLOBAL'].map((name) => [`RATE_LIMIT_${name}`, '0']),
  );
  let outer: Processes;
  let user: TestUser;

  beforeAll(async () => {
    outer = processes;
    processes = await startProcesses({ ...OFF, RATE_LIMIT_STATUS: '2/1s', RATE_LIMIT_AUTH: '4/1h' }, [
      'server',
    ]);
    user = await registerUser(() => processes.url);
  });

  afterAll(async () => {
    await processes?.close();
    processes = outer;
  });

  test('an address is not another one because its client says so', async () => {
    const logIn = () =>
      call('/api/auth/login', newAddress(), {
        method: 'POST',
        headers: { 'Content-Type': 'application/json', Forwarded: `for=${newAddress()}` },
        body: JSON.stringify({ email: `${randomUUID()}@example.org`, password: PASSWORD }),
      });
    // One of the four was the registration.
    expect(await exhaust(logIn)).toEqual(times(3, 401));
  });

  test('0 turns a limit off, and nothing is said of it', async () => {
    const answers = [
      await user.fetch('/api/auth'),
      await user.fetch(`/api/files/${uuidv7()}/content`),
      await user.fetch(`/api/files/${uuidv7()}`, { method: 'DELETE' }),
      await user.tus('POST', '/uploads', { 'Upload-Length': '3' }),
    ];
    expect(answers.map(({ status }) => status)).toEqual([200, 404, 404, 201]);
    for (const { headers } of answers) {
      expect([headers.get('RateLimit'), headers.get('RateLimit-Policy')]).toEqual([null, null]);
    }
  });

  test('when its window has ended, the refused action is possible again', async () => {
    const ask = () => user.fetch('/api/files');
    const refused = await until('a refusal', async () => {
      // So many fit into no window, however slowly they are answered one after the other.
      const answers = await Promise.all([ask(), ask(), ask()]);
      return answers.find(({ status }) => status === 429);
    });
    expect(Number(refused.headers.get('Retry-After'))).toBe(1);
    await until('the next window', async () => (await ask()).status === 200);
  });
});
