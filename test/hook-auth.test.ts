import * as tus from 'tus-js-client';
import { v7 as uuidv7 } from 'uuid';
import { idOf, registerUser, type TestUser, useAccount } from './support/client.js';
import { type HookReceiver, startHookReceiver } from './support/hook-receiver.js';
import { say } from './support/ietf-client.js';
import { type Processes, startProcesses } from './support/processes.js';
import { send } from './support/sign-in.js';

/*
 * AUTH=hook: an application knows its users by cookies or tokens of its own. Its hook names the owner of each new upload,
 * and from then on the address of the upload is enough.
 */

let receiver: HookReceiver;
let processes: Processes;
/** An account of this server: the first one, and so an admin's. */
let user: TestUser;

/** The sessions of the application. */
const SESSIONS: Record<string, string> = { s1: 'anna', s2: 'bernd' };

beforeAll(async () => {
  receiver = await startHookReceiver();
  processes = await startProcesses(
    {
      AUTH: 'hook',
      HOOK_URL: receiver.url,
      HOOK_EVENTS: 'pre-create,pre-finish,pre-terminate',
      HOOK_FORWARD_HEADERS: 'Cookie',
      HOOK_ATTEMPTS: '1',
      HOOK_ABSENT: 'allow',
    },
    ['server'],
  );
  receiver.answer = askApplication;
  await stranger('s1').create();
  // An account that a hook names is not the first one: its owner could not sign in to be the admin.
  user = await registerUser(() => processes.url);
});
beforeEach(() => {
  receiver.reset();
  receiver.answer = askApplication;
});
afterAll(async () => {
  await processes?.close();
  await receiver?.close();
});

const askApplication: HookReceiver['answer'] = ({ type, headers }) => {
  // An account of this server needs no session of the application.
  if (type !== 'pre-create' || headers['hook-owner']) return {};
  const owner = SESSIONS[/session=(\w+)/.exec(headers.cookie ?? '')?.[1] ?? ''];
  if (!owner)
    return { RejectUpload: true, HTTPResponse: { StatusCode: 401, Body: 'log in to the application' } };
  return { Owner: owner };
};

/** A client without an account here. */
function stranger(session?: string) {
  const request = (method: string, address: string, headers: Record<string, string> = {}, body?: string) =>
    fetch(new URL(address, processes.url), {
      method,
      headers: {
        'Tus-Resumable': '1.0.0',
        ...(session ? { Cookie: `session=${session}` } : {}),
        ...(method === 'PATCH' ? { 'Content-Type': 'application/offset+octet-stream' } : {}),
        ...headers,
      },
      ...(body === undefined ? {} : { body }),
    });
  return {
    request,
    async create(headers: Record<string, string> = { 'Upload-Length': '3' }) {
      const created = await request('POST', '/uploads', headers);
      if (created.status !== 201) throw new Error(`${created.status} ${await created.text()}`);
      return created.headers.get('Location') ?? '';
    },
  };
}

const ownerOf = async (location: string) => {
  const { rows } = await processes.database.query(
    `SELECT users.id, external_id, role FROM uploads JOIN users ON users.id = owner_id WHERE uploads.id = $1`,
    [idOf(new URL(location).pathname)],
  );
  return rows[0];
};

test('the first account that can sign in is the admin’s', () => {
  expect(user.role).toBe('admin');
});

