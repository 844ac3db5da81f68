import { randomBytes } from 'node:crypto';
import { v7 as uuidv7 } from 'uuid';
import { AppError } from '../core/errors.js';
import { type AppDeps, buildApp, declareRoutes } from '../server/app.js';
import { signCallerLink, signLink } from '../server/auth/links.js';
import { problemsOf } from '../server/routes/answers.js';
import type { TestUser } from './support/client.js';
import {
  type Action,
  type Caller,
  type Callers,
  linkKey,
  MATRIX_ENV,
  makeCallers,
} from './support/matrix-callers.js';
import { type Processes, startProcesses } from './support/processes.js';
import { createBucket, type TestBucket } from './support/s3.js';
import { send, sha256 } from './support/sign-in.js';

/*
 * Every route is called by every kind of caller. The tests fail if a declared route is missing from the
 * table, if a route of the table is not declared, and if the application has a handler that is in neither
 * list.
 */

interface Row {
  access: 'public' | Action;
  /** Which signed links open it too. */
  link?: 'resource' | 'caller';
  /** The status for callers that may use the route. */
  ok: number;
  /** The kind of object whose id stands in `:id` or the body. On admins' routes no caller owns it. */
  on?: ObjectName;
  /**
   * The route does something to the object that cannot be done twice: each permitted caller gets a new
   * object.
   */
  changes?: true;
  /** Clients ask this route for the offset: an expired token must not make them begin the upload anew. */
  resumes?: true;
  /** The route creates an upload. */
  begins?: true;
  /**
   * Whether the route checks that the token's claims still hold, although its access alone would not require
   * that.
   */
  asks?: true;
  /** The answer does not end by itself. */
  endless?: true;
  body?: (id: string) => object | Promise<object>;
  headers?: Record<string, string>;
}

type ObjectName =
  | 'file'
  | 'image'
  | 'upload'
  | 'sent'
  | 'direct'
  | 'session'
  | 'key'
  | 'token'
  | 'user'
  | 'job'
  | 'invitation'
  | 'rescan'
  | 'webhook'
  | 'delivery';

const tus = { 'Tus-Resumable': '1.0.0' };
const ietf = { 'Upload-Draft-Interop-Version': '8' };

