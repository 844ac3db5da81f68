import { randomUUID } from 'node:crypto';
import { idOf } from './support/client.js';
import { type Processes, startProcesses } from './support/processes.js';
import { until } from './support/until.js';

const JWT_SECRET = 'a secret of the server that no log may show';
const PASSWORD = 'a password that no log may show';
const WRONG = 'a wrong password that no log may show';
const AGENT = 'an agent that no log may show';
const FILENAME = 'a file name that no log may show.txt';

let processes: Processes;

beforeAll(async () => {
  processes = await startProcesses({ JWT_SECRET, LOG_LEVEL: 'trace' });
});

afterAll(() => processes?.close());

const json = { 'Content-Type': 'application/json' };

function send(
  method: string,
  path: string,
  headers: Record<string, string>,
  body?: unknown,
): Promise<Response> {
  return fetch(`${processes.url}${path}`, {
    method,
    headers: { ...(body === undefined ? {} : json), ...headers },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
}

test('no secret and no personal data get into the logs of server and worker, whatever they are used for', async () => {
  const email = `${randomUUID()}@example.org`;
  const registered = await send('POST', '/api/auth/register', {}, { email, password: PASSWORD });
  const cookies = registered.headers.getSetCookie().map((line) => line.split(';')[0] ?? '');
  const { accessToken, refreshToken } = await registered.json();
  const bearer = { Authorization: `Bearer ${accessToken}` };
  const make = async (path: string, body: unknown) => (await send('POST', path, bearer, body)).json();
  const { key } = await make('/api/keys', { name: 'n', scopes: ['read'] });
  const { token: uploadToken } = await make('/api/upload-tokens', {});
  const { token: invitation } = await make('/api/admin/invitations', {});

  // Used rightly, used wrongly, and where they do not belong.
  await send('POST', '/api/auth/login', {}, { email, password: WRONG });
  await send('POST', '/api/auth/login', { Cookie: cookies.join('; ') }, { email, password: PASSWORD });
  await send('POST', '/api/auth/register', {}, { email: 'a@example.org', password: PASSWORD, invitation });
  for (const secret of [accessToken, key, uploadToken, invitation, `${accessToken}x`, `${key}x`]) {
    await send('GET', '/api/me', { Authorization: `Bearer ${secret}` });
    await send('GET', `/api/files?token=${secret}`, bearer);
    await send('GET', `/admin/queues?token=${secret}`, { Cookie: `landfall_board=${secret}` });
  }
  const created = await send('POST', '/uploads', {
    Authorization: `Bearer ${uploadToken}`,
    'Tus-Resumable': '1.0.0',
    'Upload-Length': '0',
    'Upload-Metadata': `filename ${btoa(FILENAME)}`,
    'User-Agent': AGENT,
  });
  const id = idOf(created.headers.get('Location') ?? '');
  const { links } = await until('the file to be clean', async () => {
    const file = await (await send('GET', `/api/files/${id}`, bearer)).json();
    return file.status === 'completed' ? file : undefined;
  });
  expect((await fetch(`${processes.url}${links.content}`)).status).toBe(200);
  expect((await fetch(`${processes.url}${links.content}x`)).status).toBe(401);
  const change = { filename: `${FILENAME}\0` };
  await send('PATCH', `/api/files/${id}`, bearer, change);
  await send('GET', `/api/files?q=${encodeURIComponent(FILENAME)}`, bearer);
  await send('GET', `/api/files/${id}/content`, { Range: 'bytes=9-', Authorization: `Bearer ${key}` });
  await send('POST', '/api/admin/invitations', bearer, { email });
  await send('POST', '/api/me/password', bearer, { currentPassword: WRONG, newPassword: PASSWORD });
  await send('POST', '/api/auth/refresh', {}, { refreshToken });
  await send('POST', '/api/auth/refresh', {}, '{not JSON');
  await send('POST', '/api/auth/refresh', { Cookie: cookies.join('; ') });

  // Each request has left its line.
  const log = await until('the last request to be logged', () => {
    const text = processes.logOf('server');
    return text.split('"path":"/api/auth/refresh"').length > 3 ? text : undefined;
  });
  for (const path of ['/api/auth/login', `/api/files/${id}/content`, '/uploads', '/admin/queues']) {
    expect(log).toContain(`"path":"${path}"`);
  }
  const secrets: Record<string, string> = {
    ...{
      JWT_SECRET,
      PASSWORD,
      WRONG,
      AGENT,
      FILENAME,
      email,
      accessToken,
      refreshToken,
      key,
      uploadToken,
      invitation,
    },
    signature: accessToken.split('.')[2],
    link: links.content.split('token=')[1],
    database: new URL(processes.database.url).password || 'none is set',
    ...Object.fromEntries(cookies.map((cookie) => cookie.split('='))),
  };
  for (const [name, secret] of Object.entries(secrets)) {
    expect([name, typeof secret, secret.length > 8]).toEqual([name, 'string', true]);
    expect([name, log.includes(secret)]).toEqual([name, false]);
    expect([name, processes.logOf('worker').includes(secret)]).toEqual([name, false]);
  }
});