test('tus-js-client uploads with a session of the application only, and resumes', async () => {
  const content = Buffer.from('all of the bytes of a file');
  let broken = false;
  const upload = await new Promise<tus.Upload>((resolve, reject) => {
    const one = new tus.Upload(content, {
      endpoint: `${processes.url}/uploads`,
      chunkSize: 10,
      metadata: { filename: 'a.txt' },
      // The application's own token, which means nothing here, and its cookie.
      headers: { Authorization: 'Bearer of.the.application', Cookie: 'session=s1' },
      retryDelays: [0, 100],
      onAfterResponse(req) {
        if (req.getMethod() !== 'PATCH' || broken) return;
        broken = true;
        throw new Error('the answer is lost');
      },
      onShouldRetry: () => true,
      onSuccess: () => resolve(one),
      onError: reject,
    });
    one.start();
  });
  expect(broken).toBe(true);
  expect(await ownerOf(upload.url ?? '')).toMatchObject({ external_id: 'hook:anna', role: 'user' });
  const { rows } = await processes.database.query('SELECT size FROM files WHERE id = $1', [
    idOf(new URL(upload.url ?? '').pathname),
  ]);
  expect(rows).toEqual([{ size: String(content.length) }]);
  expect(receiver.types()).toEqual(['pre-create', 'pre-finish']);
  const [created, finished] = receiver.asked;
  expect(created?.event.HTTPRequest.Header.Authorization).toEqual(['Bearer of.the.application']);
  expect(created?.headers['hook-owner']).toBeUndefined();
  // The address lets its holder go on, so the token in it is not told.
  expect(finished?.event.HTTPRequest.URI).toMatch(/^\/uploads\/[0-9a-f-]{36}$/);
  expect(finished?.headers['hook-owner']).toBe((await ownerOf(upload.url ?? '')).id);
});

test('parallel uploads of tus-js-client are joined', async () => {
  const content = Buffer.alloc(100, 'x');
  const url = await new Promise<string>((resolve, reject) => {
    const one = new tus.Upload(content, {
      endpoint: `${processes.url}/uploads`,
      parallelUploads: 2,
      headers: { Cookie: 'session=s1' },
      onSuccess: () => resolve(one.url ?? ''),
      onError: reject,
    });
    one.start();
  });
  expect(await ownerOf(url)).toMatchObject({ external_id: 'hook:anna' });
});

test('the partial uploads of somebody else cannot be joined', async () => {
  const partial = await stranger('s1').create({ 'Upload-Length': '3', 'Upload-Concat': 'partial' });
  await stranger().request('PATCH', partial, { 'Upload-Offset': '0' }, 'abc');
  const joined = await stranger('s2').request('POST', '/uploads', { 'Upload-Concat': `final;${partial}` });
  expect(joined.status).toBe(404);
});

test('a sender whom the application does not know is refused', async () => {
  for (const one of [stranger(), stranger('s3')]) {
    const refused = await one.request('POST', '/uploads', { 'Upload-Length': '3' });
    expect([refused.status, await refused.text()]).toEqual([401, 'log in to the application']);
  }
});

test('a hook that names no owner, or an impossible one, creates nothing', async () => {
  const create = () => stranger('s1').request('POST', '/uploads', { 'Upload-Length': '3' });
  receiver.answer = () => ({});
  expect((await create()).status).toBe(401);
  for (const Owner of ['a\nb', 'x'.repeat(256), uuidv7()]) {
    receiver.answer = () => ({ Owner });
    expect((await create()).status).toBe(502);
  }
  receiver.answer = () => ({ Owner: 1 });
  expect((await create()).status).toBe(503);
  // Without an owner, silence cannot be a yes.
  receiver.answer = (_asked, res) => void res.destroy();
  expect((await create()).status).toBe(503);
});