const ROUTES: Record<string, Row> = {
  'GET /api/auth': { access: 'public', ok: 200 },
  // These routes refuse a bad body before they hash a password.
  'POST /api/auth/register': { access: 'public', ok: 400, body: () => ({}) },
  'POST /api/auth/login': { access: 'public', ok: 400, body: () => ({}) },
  'POST /api/auth/refresh': {
    access: 'public',
    ok: 200,
    body: async () => ({ refreshToken: await openSession() }),
  },
  'POST /api/auth/logout': {
    access: 'public',
    ok: 204,
    body: async () => ({ refreshToken: await openSession() }),
  },
  'GET /api/me': { access: 'read', ok: 200 },
  'POST /api/me/password': {
    access: 'account',
    ok: 400,
    body: () => ({ currentPassword: 'correct horse battery', newPassword: 'short' }),
  },
  'GET /api/me/sessions': { access: 'account', ok: 200 },
  'DELETE /api/me/sessions/:id': { access: 'account', ok: 204, on: 'session', changes: true },
  // After those for one, which it ends.
  'DELETE /api/me/sessions': { access: 'account', ok: 204 },
  'GET /api/keys': { access: 'account', ok: 200 },
  'POST /api/keys': { access: 'account', ok: 201, body: () => ({ name: 'made', scopes: ['read'] }) },
  'DELETE /api/keys/:id': { access: 'account', ok: 204, on: 'key', changes: true },
  'GET /api/upload-tokens': { access: 'manage', ok: 200 },
  'POST /api/upload-tokens': { access: 'manage', ok: 201, body: () => ({}) },
  'DELETE /api/upload-tokens/:id': { access: 'manage', ok: 204, on: 'token', changes: true },
  'GET /api/files': { access: 'read', ok: 200 },
  'GET /api/files/:id': { access: 'read', ok: 200, on: 'file' },
  'DELETE /api/files/:id': { access: 'manage', ok: 204, on: 'file', changes: true },
  'PATCH /api/files/:id': {
    access: 'manage',
    ok: 200,
    on: 'file',
    body: () => ({ filename: 'another name.txt' }),
  },
  // It is not in the trash, and its processing is complete.
  'POST /api/files/:id/restore': { access: 'manage', ok: 409, on: 'image' },
  'POST /api/files/:id/retry': { access: 'manage', ok: 409, on: 'image' },
  'POST /api/files/:id/cancel': { access: 'manage', ok: 409, on: 'image' },
  'POST /api/files/:id/pause': { access: 'manage', ok: 409, on: 'image' },
  'POST /api/files/:id/resume': { access: 'manage', ok: 409, on: 'image' },
  'POST /api/files/:id/process': {
    access: 'manage',
    ok: 200,
    on: 'image',
    changes: true,
    body: () => ({ priority: 'low' }),
  },
  // It is answered for each file; see batch.test.ts.
  'POST /api/files/batch': {
    access: 'manage',
    ok: 200,
    body: () => ({ ids: [shared.get('image'), uuidv7()], action: 'pause' }),
  },
  'GET /api/files/:id/status': { access: 'read', ok: 200, on: 'file' },
  'GET /api/processing/estimate': { access: 'upload', ok: 400 },
  // Its authority is the token in its address; see own-step-services.test.ts.
  'POST /api/files/:id/steps/:step': { access: 'public', ok: 404, on: 'image' },
  'GET /api/processing/settings/:type/:subtype': { access: 'upload', ok: 200 },
  'GET /api/processing/settings/:type': { access: 'upload', ok: 200 },
  'POST /api/processing/settings/validate': { access: 'upload', ok: 200, body: () => ({ settings: {} }) },
  'GET /api/files/:id/events': { access: 'read', ok: 200, on: 'file' },
  'GET /api/files/:id/content': { access: 'read', link: 'resource', ok: 200, on: 'image' },
  'GET /api/files/:id/thumbnails/:size': { access: 'read', link: 'resource', ok: 200, on: 'image' },
  'GET /api/files/:id/optimized': { access: 'read', link: 'resource', ok: 200, on: 'image' },
  'GET /api/files/:id/derived/:name': { access: 'read', link: 'resource', ok: 200, on: 'image' },
  'GET /api/events': { access: 'read', link: 'caller', ok: 200, asks: true, endless: true },
  'POST /api/events/link': { access: 'read', ok: 200 },
  'GET /api/webhooks': { access: 'manage', ok: 200 },
  'POST /api/webhooks': {
    access: 'manage',
    ok: 201,
    body: () => ({ url: 'https://receiver.example/', events: ['file.*'] }),
  },
  'GET /api/webhooks/:id': { access: 'manage', ok: 200, on: 'webhook' },
  'PATCH /api/webhooks/:id': {
    access: 'manage',
    ok: 200,
    on: 'webhook',
    body: () => ({ events: ['file.completed'] }),
  },
  'DELETE /api/webhooks/:id': { access: 'manage', ok: 204, on: 'webhook', changes: true },
  'POST /api/webhooks/:id/rotate-secret': { access: 'manage', ok: 200, on: 'webhook' },
  'POST /api/webhooks/:id/replay': {
    access: 'manage',
    ok: 202,
    on: 'webhook',
    changes: true,
    body: () => ({ from: '2026-01-01T00:00:00Z' }),
  },
  'POST /api/webhooks/:id/test': { access: 'manage', ok: 202, on: 'webhook' },
  'GET /api/webhooks/:id/deliveries': { access: 'manage', ok: 200, on: 'webhook' },
  'POST /api/webhooks/deliveries/:id/redeliver': {
    access: 'manage',
    ok: 202,
    on: 'delivery',
    changes: true,
  },
  'POST /api/files': { access: 'upload', ok: 201, begins: true, body: () => ({ in: 'a file' }) },
  'GET /api/uploads': { access: 'upload', ok: 200 },
  'GET /api/uploads/info': { access: 'public', ok: 200 },
  'GET /api/uploads/:id': { access: 'upload', ok: 200, on: 'upload' },
  'POST /api/uploads/presign': { access: 'upload', ok: 200, begins: true, body: () => ({ size: 3 }) },
  'POST /api/uploads/complete': {
    access: 'upload',
    ok: 201,
    on: 'sent',
    changes: true,
    body: (id) => ({ id }),
  },
  'GET /api/stats': { access: 'read', ok: 200 },
  'GET /api/stats/types': { access: 'read', ok: 200 },
  'GET /api/admin/stats': { access: 'admin', ok: 200 },
  'GET /api/admin/users': { access: 'admin', ok: 200 },
  'PATCH /api/admin/users/:id': {
    access: 'admin',
    ok: 200,
    on: 'user',
    body: () => ({ maxFiles: 'default' }),
  },
  'GET /api/admin/webhooks': { access: 'admin', ok: 200 },
  'POST /api/admin/webhooks/:id/test': { access: 'admin', ok: 202, on: 'webhook' },
  'GET /api/admin/jobs': { access: 'admin', ok: 200 },
  'GET /api/admin/jobs/failures': { access: 'admin', ok: 200 },
  'POST /api/admin/jobs/retry': { access: 'admin', ok: 200, body: () => ({ code: 'internal' }) },
  'GET /api/admin/jobs/:id': { access: 'admin', ok: 200, on: 'job' },
  // Its processing is complete.
  'POST /api/admin/jobs/:id/retry': { access: 'admin', ok: 409, on: 'job' },
  'DELETE /api/admin/jobs/:id': { access: 'admin', ok: 204, on: 'job', changes: true },
  'POST /api/admin/files/:id/rescan': { access: 'admin', ok: 202, on: 'image' },
  // Of two at a time one would be refused.
  'POST /api/admin/rescan': { access: 'admin', ok: 400, body: () => ({ outdated: 'maybe' }) },
  'GET /api/admin/rescans': { access: 'admin', ok: 200 },
  'GET /api/admin/rescans/:id': { access: 'admin', ok: 200, on: 'rescan' },
  // It has ended.
  'DELETE /api/admin/rescans/:id': { access: 'admin', ok: 409, on: 'rescan' },
  'GET /api/admin/queue': { access: 'admin', ok: 200 },
  'POST /api/admin/queue/pause': { access: 'admin', ok: 200 },
  // After the pause, which it ends.
  'POST /api/admin/queue/resume': { access: 'admin', ok: 200 },
  'GET /api/admin/invitations': { access: 'admin', ok: 200 },
  'POST /api/admin/invitations': { access: 'admin', ok: 201, body: () => ({}) },
  'DELETE /api/admin/invitations/:id': { access: 'admin', ok: 204, on: 'invitation', changes: true },
  'GET /api/admin/hooks': { access: 'admin', ok: 200 },
  'POST /api/admin/hooks/test': { access: 'admin', ok: 200 },
  'GET /api/admin/audit': { access: 'admin', ok: 200 },
  'GET /api/admin/audit/export': { access: 'admin', ok: 200 },
  'GET /health': { access: 'public', ok: 200 },
  'GET /api/admin/log-level': { access: 'admin', ok: 200 },
  'PUT /api/admin/log-level': { access: 'admin', ok: 200, body: () => ({ level: null }) },
  'GET /health/live': { access: 'public', ok: 200 },
  'GET /health/ready': { access: 'public', ok: 200 },
  'GET /health/detailed': { access: 'admin', ok: 200 },
  // Without METRICS_TOKEN; see metrics.test.ts.
  'GET /metrics': { access: 'public', ok: 404 },
  'GET /openapi.json': { access: 'public', ok: 200 },
};

