import { generateKeyPairSync, type KeyObject, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { get, type IncomingMessage } from 'node:http';
import { text } from 'node:stream/consumers';
import jwt from 'jsonwebtoken';
import { openDatabase } from '../core/database/data-source.js';
import type { Actor } from '../core/database/entities/event.js';
import { verifyEvents } from '../core/events/verify.js';
import { deriveKeys } from '../server/auth/keys.js';
import { signLink } from '../server/auth/links.js';
import { signToken } from '../server/auth/tokens.js';
import { encodeMetadata, idOf, PASSWORD, registerUser, type TestUser } from './support/client.js';
import { type Part, type Processes, startProcesses } from './support/processes.js';
import { until } from './support/until.js';

const SECRET = 'a secret of this test, long enough for a key';
const keys = deriveKeys(SECRET);
/** The identity provider, whose tokens are accepted too. */
const provider = generateKeyPairSync('ec', { namedCurve: 'P-256' });
const SERVERS: Part[] = ['server', 'server-2', 'server-3'];

interface Item {
  seq: number;
  type: string;
  result: string;
  subjectId: string | null;
  ownerId: string | null;
  actor: Actor | null;
  data: Record<string, unknown>;
  createdAt: string;
  hash: string;
}

let processes: Processes;
let admin: TestUser;
let user: TestUser;
let other: TestUser;

/** Texts that must not be found in the log. */
const secrets: string[] = [PASSWORD, SECRET];

const secret = (value: string): string => {
  secrets.push(value);
  return value;
};

beforeAll(async () => {
  processes = await startProcesses(
    {
      JWT_SECRET: SECRET,
      TRUST_PROXY: 'loopback',
      JWT_PUBLIC_KEY: provider.publicKey.export({ type: 'spki', format: 'pem' }).toString(),
    },
    [...SERVERS, 'worker'],
  );
  admin = await registerUser(() => processes.url);
  user = await registerUser(() => processes.url);
  other = await registerUser(() => processes.url);
  secrets.push(admin.token, user.token, other.token, admin.email, user.email, other.email);
});

afterAll(() => processes?.close());

let addresses = 0;

/** A new address for each scene, by which the test finds its lines. */
function newAddress(): { address: string; from: { 'X-Forwarded-For': string } } {
  addresses++;
  const address = `198.51.100.${addresses}`;
  return { address, from: { 'X-Forwarded-For': address } };
}

async function list(query: Record<string, string> = {}, as = admin): Promise<Item[]> {
  return (await as.get(`/api/admin/audit?${new URLSearchParams({ limit: '200', ...query })}`)).items;
}

/** The lines of an address, oldest first, once there are `count` of them. */
async function linesOf(address: string, count: number): Promise<Item[]> {
  const lines = await until(`${count} lines of ${address}`, async () => {
    const found = (await list()).filter(({ actor }) => actor?.address === address);
    return found.length >= count && found.reverse();
  });
  expect(lines.map(({ type, result }) => `${type} ${result}`)).toHaveLength(count);
  return lines;
}

function send(method: string, path: string, init: RequestInit = {}, json?: unknown): Promise<Response> {
  const headers = new Headers(init.headers);
  if (json !== undefined) headers.set('Content-Type', 'application/json');
  const body = json === undefined ? {} : { body: JSON.stringify(json) };
  return fetch(`${processes.url}${path}`, { method, ...init, headers, ...body });
}

const bearer = (token: string) => ({ Authorization: `Bearer ${token}` });

const tus = { 'Tus-Resumable': '1.0.0' };

const creation = (length: number) => ({ ...tus, 'Upload-Length': String(length) });

/** Sends a POST that must succeed. */
async function post(path: string, json: unknown, headers: Record<string, string>) {
  const answer = await send('POST', path, { headers }, json);
  expect([200, 201, 204]).toContain(answer.status);
  return answer.status === 204 ? undefined : answer.json();
}

describe('the log tells', () => {
  it('of accounts and sessions, with user, address, agent and request', async () => {
    const { address, from } = newAddress();
    const email = secret(`${randomUUID()}@example.org`);
    const agent = {
      ...from,
      'User-Agent': `browser ${'x'.repeat(1000)}`,
      'X-Request-Id': `scene-${address}`,
    };
    const made = await post('/api/auth/register', { email, password: PASSWORD }, agent);
    const session = await post('/api/auth/login', { email, password: PASSWORD }, agent);
    const password = secret('a password that is new');
    await post(
      '/api/me/password',
      { currentPassword: PASSWORD, newPassword: password },
      { ...agent, ...bearer(session.accessToken) },
    );
    await post('/api/auth/logout', { refreshToken: session.refreshToken }, agent);
    secrets.push(made.accessToken, made.refreshToken, session.accessToken, session.refreshToken);

    const [register, login, changed, revoked, logout] = await linesOf(address, 5);
    const { id } = made.user;
    const who = {
      userId: id,
      address,
      userAgent: `browser ${'x'.repeat(192)}`,
      requestId: `scene-${address}`,
    };
    expect(register).toEqual({
      seq: expect.any(Number),
      type: 'auth.register',
      result: 'ok',
      subjectId: id,
      ownerId: id,
      actor: who,
      data: { role: 'user' },
      createdAt: expect.stringMatching(/^\d{4}-.*Z$/),
      hash: expect.stringMatching(/^[0-9a-f]{64}$/),
    });
    const { sid } = jwt.decode(session.accessToken) as { sid: string };
    const signedIn = { ...who, sessionId: sid };
    expect(login).toMatchObject({ type: 'auth.login', result: 'ok', subjectId: id, actor: signedIn });
    expect(changed).toMatchObject({ type: 'auth.password', result: 'ok', subjectId: id, actor: signedIn });
    expect(revoked).toMatchObject({ type: 'session.revoked', result: 'ok', ownerId: id, actor: signedIn });
    expect(revoked?.subjectId).toBe((jwt.decode(made.accessToken) as { sid: string }).sid);
    expect(logout).toMatchObject({ type: 'auth.logout', result: 'ok', subjectId: id, actor: signedIn });
  });

  it('of accounts that an identity provider vouches for, and of tokens that it has not signed', async () => {
    const { address, from } = newAddress();
    const sign = (privateKey: KeyObject) =>
      secret(jwt.sign({ sub: randomUUID() }, privateKey, { algorithm: 'ES256', expiresIn: 60 }));
    const foreign = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    const good = { headers: { ...from, ...bearer(sign(provider.privateKey)) } };
    const bad = { headers: { ...from, ...bearer(sign(foreign.privateKey)) } };
    const { id } = await (await send('GET', '/api/me', good)).json();
    expect((await send('GET', '/api/me', bad)).status).toBe(401);
    const [register, refused] = await linesOf(address, 2);
    expect(register).toMatchObject({ type: 'auth.register', subjectId: id, actor: { userId: id, address } });
    expect(refused).toMatchObject({ type: 'access', result: 'refused', data: { code: 'unauthenticated' } });
  });

  it('of sign-ins that failed, with the account that was meant and without the typed password', async () => {
    const { address, from } = newAddress();
    const stranger = secret('stranger@example.org');
    const guess = secret('a password that is wrong');
    for (const email of [user.email, stranger]) {
      const answer = await send('POST', '/api/auth/login', { headers: from }, { email, password: guess });
      expect(answer.status).toBe(401);
    }
    const changing = { currentPassword: guess, newPassword: secret('never a password') };
    const headers = { ...from, ...bearer(user.token) };
    expect((await send('POST', '/api/me/password', { headers }, changing)).status).toBe(401);

    const lines = await linesOf(address, 3);
    const known = lines.find(({ type, subjectId }) => type === 'auth.login' && subjectId === user.id);
    const unknown = lines.find(({ type, subjectId }) => type === 'auth.login' && subjectId === null);
    expect(known).toMatchObject({ result: 'refused', data: { code: 'wrong_credentials' } });
    expect(known?.actor).not.toHaveProperty('userId');
    expect(unknown).toMatchObject({ result: 'refused', data: { code: 'wrong_credentials' } });
    expect(lines).toContainEqual(
      expect.objectContaining({
        type: 'auth.password',
        result: 'refused',
        subjectId: user.id,
        actor: expect.objectContaining({ userId: user.id, address }),
      }),
    );
  });

  it('of a refresh token that came a second time, and of one that was never given out', async () => {
    const { address, from } = newAddress();
    const first = await post('/api/auth/login', { email: other.email, password: PASSWORD }, from);
    const next = await post('/api/auth/refresh', { refreshToken: first.refreshToken }, from);
    secrets.push(first.refreshToken, next.refreshToken, first.accessToken, next.accessToken);
    // Move the replacement back beyond the grace for two tabs with the same token.
    await processes.database.query(
      `UPDATE refresh_tokens SET replaced_at = replaced_at - interval '1 minute'`,
    );
    for (const refreshToken of [first.refreshToken, secret('unknown'.repeat(6))]) {
      const answer = await send('POST', '/api/auth/refresh', { headers: from }, { refreshToken });
      expect(answer.status).toBe(401);
    }
    const { sid } = jwt.decode(first.accessToken) as { sid: string };
    const [, reused, unknown] = await linesOf(address, 3);
    expect(reused).toMatchObject({
      type: 'auth.token_reused',
      result: 'refused',
      subjectId: other.id,
      actor: { userId: other.id, sessionId: sid, address },
    });
    expect(unknown).toMatchObject({
      type: 'access',
      result: 'refused',
      data: { action: 'refresh', code: 'unauthenticated' },
    });
  });

  it('of keys, and of the actions and refusals of their callers', async () => {
    const { address, from } = newAddress();
    const mine = { ...from, ...bearer(user.token) };
    const made = await post('/api/keys', { name: 'a name', scopes: ['upload'] }, mine);
    const withKey = { ...from, ...bearer(secret(made.key)) };
    const upload = await send('POST', '/uploads', { headers: { ...withKey, ...creation(0) } });
    const id = idOf(upload.headers.get('Location') ?? '');
    expect((await send('GET', `/api/files/${id}`, { headers: withKey })).status).toBe(403);
    expect((await send('DELETE', `/api/keys/${made.id}`, { headers: mine })).status).toBe(204);
    expect((await send('GET', '/api/uploads', { headers: withKey })).status).toBe(401);

    const lines = await linesOf(address, 6);
    const byKey = { userId: user.id, keyId: made.id, address };
    const expected: [string, string, string | null, object][] = [
      ['key.created', 'ok', made.id, { userId: user.id }],
      ['upload.created', 'ok', id, byKey],
      ['file.created', 'ok', id, byKey],
      ['access', 'refused', id, byKey],
      ['key.revoked', 'ok', made.id, { userId: user.id }],
      ['access', 'refused', null, { address }],
    ];
    for (const [index, [type, result, subjectId, actor]] of expected.entries()) {
      expect(lines[index]).toMatchObject({ type, result, subjectId, actor });
    }
    expect(lines[3]?.data).toEqual({ action: 'read', code: 'forbidden', method: 'GET' });
    expect(lines[5]?.data).toEqual({ action: 'upload', code: 'unauthenticated', method: 'GET' });
  });

  it('of guests with an upload token, also when it is used up', async () => {
    const { from } = newAddress();
    const mine = { ...from, ...bearer(user.token) };
    const made = await post('/api/upload-tokens', { label: secret('a label of its own') }, mine);
    const guest = newAddress();
    const headers = { ...guest.from, ...bearer(secret(made.token)), ...creation(3) };
    const upload = await send('POST', '/uploads', { headers });
    expect(upload.status).toBe(201);
    expect((await send('POST', '/uploads', { headers })).status).toBe(401);

    const [created, usedUp] = await linesOf(guest.address, 2);
    const actor = { userId: user.id, uploadTokenId: made.id, address: guest.address };
    const subjectId = idOf(upload.headers.get('Location') ?? '');
    expect(created).toMatchObject({ type: 'upload.created', result: 'ok', subjectId, actor });
    expect(usedUp).toMatchObject({ type: 'access', result: 'refused', actor });
    expect(usedUp?.data).toMatchObject({ code: 'unauthenticated', method: 'POST' });
  });

  it('of files: from their creation to the end', async () => {
    const { address, from } = newAddress();
    const name = secret('a-name-of-its-own.txt');
    const content = secret('what is in it');
    const headers = {
      ...from,
      ...bearer(user.token),
      ...creation(content.length),
      'Upload-Metadata': encodeMetadata({ filename: name }),
      'Content-Type': 'application/offset+octet-stream',
    };
    const answer = await send('POST', '/uploads', { headers, body: content });
    const id = idOf(answer.headers.get('Location') ?? '');
    const unfinished = await send('POST', '/uploads', {
      headers: { ...from, ...bearer(user.token), ...creation(9) },
    });
    const gone = unfinished.headers.get('Location') ?? '';
    const mine = { headers: { ...from, ...bearer(user.token), ...tus } };
    expect((await send('DELETE', `/uploads/${idOf(gone)}`, mine)).status).toBe(204);
    expect((await send('DELETE', `/api/files/${id}`, mine)).status).toBe(204);
    expect((await send('DELETE', `/api/files/${id}?permanent=1`, mine)).status).toBe(204);
    const lines = await linesOf(address, 6);
    expect(lines.map(({ type, subjectId }) => [type, subjectId])).toEqual([
      ['upload.created', id],
      ['file.created', id],
      ['upload.created', idOf(gone)],
      ['upload.terminated', idOf(gone)],
      ['file.deleted', id],
      ['file.purged', id],
    ]);
    for (const { actor, ownerId, result } of lines) {
      expect({ ownerId, result }).toEqual({ ownerId: user.id, result: 'ok' });
      expect(actor).toMatchObject({ userId: user.id, address, sessionId: expect.any(String) });
    }
  });

  it('of a user who tries to reach another’s file; the file’s timeline does not', async () => {
    const file = await user.upload(Buffer.from('mine'));
    await user.settled(file);
    const half = idOf(await user.create(9));
    const { address, from } = newAddress();
    const headers = { ...from, ...bearer(other.token) };
    const patch = { ...tus, 'Upload-Offset': '0', 'Content-Type': 'application/offset+octet-stream' };
    const attempts: [string, string, string, Record<string, string>, string?][] = [
      [file, 'GET', `/api/files/${file}`, {}],
      [file, 'GET', `/api/files/${file}/events`, {}],
      [file, 'GET', `/api/files/${file}/content?download=1`, {}],
      [file, 'DELETE', `/api/files/${file}?permanent=1`, {}],
      [half, 'GET', `/api/uploads/${half}`, {}],
      [half, 'HEAD', `/uploads/${half}`, tus],
      [half, 'PATCH', `/uploads/${half}`, patch, 'abc'],
      [file, 'DELETE', `/uploads/${file}`, tus],
    ];
    for (const [, method, path, more, body] of attempts) {
      const init = { headers: { ...headers, ...more }, ...(body ? { body } : {}) };
      expect([method, path, (await send(method, path, init)).status]).toEqual([method, path, 404]);
    }
    // A file that does not exist has no owner, so this attempt leaves no line.
    expect((await send('GET', `/api/files/${randomUUID()}`, { headers })).status).toBe(404);

    const lines = await linesOf(address, attempts.length);
    for (const line of lines) {
      expect(line).toMatchObject({
        type: 'access',
        result: 'refused',
        ownerId: null,
        actor: { userId: other.id, address },
        data: { code: 'not_found' },
      });
    }
    expect(lines.map(({ subjectId, data }) => `${subjectId} ${data.method}`).sort()).toEqual(
      attempts.map(([id, method]) => `${id} ${method}`).sort(),
    );

    const { items } = await user.get(`/api/files/${file}/events`);
    expect(items.length).toBeGreaterThan(3);
    for (const item of items)
      expect(Object.keys(item).sort()).toEqual(['createdAt', 'data', 'seq', 'subjectId', 'type']);
    expect(items.map(({ type }: Item) => type)).not.toContain('access');
    expect(JSON.stringify(items)).not.toContain(address);
  });

  it('of a user who tries to end another’s key, upload token or session', async () => {
    const mine = bearer(user.token);
    const key = await post('/api/keys', { name: 'a name', scopes: ['read'] }, mine);
    const token = await post('/api/upload-tokens', {}, mine);
    secrets.push(key.key, token.token);
    const { sid } = jwt.decode(user.token) as { sid: string };
    const { address, from } = newAddress();
    const attempts = [
      [key.id, `/api/keys/${key.id}`],
      [token.id, `/api/upload-tokens/${token.id}`],
      [sid, `/api/me/sessions/${sid}`],
    ] as const;
    for (const [, path] of attempts) {
      const answer = await send('DELETE', path, { headers: { ...from, ...bearer(other.token) } });
      expect([path, answer.status]).toEqual([path, 404]);
    }
    const lines = await linesOf(address, attempts.length);
    expect(lines.map(({ subjectId }) => subjectId).sort()).toEqual(attempts.map(([id]) => id).sort());
    for (const line of lines) {
      const actor = { userId: other.id, address };
      expect(line).toMatchObject({ type: 'access', result: 'refused', actor, data: { code: 'not_found' } });
    }
  });

  it('of tokens that are wrong, and not of those that have only expired', async () => {
    const file = await user.upload(Buffer.from('mine too'));
    const { address, from } = newAddress();
    const path = `/api/files/${file}/content`;
    const [link = '', signature = ''] = signLink(path, keys.link).split(/(?<=\.)/);
    const tampered = `${link}${signature.replace(/^./, (first) => (first === 'A' ? 'B' : 'A'))}`;
    const over = signLink(path, keys.link, Date.now() - 3_600_000);
    const expired = signToken({ userId: user.id, role: 'user' }, keys.access, -1);
    const unsigned = jwt.sign({ role: 'admin', sub: user.id }, '', { algorithm: 'none', expiresIn: 60 });
    const mark = { ...from, 'X-Request-Id': 'the-wrong-ones' };
    const quiet: [string, Record<string, string>][] = [
      ['/api/me', from],
      ['/api/me', { ...from, ...bearer(expired) }],
      [over, from],
    ];
    const noted: [string, Record<string, string>][] = [
      ['/api/me', { ...mark, ...bearer(secret(`${user.token.slice(0, -8)}tampered`)) }],
      ['/api/me', { ...mark, ...bearer(secret(unsigned)) }],
      ['/api/me', { ...mark, ...bearer(secret(`lfk_000000000000_${'w'.repeat(43)}`)) }],
      ['/api/me', { ...mark, ...bearer(secret('lfu_a.b.c')) }],
      ['/api/me', { ...mark, Authorization: `Basic ${secret(btoa(`${user.email}:${PASSWORD}`))}` }],
      [tampered, mark],
      ['/admin/queues', { ...mark, Cookie: `landfall_board=${user.token}` }],
    ];
    secrets.push(expired, signature, ...over.split('=').slice(1));
    for (const [address, headers] of [...quiet, ...noted]) {
      expect([address, (await send('GET', address, { headers })).status]).toEqual([address, 401]);
    }
    const lines = await linesOf(address, noted.length);
    for (const { type, result, actor, data } of lines) {
      expect({ type, result, code: data.code }).toEqual({
        type: 'access',
        result: 'refused',
        code: 'unauthenticated',
      });
      expect(actor).toMatchObject({ address, requestId: 'the-wrong-ones' });
      expect(actor).not.toHaveProperty('userId');
    }
    expect(lines.filter(({ subjectId }) => subjectId === file)).toHaveLength(1);
  });

  it('of actions of admins, and of users who try them', async () => {
    const { address, from } = newAddress();
    const asAdmin = { ...from, ...bearer(admin.token) };
    const mine = { ...from, ...bearer(other.token) };
    const change = { maxBytes: 10, maxFiles: null };
    const path = `/api/admin/users/${other.id}`;
    expect((await send('PATCH', path, { headers: asAdmin }, change)).status).toBe(200);
    const email = secret('guest@example.org');
    const { id, token } = await post('/api/admin/invitations', { email }, asAdmin);
    secrets.push(token);
    expect((await send('DELETE', `/api/admin/invitations/${id}`, { headers: asAdmin })).status).toBe(204);
    expect(
      (await send('PUT', '/admin/queues/api/queues/processing/pause', { headers: asAdmin })).status,
    ).toBe(200);
    expect(
      (await send('PUT', '/admin/queues/api/queues/processing/resume', { headers: asAdmin })).status,
    ).toBe(200);
    for (const refused of [
      '/api/admin/audit',
      '/api/admin/audit/export',
      '/api/admin/users',
      '/admin/queues',
    ]) {
      expect((await send('GET', refused, { headers: mine })).status).toBe(403);
    }
    const board = {
      ...from,
      Cookie: `landfall_board=${signToken({ userId: other.id, role: 'admin' }, keys.board, 5)}`,
    };
    expect((await send('GET', '/admin/queues', { headers: board })).status).toBe(403);

    const lines = await linesOf(address, 10);
    const done = lines.filter(({ result }) => result === 'ok');
    expect(done.map(({ type, subjectId, data }) => [type, subjectId, data])).toEqual([
      ['user.changed', other.id, { maxBytes: 10, maxFiles: -1 }],
      ['invitation.created', id, {}],
      ['invitation.revoked', id, {}],
      ['queue.changed', null, { method: 'PUT', path: '/api/queues/processing/pause' }],
      ['queue.changed', null, { method: 'PUT', path: '/api/queues/processing/resume' }],
    ]);
    for (const { actor } of done) expect(actor?.userId).toBe(admin.id);
    const refused = lines.filter(({ result }) => result === 'refused');
    for (const { type, actor, data } of refused) {
      expect([type, actor?.userId]).toEqual(['access', other.id]);
      expect(data).toEqual({ action: 'admin', code: 'forbidden', method: 'GET' });
    }
  });

  it('of a quota that was too small, at the creation and in the middle', async () => {
    const { address, from } = newAddress();
    const headers = { ...from, ...bearer(other.token), ...tus };
    await send('PATCH', `/api/admin/users/${other.id}`, { headers: bearer(admin.token) }, { maxBytes: 10 });
    const tooLong = await send('POST', '/uploads', { headers: { ...headers, ...creation(11) } });
    expect(tooLong.status).toBe(413);
    const begun = await send('POST', '/uploads', { headers: { ...headers, 'Upload-Defer-Length': '1' } });
    const patch = { 'Upload-Offset': '0', 'Content-Type': 'application/offset+octet-stream' };
    const path = `/uploads/${idOf(begun.headers.get('Location') ?? '')}`;
    const cut = await send('PATCH', path, { headers: { ...headers, ...patch }, body: 'x'.repeat(20) });
    expect(cut.status).toBe(413);
    const lines = await linesOf(address, 3);
    for (const method of ['POST', 'PATCH']) {
      expect(lines).toContainEqual(
        expect.objectContaining({
          type: 'access',
          result: 'refused',
          actor: expect.objectContaining({ userId: other.id }),
          data: { action: 'upload', code: 'quota_exceeded', method },
        }),
      );
    }
  });

  it('of the system’s own actions, if the query asks for them', async () => {
    const id = await user.upload(Buffer.from('for the worker'));
    await user.settled(id);
    const people = await list({ subjectId: id });
    expect(people.map(({ type }) => type)).toEqual(['file.created', 'upload.created']);
    const all = await list({ subjectId: id, system: '1' });
    expect(all.map(({ type }) => type)).toEqual(expect.arrayContaining(['file.step', 'file.completed']));
    expect(all.find(({ type }) => type === 'file.completed')).toMatchObject({
      actor: null,
      ownerId: user.id,
    });
  });
});

it('refused requests cannot fill the log', async () => {
  const { address, from } = newAddress();
  const attempt = (index: number) =>
    index % 2
      ? send('GET', '/api/me', { headers: { ...from, ...bearer('wrong') } })
      : send(
          'POST',
          '/api/auth/login',
          { headers: from },
          { email: 'a@example.org', password: 'wrong password' },
        );
  for (let round = 0; round < 16; round++) {
    const answers = await Promise.all(Array.from({ length: 10 }, (_, index) => attempt(index)));
    for (const { status } of answers) expect(status).toBe(401);
  }
  // Counts are written at intervals, and when the server ends.
  await processes.stop('server');
  await processes.start('server');
  const ofAddress = ({ actor }: Item) => actor?.address === address;
  const [access, logIns, counts] = await Promise.all(
    ['access', 'auth.login', 'access.counted'].map((type) => list({ result: 'refused', type })),
  );
  const singles = [...(access ?? []), ...(logIns ?? [])].filter(ofAddress);
  expect(singles).toHaveLength(30);
  expect(singles.filter(({ data }) => data.nextAreCounted === true)).toHaveLength(1);
  const [counted, ...more] = (counts ?? []).filter(ofAddress);
  expect(more).toEqual([]);
  expect(counted?.data).toMatchObject({ count: 130, since: expect.any(String) });
  const kinds = (counted?.data.kinds ?? {}) as Record<string, number>;
  expect(Object.keys(kinds).sort()).toEqual(['login wrong_credentials', 'read unauthenticated']);
  const kindOf = ({ data }: Item) => `${data.action} ${data.code}`;
  for (const [kind, count] of Object.entries(kinds)) {
    expect([kind, count + singles.filter((line) => kindOf(line) === kind).length]).toEqual([kind, 80]);
  }
});

describe('the list', () => {
  const marked = randomUUID();

  /** Inserts events of a user, at a time in the past. */
  async function insert(
    count: number,
    { who = marked, type = 'upload.created', ago = '0 s', result = 'ok' } = {},
  ) {
    await processes.database.query(
      `INSERT INTO event_inbox (type, actor, result, created_at, data)
       SELECT $2, jsonb_build_object('userId', $3::text), $4, now() - $5::interval, jsonb_build_object('place', place)
       FROM generate_series(1, $1::integer) AS place`,
      [count, type, who, result, ago],
    );
  }

  it('goes on from page to page without gaps and doubles while events are appended', async () => {
    await insert(260);
    const pages: Item[][] = [];
    let cursor: string | null = '';
    do {
      const query: string = `userId=${marked}&limit=50${cursor ? `&cursor=${cursor}` : ''}`;
      const page: { items: Item[]; nextCursor: string | null } = await admin.get(`/api/admin/audit?${query}`);
      pages.push(page.items);
      cursor = page.nextCursor;
      await insert(30);
      await list();
    } while (cursor);
    expect(pages.map(({ length }) => length)).toEqual([50, 50, 50, 50, 50, 10]);
    const items = pages.flat();
    expect(items.map(({ data }) => data.place)).toEqual(
      Array.from({ length: 260 }, (_, index) => 260 - index),
    );
    expect(items.map(({ seq }) => seq)).toEqual(items.map(({ seq }) => seq).sort((a, b) => b - a));
  });

  it('filters', async () => {
    const who = randomUUID();
    await insert(2, { who, type: 'auth.login', ago: '40 days' });
    await insert(3, { who, type: 'auth.logout', ago: '20 days', result: 'refused' });
    await insert(4, { who, type: 'upload_token.created', ago: '2 h' });
    await insert(5, { who, type: 'upload.created' });
    const daysAgo = (days: number) => new Date(Date.now() - days * 86_400_000).toISOString();
    const count = async (query: Record<string, string>) => (await list({ userId: who, ...query })).length;
    expect(await count({})).toBe(14);
    expect(await count({ type: 'auth.login' })).toBe(2);
    expect(await count({ type: 'auth.*' })).toBe(5);
    expect(await count({ type: 'upload.*' })).toBe(5);
    expect(await count({ type: 'upload_token.*' })).toBe(4);
    expect(await count({ type: 'file.*' })).toBe(0);
    expect(await count({ result: 'refused' })).toBe(3);
    expect(await count({ result: 'ok', type: 'auth.*' })).toBe(2);
    expect(await count({ from: daysAgo(30) })).toBe(12);
    expect(await count({ to: daysAgo(30) })).toBe(2);
    expect(await count({ from: daysAgo(30), to: daysAgo(10) })).toBe(3);
    expect(await count({ from: daysAgo(1), to: daysAgo(0.01) })).toBe(4);
    expect(await count({ from: daysAgo(-1) })).toBe(0);
    expect(await count({ subjectId: user.id })).toBe(0);
  });

  it.each([
    ['type', 'auth.%'],
    ['type', '*'],
    ['userId', 'me'],
    ['subjectId', '1'],
    ['result', 'failed'],
    ['from', 'yesterday'],
    ['to', '2026-13-01T00:00:00Z'],
    ['system', 'yes'],
    ['cursor', '-1'],
    ['limit', '0'],
  ])('says what is wrong with %s=%s', async (name, value) => {
    const answer = await admin.fetch(`/api/admin/audit?${name}=${encodeURIComponent(value)}`);
    expect(answer.status).toBe(400);
    expect((await answer.json()).detail).toMatch(new RegExp(`^${name} in the query: `));
  });

  it.each(['', '/export'])('refuses an unknown filter, so that none is ignored unseen (%s)', async (path) => {
    const answer = await admin.fetch(`/api/admin/audit${path}?user=somebody`);
    expect([answer.status, (await answer.json()).detail]).toEqual([400, expect.stringContaining('"user"')]);
  });
});

it('the chain is right when many servers number events at once', async () => {
  const append = async () => {
    const connection = await processes.database.connect();
    for (let round = 0; round < 60; round++) {
      await connection.query(`INSERT INTO event_inbox (type) SELECT 'file.step' FROM generate_series(1, 25)`);
    }
  };
  const number = async (part: Part) => {
    const there = admin.at(() => processes.urlOf(part));
    for (let round = 0; round < 25; round++) await list({}, there);
  };
  await Promise.all([append(), append(), ...SERVERS.flatMap((part) => [number(part), number(part)])]);
  const database = await openDatabase(processes.database.url, 'audit test');
  try {
    expect((await verifyEvents(database)).seq).toBeGreaterThan(3000);
  } finally {
    await database.destroy();
  }
});

it('nothing secret is in the table', async () => {
  const { rows } = await processes.database.query('SELECT e::text AS line FROM all_events e');
  expect(rows.length).toBeGreaterThan(100);
  const lines: string = rows.map(({ line }) => line).join('\n');
  for (const value of secrets.filter((one) => one !== ''))
    expect(lines.includes(value) ? value : '').toBe('');
});

describe('the export', () => {
  const ROWS = 20_000;
  let own: Processes;
  let boss: TestUser;

  beforeAll(async () => {
    own = await startProcesses({}, ['server']);
    boss = await registerUser(() => own.url);
    await own.database.query(
      `INSERT INTO event_inbox (type, actor, data)
       SELECT 'upload.created', jsonb_build_object('userId', $2::text),
         jsonb_build_object('place', place, 'pad', repeat('x', 2000))
       FROM generate_series(1, $1::integer) AS place`,
      [ROWS, boss.id],
    );
  });

  afterAll(() => own?.close());

  function open(query = ''): Promise<IncomingMessage> {
    return new Promise((done, fail) => {
      const headers = bearer(boss.token);
      get(`${own.url}/api/admin/audit/export${query}`, { headers, agent: false }, done).on('error', fail);
    });
  }

  async function parse(answer: IncomingMessage): Promise<Item[]> {
    const lines = (await text(answer)).split('\n');
    expect(lines.pop()).toBe('');
    return lines.map((line) => JSON.parse(line));
  }

  it('holds all of a large log, oldest first, and the export itself as the last line', async () => {
    const answer = await open();
    expect(answer.headers).toMatchObject({
      'content-type': 'application/x-ndjson',
      'content-disposition': expect.stringMatching(/^attachment; filename="audit-\d{8}T\d{6}\.ndjson"$/),
      'cache-control': 'no-store',
    });
    const items = await parse(answer);
    expect(items).toHaveLength(ROWS + 2);
    expect(items.map(({ seq }) => seq)).toEqual(Array.from({ length: ROWS + 2 }, (_, index) => index + 1));
    expect(items[0]).toMatchObject({ type: 'auth.register', subjectId: boss.id });
    expect(items.at(-1)).toMatchObject({
      type: 'audit.exported',
      result: 'ok',
      actor: { userId: boss.id, address: expect.any(String) },
      data: {},
    });
    const { items: listed } = await boss.get('/api/admin/audit?limit=1');
    expect(listed[0]).toEqual(items.at(-1));
  });

  it('takes the filters of the list, and the log names them', async () => {
    const from = new Date(Date.now() - 3_600_000).toISOString();
    const items = await parse(await open(`?type=auth.*&result=ok&system=1&userId=${boss.id}&from=${from}`));
    expect(items.map(({ type }) => type)).toEqual(['auth.register']);
    const { items: told } = await boss.get('/api/admin/audit?type=audit.exported&limit=1');
    expect(told[0].data).toEqual({ type: 'auth.*', result: 'ok', system: true, userId: boss.id, from });
    expect((await boss.fetch('/api/admin/audit/export?type=*')).status).toBe(400);
  });

  it('is not begun by a HEAD, which leaves no line in the log', async () => {
    const before = await boss.get('/api/admin/audit?limit=1');
    const answer = await boss.fetch('/api/admin/audit/export', { method: 'HEAD' });
    expect([answer.status, answer.headers.get('Content-Type')]).toEqual([200, 'application/x-ndjson']);
    expect(await boss.get('/api/admin/audit?limit=1')).toEqual(before);
  });

  it('reads no further than its client does, and stops when the client goes', async () => {
    const [answer, abandoned] = [await open(), await open()];
    await Promise.all([once(answer, 'readable'), once(abandoned, 'readable')]);
    // Some megabytes lie in buffers. The rows removed here have not been read yet.
    const connection = await own.database.connect();
    await connection.query('ALTER TABLE events DISABLE TRIGGER USER');
    await connection.query('DELETE FROM events WHERE seq > $1', [ROWS / 2]);
    const items = await parse(answer);
    expect(items).toHaveLength(ROWS / 2);

    // A server that went on reading for a client that has gone would wait for this lock, and not stop.
    await connection.query('BEGIN');
    await connection.query('LOCK TABLE events IN ACCESS EXCLUSIVE MODE');
    abandoned.destroy();
    expect(await own.stop('server')).toBe(0);
  });
});
