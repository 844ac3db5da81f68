import { createServer, request as openRequest } from 'node:http';
import type { AddressInfo } from 'node:net';
import express from 'express';
import request from 'supertest';
import type { DataSource } from 'typeorm';
import { z } from 'zod';
import { AppError } from '../core/errors.js';
import { createLogger } from '../core/log.js';
import { timestamp } from '../server/answers/shapes.js';
import { type Authenticate, createAuthenticate, type LinkAccess } from '../server/auth/authenticate.js';
import { deriveKeys } from '../server/auth/keys.js';
import { signCallerLink, signLink } from '../server/auth/links.js';
import type { Refusal, Refusals } from '../server/auth/refusals.js';
import { signToken } from '../server/auth/tokens.js';
import { notFound, problemHandler } from '../server/http/problem.js';
import { requestLog } from '../server/http/requests.js';
import { createOnce } from '../server/idempotency/once.js';
import { createLimits } from '../server/limits/limits.js';
import { EMPTY, problemsOf } from '../server/routes/answers.js';
import { type AnyRoute, route, serve } from '../server/routes/route.js';
import { checkAnswers } from './support/answer-check.js';
import { exchange, formRequest } from './support/raw-http.js';
import { until } from './support/until.js';

const keys = deriveKeys('only-for-tests-only-for-tests-only');
const log = createLogger('silent', 'test');
const user = { userId: '01890000-0000-7000-8000-000000000001', role: 'user' } as const;
const bearer = `Bearer ${signToken(user, keys.access, 1)}`;

const refused: Refusal[] = [];
const refusals: Refusals = {
  note: (_req, refusal) => refused.push(refusal),
  whenWritten: async () => {},
  flush: async () => {},
};
const limits = createLimits({
  rateLimits: {
    uploads: undefined,
    status: undefined,
    downloads: undefined,
    processing: undefined,
    auth: undefined,
    global: undefined,
  },
  accountKey: keys.limitedAccount,
  refusals,
  log,
});

// No test here asks the database: see matrix.test.ts for tests that do.
const database = undefined as unknown as DataSource;
const authenticate = createAuthenticate({
  database,
  keys,
  verifyExternal: undefined,
  admitLocal: undefined,
  refusals,
});

function appOf(routes: AnyRoute[], signIn: Authenticate = authenticate) {
  const app = express();
  app.use(requestLog(app, { log, slowMs: 0 }));
  const deps = { authenticate: signIn, limits, refusals, once: createOnce({ database, keys, log }) };
  app.use(serve(routes, deps), notFound, problemHandler(log, refusals));
  return app;
}

function serveOnly(...routes: AnyRoute[]) {
  return request(appOf(routes));
}

const declared = route({
  method: 'post',
  path: '/things/:id',
  access: 'public',
  summary: 'For the test',
  params: z.object({ id: z.uuid() }),
  query: z.object({ limit: z.coerce.number().int().max(10).default(5) }),
  body: z.object({ name: z.string().min(1, 'must not be empty') }),
  answers: { 201: z.object({ id: z.uuid(), limit: z.int(), name: z.string() }) },
  handle: async ({ params, query, body }) => ({ ...params, ...query, ...body }),
});
const path = '/things/01890000-0000-7000-8000-000000000002';

test('the handler gets the values that the schemas name, converted and with defaults', async () => {
  const answer = await serveOnly(declared).post(`${path}?limit=7&more=1`).send({ name: 'a', extra: true });
  expect(answer.status).toBe(201);
  expect(answer.body).toEqual({ id: path.slice(8), limit: 7, name: 'a' });
});

test.each([
  ['a field of the body', path, { name: '' }, 400, 'invalid_request', 'name in the body: must not be empty'],
  [
    'a field of the query',
    `${path}?limit=11`,
    { name: 'a' },
    400,
    'invalid_request',
    /^limit in the query: /,
  ],
  ['an id that cannot be one', '/things/7', { name: 'a' }, 404, 'not_found', undefined],
])('the refusal names the mistake: %s', async (_what, url, body, status, code, detail) => {
  const answer = await serveOnly(declared).post(url).send(body);
  expect(answer.status).toBe(status);
  expect(answer.type).toBe('application/problem+json');
  expect(answer.body).toMatchObject({ type: 'about:blank', status, code });
  if (detail) expect(answer.body.detail).toMatch(detail);
});

test('a body that is not JSON, or too long, is an error of the client', async () => {
  const app = serveOnly(declared);
  const broken = await app.post(path).set('Content-Type', 'application/json').send('{"name":');
  expect([broken.status, broken.body.code]).toEqual([400, 'invalid_request']);
  const long = await app.post(path).send({ name: 'x'.repeat(200_000) });
  expect([long.status, long.body.code]).toEqual([413, 'too_large']);
});