/** The handlers that answer besides the declared routes; see MOUNTED. */
const OTHERS: Record<string, Row> = {
  'OPTIONS /uploads': { access: 'public', ok: 200 },
  'POST /uploads': {
    access: 'upload',
    ok: 201,
    begins: true,
    headers: { ...tus, 'Upload-Length': '3' },
  },
  'HEAD /uploads/:id': { access: 'upload', ok: 200, on: 'upload', resumes: true, headers: tus },
  'PATCH /uploads/:id': {
    access: 'upload',
    ok: 204,
    on: 'upload',
    headers: { ...tus, 'Upload-Offset': '0', 'Content-Type': 'application/offset+octet-stream' },
  },
  'DELETE /uploads/:id': { access: 'upload', ok: 204, on: 'upload', changes: true, asks: true, headers: tus },
  // tus has no GET: it answers 404 to every caller.
  'GET /uploads/:id': { access: 'upload', ok: 404, on: 'upload', headers: tus },
  // A PATCH is sent as a POST that names its method in a header.
  'POST /uploads/:id': {
    access: 'upload',
    ok: 204,
    on: 'upload',
    headers: {
      ...tus,
      'X-HTTP-Method-Override': 'PATCH',
      'Upload-Offset': '0',
      'Content-Type': 'application/offset+octet-stream',
    },
  },
  // The IETF draft of resumable uploads, on the same paths.
  'POST /uploads?': {
    access: 'upload',
    ok: 201,
    begins: true,
    headers: { ...ietf, 'Upload-Complete': '?0' },
  },
  'PUT /uploads': { access: 'upload', ok: 201, begins: true, headers: { ...ietf, 'Upload-Complete': '?0' } },
  'POST /api/files?': {
    access: 'upload',
    ok: 201,
    begins: true,
    headers: { ...ietf, 'Upload-Complete': '?0' },
  },
  'PUT /api/files': {
    access: 'upload',
    ok: 201,
    begins: true,
    headers: { ...ietf, 'Upload-Complete': '?1' },
  },
  'HEAD /uploads/:id?': { access: 'upload', ok: 204, on: 'upload', resumes: true, headers: ietf },
  'GET /uploads/:id?': { access: 'upload', ok: 204, on: 'upload', headers: ietf },
  'PATCH /uploads/:id?': {
    access: 'upload',
    ok: 204,
    on: 'upload',
    headers: {
      ...ietf,
      'Upload-Offset': '0',
      'Upload-Complete': '?0',
      'Content-Type': 'application/partial-upload',
    },
  },
  'DELETE /uploads/:id?': {
    access: 'upload',
    ok: 204,
    on: 'upload',
    changes: true,
    asks: true,
    headers: ietf,
  },
  // A client that names no version has no field in these requests.
  'HEAD /uploads/:id??': { access: 'upload', ok: 204, on: 'upload', resumes: true },
  'GET /uploads/:id??': { access: 'upload', ok: 204, on: 'upload' },
  'DELETE /uploads/:id??': { access: 'upload', ok: 204, on: 'upload', changes: true, asks: true },
  // The same route with an id gives further addresses of that upload.
  'POST /api/uploads/presign?': { access: 'upload', ok: 200, on: 'direct', body: (id) => ({ id }) },
  // The same route is called for a finished upload.
  'GET /api/uploads/:id?': { access: 'upload', ok: 200, on: 'file' },
  'HEAD /api/files/:id/optimized': { access: 'read', link: 'resource', ok: 200, on: 'image' },
  'HEAD /api/files/:id/content': { access: 'read', link: 'resource', ok: 200, on: 'image' },
  'GET /admin/queues': { access: 'admin', ok: 200 },
  'GET /admin/queues/api/queues': { access: 'admin', ok: 200 },
  'PUT /admin/queues/api/queues/processing/pause': { access: 'admin', ok: 200 },
  'PUT /admin/queues/api/queues/processing/resume': { access: 'admin', ok: 200 },
  'GET /': { access: 'public', ok: 200 },
  'GET /docs': { access: 'public', ok: 200 },
  'GET /redoc': { access: 'public', ok: 200 },
  'GET /nothing': { access: 'public', ok: 404 },
  'GET /api/nothing': { access: 'public', ok: 404 },
};

