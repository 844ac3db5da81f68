import { randomBytes } from 'node:crypto';
import type * as tus from 'tus-js-client';
import { deriveKeys } from '../server/auth/keys.js';
import { signToken } from '../server/auth/tokens.js';
import { idOf, registerUser, type TestUser, useAccount } from './support/client.js';
import { type Processes, startProcesses } from './support/processes.js';
import { newSession, refreshed } from './support/sign-in.js';

/*
 * A token that expires in the middle of an upload: a clean 401, nothing lost, and on with a fresh one.
 */

const SECRET = 'a secret of this test, long enough for a key';

let processes: Processes;
let user: TestUser;
let expired: TestUser;

beforeAll(async () => {
  processes = await startProcesses({ JWT_SECRET: SECRET }, ['server', 'worker']);
  user = await registerUser(() => processes.url);
  const token = signToken({ userId: user.id, role: 'user' }, deriveKeys(SECRET).access, -1);
  expired = useAccount(user, token, () => processes.url);
});

afterAll(() => processes?.close());

const offsetOf = async (path: string) => Number((await user.tus('HEAD', path)).headers.get('Upload-Offset'));

test('a PATCH with an expired token gets 401, and a fresh token continues the upload', async () => {
  const path = await user.create(6);
  expect((await user.tus('PATCH', path, { 'Upload-Offset': '0' }, 'abc')).status).toBe(204);
  const before = await processes.database.query('SELECT * FROM uploads WHERE id = $1', [idOf(path)]);

  const refused = await expired.tus('PATCH', path, { 'Upload-Offset': '3' }, 'def');
  expect(refused.status).toBe(401);
  expect(refused.headers.get('WWW-Authenticate')).toBe('Bearer');
  expect(refused.headers.get('Tus-Resumable')).toBe('1.0.0');
  expect(refused.headers.get('Content-Type')).toMatch(/^application\/problem\+json/);
  expect(await refused.json()).toMatchObject({
    status: 401,
    code: 'unauthenticated',
    detail: 'The access token has expired',
  });
  const after = await processes.database.query('SELECT * FROM uploads WHERE id = $1', [idOf(path)]);
  expect(after.rows).toEqual(before.rows);

  expect(await offsetOf(path)).toBe(3);
  expect((await user.tus('PATCH', path, { 'Upload-Offset': '3' }, 'def')).status).toBe(204);
  expect(await user.settled(idOf(path))).toMatchObject({ status: 'completed', size: 6 });
});

test('a DELETE with an expired token gets 401, and the upload is still there', async () => {
  const path = await user.create(3);
  const refused = await expired.tus('DELETE', path);
  expect([refused.status, refused.headers.get('WWW-Authenticate')]).toEqual([401, 'Bearer']);
  expect(await offsetOf(path)).toBe(0);
});

test('a HEAD with an expired token gets 423, because other refusals end the upload for clients', async () => {
  const path = await user.create(3);
  for (const asked of [path, '/uploads/00000000-0000-7000-8000-000000000000']) {
    const refused = await expired.tus('HEAD', asked);
    expect(refused.status).toBe(423);
    expect(refused.headers.get('WWW-Authenticate')).toBe('Bearer error="invalid_token"');
    expect(Number(refused.headers.get('Retry-After'))).toBeGreaterThan(0);
    expect(refused.headers.has('Upload-Offset')).toBe(false);
  }
  expect(await offsetOf(path)).toBe(0);
});

test('a POST with an expired token begins no upload and reserves nothing', async () => {
  const before = await user.get('/api/me');
  expect((await expired.tus('POST', '/uploads', { 'Upload-Length': '3' })).status).toBe(401);
  expect(await user.get('/api/me')).toEqual(before);
});

test('tus-js-client refreshes between two parts of a file and sends each byte once', async () => {
  const session = await newSession(() => processes.url, user.email);
  let { refreshToken } = session;
  let token = session.accessToken;
  let refreshes = 0;
  const content = randomBytes(400_000);
  const statuses: (number | undefined)[] = [];
  const id = await user.tusUpload(content, {
    chunkSize: 100_000,
    retryDelays: [0, 0, 0],
    headers: {},
    onBeforeRequest: (request) => request.setHeader('Authorization', `Bearer ${token}`),
    onAfterResponse: async (request, response) => {
      statuses.push(response.getStatus());
      // The token expires after the second part.
      if (request.getMethod() === 'PATCH' && statuses.length === 3) token = expired.token;
      if (response.getStatus() !== 401) return;
      refreshes++;
      const next = await refreshed(processes.url, refreshToken);
      refreshToken = next.refreshToken;
      token = next.accessToken;
    },
    onShouldRetry: (error) => (error as tus.DetailedError).originalResponse?.getStatus() === 401,
  });
  expect(refreshes).toBe(1);
  expect(statuses).toEqual([201, 204, 204, 401, 200, 204, 204]);
  await user.settled(id);
  const answer = await user.fetch(`/api/files/${id}/content`);
  expect(Buffer.from(await answer.arrayBuffer()).equals(content)).toBe(true);
});

test('the event log records forged tokens, but not expired ones', async () => {
  const forged = useAccount(user, `${user.token}x`, () => processes.url);
  const path = await user.create(3);
  const asked = [await expired.fetch('/api/files'), await expired.tus('HEAD', path)];
  expect(asked.map(({ status }) => status)).toEqual([401, 423]);
  const refused = [await forged.fetch('/api/files'), await forged.tus('HEAD', path)];
  expect(refused.map(({ status }) => status)).toEqual([401, 401]);
  // A server that stops first writes the events that it still holds.
  await processes.stop('server');
  const { rows } = await processes.database.query(
    `SELECT actor ->> 'requestId' AS request FROM all_events WHERE type = 'access' ORDER BY created_at`,
  );
  await processes.start('server');
  expect(rows).toEqual(refused.map(({ headers }) => ({ request: headers.get('X-Request-Id') })));
});
