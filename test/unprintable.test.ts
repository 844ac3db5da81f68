import { PASSWORD, registerUser, type TestUser } from './support/client.js';
import { type Processes, startProcesses } from './support/processes.js';
import { exchange, formRequest } from './support/raw-http.js';
import { newAddress } from './support/sign-in.js';

/*
 * Clients can send any text about themselves. A terminal that shows the logs must not obey it. U+009B alone
 * begins a control sequence there.
 */

/** The text as bytes, one a character. The last one is invisible. */
const SAID = 'a\x9b31mRED\x85b\x9d0;title\x9c\xad';
const SHOWN = 'a�31mRED�b�0;title��';

// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for; all but the ends of lines
const CONTROLS = /[\0-\x09\x0b-\x1f\x7f-\x9f]/;

let processes: Processes;
let admin: TestUser;

beforeAll(async () => {
  processes = await startProcesses({ TRUST_PROXY: 'true' }, ['server']);
  admin = await registerUser(() => processes.url);
});

afterAll(() => processes?.close());

/** Sends SAID in everything that a client can make up. Returns the id under which the request is logged. */
async function say(method: string, path: string, headers: object = {}, body?: object): Promise<string> {
  const all = {
    'User-Agent': SAID,
    'X-Forwarded-For': `${SAID}${'x'.repeat(1000)}`,
    'X-Request-Id': SAID,
    ...(body ? { 'Content-Type': 'application/json' } : {}),
    ...headers,
  };
  const answer = await exchange(
    processes.url,
    formRequest(method, path, all, body ? JSON.stringify(body) : ''),
  );
  const id = answer?.headers.get('X-Request-Id') ?? '';
  expect([answer?.body, id]).toEqual([answer?.body, expect.stringMatching(/^[0-9a-f-]{36}$/)]);
  return id;
}

async function lineOf(requestId: string) {
  const { rows } = await processes.database.query(
    `SELECT * FROM all_events WHERE actor ->> 'requestId' = $1`,
    [requestId],
  );
  return rows[0];
}

test('the event log, its export and the list of sessions show nothing that a terminal would obey', async () => {
  const email = newAddress();
  const ids = [
    await say('GET', '/api/me', { Authorization: 'Bearer lfk_wrong' }),
    await say('POST', '/api/auth/register', {}, { email, password: PASSWORD }),
    await say('POST', '/api/auth/login', {}, { email: admin.email, password: PASSWORD }),
  ];
  for (const id of ids) {
    const { actor } = await lineOf(id);
    expect(actor.userAgent).toBe(SHOWN);
    expect(actor.address).toMatch(new RegExp(`^${SHOWN}x{1,50}$`));
  }
  expect(await (await admin.fetch('/api/admin/audit/export')).text()).not.toMatch(CONTROLS);
  const { items } = await admin.get('/api/me/sessions');
  expect(items[0]).toMatchObject({ userAgent: SHOWN, address: expect.stringContaining(SHOWN) });
});

test('a path with such characters is not HTTP, and is refused', async () => {
  for (const said of [...SAID].filter((character) => !/[ -~]/.test(character)).concat('\x7f')) {
    const answer = await exchange(processes.url, formRequest('GET', `/api/${said}`, {}));
    expect([said, answer?.status]).toEqual([said, 400]);
  }
});