/**
 * Routes without a rate limit of their kind: only the global limit applies. The reason stands beside each.
 */
const WITHOUT_LIMIT = [
  // The caller is not signed in yet, so many users behind one address would be counted together.
  'GET /api/auth',
  // A user can always stay signed in and sign out. Neither costs the hash of a password.
  'POST /api/auth/refresh',
  'POST /api/auth/logout',
  // It answers a question of ours, once: its address has a token that nobody can guess.
  'POST /api/files/:id/steps/:step',
  // It ends an upload that was counted when it began.
  'POST /api/uploads/complete',
  // Load balancers ask as often as they like.
  'GET /health/live',
  'GET /health/ready',
  'GET /health',
  // Prometheus has a token of its own.
  'GET /metrics',
  // It is the same for every request, like the page.
  'GET /openapi.json',
];

let bucket: TestBucket;
let processes: Processes;
let callers: Callers;
const shared = new Map<ObjectName, string>();

/** A PNG of one pixel. */
const PIXEL = Buffer.from(
  'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg==',
  'base64',
);

/** Makes one that belongs to the owner. */
const makeObject: Record<ObjectName, (owner: TestUser) => Promise<string>> = {
  file: (owner) => owner.upload(Buffer.from('a file')),
  async image(owner) {
    const id = await owner.upload(PIXEL, {
      filename: 'pixel.png',
      settings: '{"format":"jpeg"}',
    });
    const { status } = await owner.settled(id);
    expect(status).toBe('completed');
    return id;
  },
  upload: async (owner) => (await owner.create(0x100)).slice('/uploads/'.length),
  direct: async (owner) => (await (await send(owner, 'POST', '/api/uploads/presign', { size: 3 })).json()).id,
  async sent(owner) {
    const { id, parts } = await (await send(owner, 'POST', '/api/uploads/presign', { size: 3 })).json();
    const answer = await fetch(parts[0].url, { method: 'PUT', body: 'abc' });
    expect(answer.status).toBe(200);
    return id;
  },
  session: async () => sessionOf(await openSession()),
  key: async (owner) =>
    (await (await send(owner, 'POST', '/api/keys', { name: 'a', scopes: ['read'] })).json()).id,
  token: async (owner) => (await (await send(owner, 'POST', '/api/upload-tokens', {})).json()).id,
  async user() {
    const { rows } = await processes.database.query(`SELECT id FROM users WHERE role = 'user' LIMIT 1`);
    return rows[0].id;
  },
  webhook: newWebhook,
  async delivery(owner) {
    const { rows } = await processes.database.query(
      `INSERT INTO deliveries (id, subscription_id, seq, type, subject_id, state, finished_at)
       VALUES ($1, $2, 1, 'file.created', $1, 'failed', now()) RETURNING id`,
      [uuidv7(), await newWebhook(owner)],
    );
    return rows[0].id;
  },
  job: async (owner) => `${await makeObject.image(owner)}-1`,
  async rescan() {
    const { rows } = await processes.database.query(
      `INSERT INTO rescans (id, by_system, state) VALUES ($1, false, 'done') RETURNING id`,
      [uuidv7()],
    );
    return rows[0].id;
  },
  invitation: async () => (await (await send(callers.admin, 'POST', '/api/admin/invitations', {})).json()).id,
};

