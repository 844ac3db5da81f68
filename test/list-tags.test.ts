import { PASSWORD, registerUser, type TestUser } from './support/client.js';
import { type Processes, startProcesses } from './support/processes.js';
import { send } from './support/sign-in.js';

/* Entity tags of lists. file-list.test.ts has more about that of files, compression.test.ts about compressed answers. */

let processes: Processes;
let admin: TestUser;
let id: string;

beforeAll(async () => {
  processes = await startProcesses();
  admin = await registerUser(() => processes.url);
  id = await admin.upload(Buffer.from('some text'), { filename: 'a.txt' });
  await admin.settled(id);
});

afterAll(() => processes?.close());

const ask = (path: string, tag?: string) =>
  admin.fetch(path, { headers: tag === undefined ? {} : { 'If-None-Match': tag } });

const tagOf = (answer: Response) => answer.headers.get('ETag') ?? '';

const LISTS: [path: string | (() => string)][] = [
  ['/api/files'],
  ['/api/files?deleted=1'],
  [() => `/api/files/${id}/events`],
  ['/api/uploads'],
  ['/api/keys'],
  ['/api/upload-tokens'],
  ['/api/me/sessions'],
  ['/api/admin/users'],
  ['/api/admin/invitations'],
  ['/api/admin/jobs'],
  ['/api/stats/types'],
];

test.each(LISTS)('%s is answered with 304 to a client that has it', async (list) => {
  const path = typeof list === 'string' ? list : list();
  const first = await ask(path);
  expect([first.status, first.headers.get('Cache-Control')]).toEqual([200, 'private, no-cache']);
  expect(tagOf(first)).toMatch(/^W\/"[\w-]{22}"$/);
  const again = await ask(path, tagOf(first));
  expect([again.status, tagOf(again), await again.text()]).toEqual([304, tagOf(first), '']);
  expect((await ask(path, '"another"')).status).toBe(200);
});

test.each([
  ['/api/uploads', () => admin.create(10)],
  ['/api/keys', () => send(admin, 'POST', '/api/keys', { name: 'a key', scopes: ['read'] })],
  ['/api/upload-tokens', () => send(admin, 'POST', '/api/upload-tokens', { label: 'for a guest' })],
  [
    '/api/me/sessions',
    () => send(admin, 'POST', '/api/auth/login', { email: admin.email, password: PASSWORD }),
  ],
  ['/api/admin/users', () => registerUser(() => processes.url)],
  ['/api/admin/invitations', () => send(admin, 'POST', '/api/admin/invitations', {})],
] as [string, () => Promise<unknown>][])('a change of %s gives it another tag', async (path, change) => {
  const tag = tagOf(await ask(path));
  await change();
  const changed = await ask(path, tag);
  expect(changed.status).toBe(200);
  expect(tagOf(changed)).not.toBe(tag);
});

test('the tag of a list of sessions is that of the caller', async () => {
  const tag = tagOf(await ask('/api/me/sessions'));
  const other = await registerUser(() => processes.url);
  expect((await other.fetch('/api/me/sessions', { headers: { 'If-None-Match': tag } })).status).toBe(200);
});

test('no client may keep the audit log, so it has no tag', async () => {
  const { headers } = await ask('/api/admin/audit');
  expect([headers.get('ETag'), headers.get('Cache-Control')]).toEqual([null, 'no-store']);
});