test('the address opens its own upload, and nothing else', async () => {
  const [mine, other] = [await stranger('s1').create(), await stranger('s1').create()];
  const bare = mine.split('?')[0] ?? '';
  const token = mine.split('?')[1] ?? '';
  const anybody = stranger();
  expect((await anybody.request('HEAD', mine)).status).toBe(200);
  for (const address of [
    bare,
    `${bare}?token=x`,
    `${other.split('?')[0]}?${token}`,
    `/uploads/${uuidv7()}?${token}`,
  ]) {
    for (const method of ['HEAD', 'PATCH', 'DELETE']) {
      const headers: Record<string, string> = method === 'PATCH' ? { 'Upload-Offset': '0' } : {};
      expect([address, method, (await anybody.request(method, address, headers)).status]).toEqual([
        address,
        method,
        401,
      ]);
    }
  }
  const id = idOf(new URL(mine).pathname);
  for (const path of [`/api/uploads/${id}`, '/api/uploads', `/api/files/${id}`, '/api/files', '/api/me']) {
    expect((await anybody.request('GET', `${path}?${token}`)).status).toBe(401);
  }
  expect((await anybody.request('POST', '/api/files', { 'Content-Type': 'text/plain' }, 'abc')).status).toBe(
    401,
  );
  expect((await anybody.request('PATCH', mine, { 'Upload-Offset': '0' }, 'abc')).status).toBe(204);
  // It is a file now, which belongs to its owner.
  expect((await anybody.request('DELETE', mine)).status).toBe(403);
  expect((await anybody.request('DELETE', other)).status).toBe(204);
});

test('the IETF draft works the same way', async () => {
  const nobody = { token: 'of.the.application' };
  const headers = { 'Upload-Complete': '?0', Cookie: 'session=s2' };
  const created = await say(processes.url, nobody, 'POST', '/uploads', { headers, body: Buffer.from('ab') });
  expect(created?.status).toBe(201);
  const location = created?.headers.location ?? '';
  expect(created?.interim[0]?.location).toBe(location);
  const more = {
    'Upload-Complete': '?1',
    'Upload-Offset': '2',
    'Content-Type': 'application/partial-upload',
  };
  const path = `${new URL(location).pathname}${new URL(location).search}`;
  expect((await say(processes.url, nobody, 'HEAD', path))?.headers['upload-offset']).toBe('2');
  const done = await say(processes.url, nobody, 'PATCH', path, { headers: more, body: Buffer.from('c') });
  expect(done?.status).toBe(201);
  // The sender learns nothing of what is in the file.
  expect(JSON.parse(done?.body ?? '').files[0].links).toBeUndefined();
  expect(await ownerOf(location)).toMatchObject({ external_id: 'hook:bernd' });
});

test('the account of the application may own all uploads', async () => {
  receiver.answer = ({ type }) => (type === 'pre-create' ? { Owner: user.id } : {});
  const location = await stranger('s1').create();
  await stranger().request('PATCH', location, { 'Upload-Offset': '0' }, 'abc');
  expect(await user.get(`/api/files/${idOf(new URL(location).pathname)}`)).toMatchObject({ size: 3 });
});

test('a disabled owner sends no further bytes', async () => {
  const location = await stranger('s2').create();
  const { id } = await ownerOf(location);
  const disable = (disabled: boolean) => send(user, 'PATCH', `/api/admin/users/${id}`, { disabled });
  expect((await disable(true)).status).toBe(200);
  expect((await stranger().request('PATCH', location, { 'Upload-Offset': '0' }, 'abc')).status).toBe(401);
  expect((await stranger('s2').request('POST', '/uploads', { 'Upload-Length': '3' })).status).toBe(401);
  expect((await disable(false)).status).toBe(200);
  expect((await stranger().request('PATCH', location, { 'Upload-Offset': '0' }, 'abc')).status).toBe(204);
});

test('accounts of this server upload as ever, and expired credentials are not taken for a stranger', async () => {
  const path = await user.create(3);
  expect(path).not.toContain('token');
  expect(receiver.asked.at(-1)?.headers['hook-owner']).toBe(user.id);
  const before = receiver.asked.length;
  for (const token of [`lfk_${'x'.repeat(40)}`, 'lfu_x.y.z']) {
    const wrong = useAccount(user, token, () => processes.url);
    expect((await wrong.tus('POST', '/uploads', { 'Upload-Length': '3' })).status).toBe(401);
  }
  expect(receiver.asked).toHaveLength(before);
});