async function newWebhook(owner: TestUser): Promise<string> {
  const made = { url: 'https://receiver.example/', events: ['file.*'] };
  return (await (await send(owner, 'POST', '/api/webhooks', made)).json()).id;
}

/** A further session of the owner; returns its refresh token. */
async function openSession(): Promise<string> {
  const token = randomBytes(32).toString('base64url');
  const id = uuidv7();
  await processes.database.query(
    `INSERT INTO sessions (id, user_id, expires_at) VALUES ($1, $2, now() + interval '1 day')`,
    [id, callers.owner.id],
  );
  await processes.database.query('INSERT INTO refresh_tokens (token_hash, session_id) VALUES ($1, $2)', [
    sha256(token),
    id,
  ]);
  return token;
}

async function sessionOf(token: string): Promise<string> {
  const { rows } = await processes.database.query(
    'SELECT session_id FROM refresh_tokens WHERE token_hash = $1',
    [sha256(token)],
  );
  return rows[0].session_id;
}

beforeAll(async () => {
  bucket = await createBucket();
  processes = await startProcesses({ ...bucket.env, ...MATRIX_ENV }, ['server', 'worker']);
  callers = await makeCallers(processes);
  const names = new Set([...Object.values(ROUTES), ...Object.values(OTHERS)].map(({ on }) => on));
  for (const name of names) if (name) shared.set(name, await makeObject[name](callers.owner));
});