test('a body of another type is refused with the type to send, and a missing body counts as empty', async () => {
  const form = await serveOnly(declared).post(path).type('form').send('name=a');
  expect([form.status, form.body.code]).toEqual([415, 'unsupported_media_type']);
  const none = await serveOnly(declared).post(path).set('Content-Length', '0');
  expect([none.status, none.body.code]).toEqual([400, 'invalid_request']);
});

test('another method of a known path answers 405 with Allow, an unknown path 404', async () => {
  const wrong = await serveOnly(declared).delete(path);
  expect([wrong.status, wrong.headers.allow, wrong.body.code]).toEqual([405, 'POST', 'method_not_allowed']);
  const unknown = await serveOnly(declared).get('/nothing');
  expect([unknown.status, unknown.body.code]).toEqual([404, 'not_found']);
});

test('an unexpected error tells nothing about itself', async () => {
  const failing = route({
    method: 'get',
    path: '/failing',
    access: 'public',
    summary: 'For the test',
    answers: {},
    handle: () => Promise.reject(new Error('SELECT secret FROM /etc/passwd')),
  });
  const answer = await serveOnly(failing).get('/failing');
  expect(answer.status).toBe(500);
  expect(answer.body).toEqual({
    type: 'about:blank',
    title: 'Internal error',
    status: 500,
    code: 'internal',
  });
});

test('an expected error shows its detail and never its cause', async () => {
  const error = new AppError('not_ready', { detail: 'Wait', cause: new Error('secret') });
  const failing = route({
    method: 'get',
    path: '/failing',
    access: 'public',
    summary: 'For the test',
    answers: {},
    handle: () => Promise.reject(error),
  });
  const answer = await serveOnly(failing).get('/failing');
  expect(answer.status).toBe(409);
  expect(answer.body).toMatchObject({ code: 'not_ready', detail: 'Wait' });
  expect(answer.text).not.toContain('secret');
});

describe('access', () => {
  const guarded = (link: LinkAccess, ownerId: string = user.userId) =>
    route({
      method: 'get',
      path: '/guarded',
      access: 'read',
      link,
      summary: 'For the test',
      answers: { 200: z.object({ id: z.uuid(), ownerId: z.uuid() }) },
      handle: async ({ own }) => own({ id: '01890000-0000-7000-8000-000000000003', ownerId }),
    });
  const get = (authorization: string, url = '/guarded', declared = guarded(false)) =>
    serveOnly(declared).get(url).set('Authorization', authorization);

  test('needs an access token that this server signed, whole and not expired', async () => {
    expect((await get(bearer)).status).toBe(200);
    const expired = signToken(user, keys.access, -1);
    const forBoard = signToken(user, keys.board, 1);
    const none = `${Buffer.from('{"alg":"none"}').toString('base64url')}.${bearer.split('.')[1]}.`;
    for (const token of ['', expired, forBoard, none, bearer.slice(7, -2)]) {
      const answer = await get(`Bearer ${token}`);
      expect([answer.status, answer.body.code]).toEqual([401, 'unauthenticated']);
      expect(answer.headers['www-authenticate']).toBe('Bearer');
    }
  });

  test('another user’s object answers 404, and the attempt is noted', async () => {
    refused.length = 0;
    const foreign = guarded(false, '01890000-0000-7000-8000-000000000004');
    expect((await get(bearer, '/guarded', foreign)).status).toBe(404);
    expect(refused).toEqual([
      { action: 'read', code: 'not_found', subjectId: '01890000-0000-7000-8000-000000000003' },
    ]);
  });

  test('a signed link opens its own path until it expires, and nothing else', async () => {
    const linked = guarded('resource');
    expect((await get('', signLink('/guarded', keys.link), linked)).status).toBe(200);
    const token = (link: string) => link.split('?')[1];
    const old = signLink('/guarded', keys.link, Date.now() - 3_600_000);
    for (const query of [token(signLink('/other', keys.link)), token(old), 'token=1.2', 'token=']) {
      expect((await get('', `/guarded?${query}`, linked)).status).toBe(401);
    }
    expect((await get('', signLink('/guarded', keys.link))).status).toBe(401);
  });

  test('a link that names its caller opens only routes for such links, and only as it was signed', async () => {
    const mine = guarded('caller');
    const sign = (path = '/guarded', now = Date.now()) => signCallerLink(path, user, keys.link, now).url;
    const { url, expiresAt } = signCallerLink('/guarded', user, keys.link);
    expect(expiresAt.getTime() - Date.now()).toBeGreaterThan(15 * 60_000 - 1000);
    expect((await get('', url, mine)).status).toBe(200);
    // It acts for its user, so another user's object is hidden.
    expect((await get('', url, guarded('caller', '01890000-0000-7000-8000-000000000004'))).status).toBe(404);
    const [, token = ''] = url.split('=');
    const [expiry, caller = '', signature] = token.split('.');
    const tokens = [
      sign('/other').split('=')[1],
      sign('/guarded', Date.now() - 3_600_000).split('=')[1],
      signLink('/guarded', keys.link).split('=')[1],
      `${Number(expiry) + 900}.${caller}.${signature}`,
      `${expiry}.${caller.replace(/.$/, '9')}.${signature}`,
      `${expiry}.${caller}_s${user.userId}.${signature}`,
      `${expiry}.${signature}`,
      `${token}x`,
    ];
    for (const wrong of tokens) {
      expect((await get('', `/guarded?token=${wrong}`, mine)).status).toBe(401);
    }
    for (const declared of [guarded('resource'), guarded(false)]) {
      expect((await get('', url, declared)).status).toBe(401);
    }
  });
});