afterAll(async () => {
  await processes?.close();
  await bucket?.drop();
});

describe('the table', () => {
  // A declaration uses no dependency: a route uses its dependencies when it is called.
  const declared = declareRoutes({} as AppDeps);

  test('names each declared route once, with its access', () => {
    const described = declared.map(({ method, path, access, link }) => [
      `${method.toUpperCase()} ${path}`,
      { access, ...(link ? { link } : {}) },
    ]);
    expect(new Set(described.map(([name]) => name)).size).toBe(described.length);
    const expected = Object.entries(ROUTES).map(([name, { access, link }]) => [
      name,
      { access, ...(link ? { link } : {}) },
    ]);
    expect(Object.fromEntries(described)).toEqual(Object.fromEntries(expected));
  });

  test('expects an answer that the route declares', () => {
    for (const route of declared) {
      const statuses = problemsOf(route).map((code) => new AppError(code).status);
      const row = ROUTES[`${route.method.toUpperCase()} ${route.path}`];
      expect([...Object.keys(route.answers).map(Number), ...statuses]).toContain(row?.ok);
    }
  });

  test('names each route that has no rate limit of its kind', () => {
    const without = declared
      .filter(({ limit }) => limit === undefined)
      .map(({ method, path }) => `${method.toUpperCase()} ${path}`);
    expect(without).toEqual(WITHOUT_LIMIT);
  });

  test('leaves out no handler that the application has besides', () => {
    const layers = layersOf(buildApp(inertDeps()).router);
    expect(layers.map(describeLayer).sort()).toEqual(MOUNTED.toSorted());
    const nested = layers.flatMap(({ handle }) => (handle?.stack ? layersOf(handle) : [])).map(describeLayer);
    const paths = new Set(declared.map(({ path }) => `route ${path}`));
    expect(nested.filter((name) => !paths.has(name)).sort()).toEqual(NESTED.toSorted());
  });
});

/**
 * All that buildApp() mounts in the application, in any order. If you add a handler that answers requests, list its
 * routes in OTHERS too; if you add one that only looks at requests, list it here.
 */
const MOUNTED = [
  // The count of requests, their log, unwanted bodies, headers, odd requests, CORS.
  '<anonymous>',
  '<anonymous>',
  '<anonymous>',
  'helmetMiddleware',
  '<anonymous>',
  'refuseOddities',
  '<anonymous> at /api and /uploads',
  // Programs that are not served.
  'denyNamed',
  // The IETF draft of resumable uploads: its limits, its uploads, and its creations at /api/files.
  '<anonymous> at /uploads and /api/files',
  'route /uploads{/*path}',
  'router at /api/files',
  // tus.
  'route /uploads{/*path}',
  '<anonymous> at /api',
  'refuse at /api',
  'global at /api',
  // The declared routes.
  'router',
  'global at /admin/queues',
  // The board, and the pages.
  'router',
  'router',
  'notFound',
  // The handler of errors.
  '<anonymous>',
];

/** All that those routers hold besides the declared routes. */
const NESTED = [
  // Of the router at /api/files.
  'route /',
  'boardPolicy at /admin/queues',
  'adminOnly at /admin/queues',
  'serveBoard at /admin/queues',
  'route /,/index{.html},/docs{.html}',
  'route /redoc{.html}',
  // Chooses the compressed copy of a file of the pages.
  'route /{*path}',
  'serveStatic',
];

interface Layer {
  name: string;
  slash: boolean;
  route?: { path: string };
  handle?: { stack?: Layer[] };
  match(path: string): boolean;
}

const layersOf = (router: unknown) => (router as { stack: Layer[] }).stack;

function describeLayer(layer: Layer): string {
  if (layer.route) return `route ${layer.route.path}`;
  if (layer.slash) return layer.name;
  const at = ['/api', '/uploads', '/admin/queues', '/health', '/metrics'].filter((path) => layer.match(path));
  if (!at.includes('/api') && layer.match('/api/files')) at.push('/api/files');
  return `${layer.name} at ${at.join(' and ')}`;
}

/** Dependencies that suffice to build the application, but not to serve a request. */
function inertDeps(): AppDeps {
  const pass = () => {};
  return {
    corsOrigins: '*',
    corsHeaders: [],
    deniedUserAgents: [],
    keys: {},
    pageDir: 'web',
    limits: { global: function global() {}, bucket: () => pass },
    drain: { refuse: function refuse() {}, track: (work: unknown) => work },
  } as unknown as AppDeps;
}

function addressOf(name: string, id: string): { method: string; path: string } {
  const [method = '', path = ''] = name.replaceAll('?', '').split(' ');
  return {
    method,
    path: path
      .replace(':id', id)
      .replace(':size', 'small')
      .replace(':name', 'thumbnail-small')
      .replace(':type/:subtype', 'image/jpeg')
      .replace(':type', 'image%2Fjpeg'),
  };
}

async function knock(name: string, row: Row, caller: Pick<Caller, 'token'>, id: string, query = '') {
  const { method, path } = addressOf(name, id);
  const token = typeof caller.token === 'function' ? await caller.token() : caller.token;
  const body = row.body && JSON.stringify(await row.body(id));
  return fetch(`${processes.url}${path}${query}`, {
    method,
    headers: {
      ...(token === undefined ? {} : { Authorization: `Bearer ${token}` }),
      ...(body ? { 'Content-Type': 'application/json' } : {}),
      ...row.headers,
    },
    ...(body ? { body } : {}),
  });
}

const CHECKED: Row['access'][] = ['account', 'manage', 'admin'];

/** The rules of access, written a second time independently of can(). */
function expected(row: Row, { may, owns, outdated, ranOut }: Caller): number {
  const { access, on, ok } = row;
  if (access === 'public') return ok;
  if (!may) return row.resumes && ranOut ? 423 : 401;
  if (outdated && (CHECKED.includes(access) || row.asks || (row.begins && !outdated.begins))) return 401;
  if (!may.includes(access)) return 403;
  return on && access !== 'admin' && !owns ? 404 : ok;
}

/** Reads the rest of an answer, or leaves it. */
async function dismiss(row: Row, answer: Response): Promise<void> {
  if (row.endless) await answer.body?.cancel();
  else await answer.arrayBuffer();
}