describe('a caller who sends a body', () => {
  let asked = 0;
  const signIn: Authenticate = async (...request) => {
    asked++;
    // The pause stands for the query to the database that a second look would cost.
    await new Promise((resolve) => setImmediate(resolve));
    await authenticate(...request);
  };
  const http = createServer(appOf([{ ...declared, access: 'upload' }], signIn));
  const headers = { Authorization: bearer, 'Content-Type': 'application/json' };
  const body = JSON.stringify({ name: 'a' });
  let url: string;

  beforeAll(async () => {
    await new Promise<void>((resolve) => http.listen(0, '127.0.0.1', resolve));
    url = `http://127.0.0.1:${(http.address() as AddressInfo).port}`;
  });
  afterAll(() => {
    http.closeAllConnections();
    http.close();
  });
  beforeEach(() => {
    asked = 0;
  });

  test('is authenticated once when the body came with the head', async () => {
    expect((await exchange(url, formRequest('POST', path, headers, body)))?.status).toBe(201);
    expect(asked).toBe(1);
  });

  test('is authenticated again once the body is complete, if it was not complete at first', async () => {
    const length = Buffer.byteLength(body);
    const outgoing = openRequest(`${url}${path}`, {
      method: 'POST',
      headers: { ...headers, 'Content-Length': length },
    });
    const answered = new Promise<number | undefined>((resolve, reject) => {
      outgoing.on('response', (answer) => resolve(answer.resume().statusCode)).on('error', reject);
    });
    outgoing.write(body.slice(0, 5));
    await until('the caller to be looked at', () => asked === 1);
    outgoing.end(body.slice(5));
    expect(await answered).toBe(201);
    expect(asked).toBe(2);
  });
});

describe('an answer', () => {
  const described = {
    method: 'get',
    path: '/described',
    access: 'public',
    summary: 'For the test',
    answers: { 200: z.object({ at: timestamp, count: z.int().nullable() }) },
    problems: ['gone'],
  } as const;

  test('has the type that is declared, which the compiler checks', () => {
    route({ ...described, handle: async () => ({ at: new Date(), count: 1 }) });
    // @ts-expect-error: a field is missing
    route({ ...described, handle: async () => ({ at: new Date() }) });
    // @ts-expect-error: a field has another type
    route({ ...described, handle: async () => ({ at: new Date(), count: '1' }) });
    // @ts-expect-error: nothing is returned
    route({ ...described, handle: async () => {} });
    expect.assertions(0);
  });

  test('without content is sent by the router', async () => {
    const empty = route({ ...described, answers: { 204: EMPTY }, handle: async () => {} });
    expect((await serveOnly(empty).get('/described')).status).toBe(204);
  });

  const faults: string[] = [];
  /** Asks a server that checks its answers, as those do that the suites start. */
  async function answerOf(handle: AnyRoute['handle'], method: 'get' | 'head' = 'get') {
    const declared: AnyRoute = { ...described, handle };
    const app = appOf([declared]);
    checkAnswers(app.response, [declared], problemsOf, (fault) => faults.push(fault));
    return (await request(app)[method]('/described')).status;
  }

  test('is checked by the tests against its declaration', async () => {
    const at = new Date();
    expect(await answerOf(async () => ({ at, count: null }))).toBe(200);
    expect(await answerOf(async () => ({ at, count: null }), 'head')).toBe(200);
    expect(await answerOf(() => Promise.reject(new AppError('gone')))).toBe(410);
    expect(faults).toEqual([]);
    for (const wrong of [
      async () => ({ at: 'yesterday', count: 1 }),
      async () => ({ at }),
      async () => ({ at, count: 1, secret: 'x' }),
      // Long enough to be compressed.
      async () => ({ at, count: 1, secret: 'x'.repeat(2000) }),
      () => Promise.reject(new AppError('locked')),
      async ({ res }: { res: express.Response }) => void res.status(202).json({}),
    ]) {
      expect(await answerOf(wrong)).toBe(500);
    }
    expect(faults).toHaveLength(6);
  });
});