/** The parts of an answer that must be equal in two answers. */
async function comparable(answer: Response) {
  const varying = /^(date|x-request-id|ratelimit.*|x-ratelimit.*|keep-alive)$/;
  const headers = [...answer.headers].filter(([name]) => !varying.test(name));
  return { status: answer.status, headers, body: await answer.text() };
}

const KINDS: Record<number, string> = { 401: 'unauthenticated', 403: 'forbidden', 404: 'not_found' };

async function expectRefusal(name: string, answer: Response, status: number): Promise<void> {
  if (status === 401) expect(answer.headers.get('WWW-Authenticate')).toBe('Bearer');
  const text = await answer.text();
  if (name.startsWith('HEAD')) return;
  // tus answers in plain text once the request has been let in.
  const isByTus = name.includes(' /uploads') && /^text\/plain/.test(answer.headers.get('Content-Type') ?? '');
  if (!isByTus) expect(JSON.parse(text)).toMatchObject({ status, code: KINDS[status] });
}

describe.each([...Object.entries(ROUTES), ...Object.entries(OTHERS)])('%s', (name, row) => {
  const objectId = () => (row.on ? (shared.get(row.on) ?? '') : '');

  test('opens for callers with the right to it, and for no others', async () => {
    const may = callers.all.filter((caller) => expected(row, caller) === row.ok);
    const mayNot = callers.all.filter((caller) => !may.includes(caller));
    const answers = await Promise.all(
      mayNot.map(async (caller) => {
        const answer = await knock(name, row, caller, objectId());
        return [caller, answer] as const;
      }),
    );
    for (const [caller, answer] of answers) {
      expect([caller.name, answer.status]).toEqual([caller.name, expected(row, caller)]);
      await expectRefusal(name, answer, answer.status);
    }
    // The requests of the other callers have not removed the object.
    let id = objectId();
    for (const caller of may) {
      const answer = await knock(name, row, caller, id);
      expect([caller.name, answer.status]).toEqual([caller.name, row.ok]);
      await dismiss(row, answer);
      if (row.on && row.changes) id = await makeObject[row.on](callers.owner);
    }
    if (row.on && row.changes) shared.set(row.on, id);
  });

  if (row.on && row.access !== 'public') {
    test('answers alike for another user’s object and for one that does not exist', async () => {
      const foreign = callers.all.filter((caller) => expected(row, caller) === 404);
      if (row.access !== 'admin') expect(foreign.length).toBeGreaterThan(3);
      for (const caller of foreign) {
        const theirs = await comparable(await knock(name, row, caller, objectId()));
        const none = await comparable(await knock(name, row, caller, uuidv7()));
        expect({ ...theirs, caller: caller.name }).toEqual({ ...none, caller: caller.name, status: 404 });
      }
      const owner = { token: row.access === 'admin' ? callers.admin.token : callers.owner.token };
      expect((await knock(name, row, owner, uuidv7())).status).toBe(404);
    });
  }

  if (/^(GET|HEAD) /.test(name)) {
    test('opens by a signed link only where it is meant to, and by a link for another path nowhere', async () => {
      const { path } = addressOf(name, objectId());
      const status = async (link: string) => {
        const query = `?${link.split('?')[1]}`;
        const answer = await knock(name, row, { token: undefined }, objectId(), query);
        await dismiss(row, answer);
        return answer.status;
      };
      const links = {
        resource: (signed: string) => signLink(signed, linkKey),
        caller: (signed: string) =>
          signCallerLink(signed, { userId: callers.owner.id, role: 'user' }, linkKey).url,
      };
      for (const [kind, sign] of Object.entries(links)) {
        const open = row.access === 'public' || row.link === kind;
        expect([kind, await status(sign(path))]).toEqual([kind, open ? row.ok : 401]);
        expect(await status(sign(`${path}/`))).toBe(row.access === 'public' ? row.ok : 401);
      }
    });
  }
});
