import { v7 as uuidv7 } from 'uuid';
import { signAnswerToken } from '../core/own-steps/token.js';
import { PASSWORD, registerUser, type TestUser, useAccount } from './support/client.js';
import { type Contract, type Operation, readContract } from './support/contract.js';
import { makePng } from './support/fixtures.js';
import { answerKey, MATRIX_ENV } from './support/matrix-callers.js';
import { type Processes, startProcesses } from './support/processes.js';
import { createBucket, type TestBucket } from './support/s3.js';
import { logIn, newAddress, newSession, send } from './support/sign-in.js';
import { until } from './support/until.js';

/*
 * Every operation of /openapi.json is called, with success and with faults, and each answer is held against the
 * document. matrix.test.ts fails if the application has a route that is not declared, openapi.test.ts if the document
 * leaves out a declared route. Answers that need an outage, a race or a rate limit are in other suites, whose servers
 * check them against the declarations.
 */

interface Call {
  /** Default: that of the document. */
  path?: string;
  /** Default: the owner. */
  as?: TestUser;
  /** Sent as JSON; a string as it is. */
  body?: object | string;
  headers?: Record<string, string>;
}

/** Makes the calls of one operation that must succeed. */
type Calls = () => Promise<Call[]> | Call[];

const METRICS_TOKEN = 'a-token-of-the-contract';

let bucket: TestBucket;
let processes: Processes;
let contract: Contract;
let owner: TestUser;
let admin: TestUser;
/** Keys of the owner that may only read and only upload. */
let reader: TestUser;
let uploader: TestUser;
/** Two files whose processing is complete. */
let image: string;
let text: string;
let webhook: string;

beforeAll(async () => {
  bucket = await createBucket();
  processes = await startProcesses({ ...bucket.env, ...MATRIX_ENV, METRICS_TOKEN });
  contract = await readContract(processes.url);
  admin = await registerUser(() => processes.url);
  owner = await registerUser(() => processes.url);
  const key = async (scope: string) =>
    (await made('/api/keys', { name: scope, scopes: [scope] })).key as string;
  [reader, uploader] = (await Promise.all(
    ['read', 'upload'].map(async (scope) => useAccount(owner, await key(scope), () => processes.url)),
  )) as [TestUser, TestUser];
  image = await owner.upload(await makePng({ width: 400, height: 300 }), {
    filename: 'image.png',
    settings: '{"format":"jpeg"}',
  });
  text = await newFile();
  webhook = await newWebhook();
  await Promise.all([image, text].map((id) => owner.settled(id)));
  await processes.stop('worker');
});

afterAll(async () => {
  await processes?.close();
  await bucket?.drop();
});

/** The answer to a POST that must succeed. */
// biome-ignore lint/suspicious/noExplicitAny: the caller knows the shape
async function made(path: string, body: object, as = owner): Promise<any> {
  const answer = await send(as, 'POST', path, body);
  if (!answer.ok) throw new Error(`POST ${path}: ${answer.status} ${await answer.text()}`);
  return answer.json();
}

/** A file that waits for a worker. None runs any more. */
const newFile = () => owner.upload(Buffer.from('a file'), { filename: 'a.txt' });

async function canceledFile(): Promise<string> {
  const id = await newFile();
  await made(`/api/files/${id}/cancel`, {});
  return id;
}

async function sentUpload(): Promise<string> {
  const { id, parts } = await made('/api/uploads/presign', { size: 3 });
  const answer = await fetch(parts[0].url, { method: 'PUT', body: 'abc' });
  expect(answer.status).toBe(200);
  return id;
}

const WEBHOOK = { url: 'https://receiver.example/', events: ['file.*'] };

const newWebhook = async (): Promise<string> => (await made('/api/webhooks', WEBHOOK)).id;

/** A user who may create webhooks still. */
const withRoom = () => registerUser(() => processes.url);

/** A file whose step `ask` waits for the answer of a service, and the address for it. */
async function newQuestion(): Promise<Call> {
  const fileId = await newFile();
  const until = new Date(Date.now() + 3_600_000).toISOString();
  await processes.database.query(`UPDATE files SET status = 'processing', steps = $2 WHERE id = $1`, [
    fileId,
    JSON.stringify({ ask: { state: 'waiting', until, ask: '1-1' } }),
  ]);
  const token = signAnswerToken({ fileId, step: 'ask', ask: '1-1' }, answerKey);
  return at(`/api/files/${fileId}/steps/ask?token=${token}`);
}

/** A delivery that has failed for good. */
async function newDelivery(): Promise<string> {
  const id = uuidv7();
  await processes.database.query(
    `INSERT INTO deliveries (id, subscription_id, seq, type, subject_id, state, finished_at)
     VALUES ($1, $2, floor(random() * 1000000) + 1000000, 'file.created', $1, 'failed', now())`,
    [id, webhook],
  );
  return id;
}

const endRescans = () => processes.database.query(`UPDATE rescans SET state = 'done', ended_at = now()`);

/** A scan of all files. No worker runs that could end it. */
async function newRescan(): Promise<string> {
  await endRescans();
  return (await made('/api/admin/rescan', {}, admin)).id;
}

const at = (path: string, more: Omit<Call, 'path'> = {}): Call => ({ path, ...more });
const asAdmin = (): Call[] => [{ as: admin }];
const plainly = (): Call[] => [{}];

/** Every operation. An operation that needs no more than its own address is called `plainly`. */
const OPERATIONS: Record<string, Calls> = {
  'GET /api/auth': plainly,
  'POST /api/auth/register': () => [{ body: { email: newAddress(), password: PASSWORD } }],
  'POST /api/auth/login': () => [{ body: { email: owner.email, password: PASSWORD } }],
  'POST /api/auth/refresh': async () => {
    const { refreshToken } = await logIn(processes.url, owner.email);
    return [{ body: { refreshToken } }];
  },
  'POST /api/auth/logout': async () => {
    const { refreshToken } = await logIn(processes.url, owner.email);
    return [{ body: { refreshToken } }];
  },
  'GET /api/me': plainly,
  'POST /api/me/password': async () => {
    const user = await registerUser(() => processes.url);
    return [{ as: user, body: { currentPassword: PASSWORD, newPassword: 'another long secret' } }];
  },
  'GET /api/me/sessions': plainly,
  'DELETE /api/me/sessions/{id}': async () => {
    const { as } = await newSession(() => processes.url, owner.email);
    const { items } = await as.get('/api/me/sessions');
    const { id } = items.find((one: { current: boolean }) => one.current);
    return [at(`/api/me/sessions/${id}`)];
  },
  'DELETE /api/me/sessions': plainly,
  'GET /api/keys': plainly,
  'POST /api/keys': () => [{ body: { name: 'a key', scopes: ['read'] } }],
  'DELETE /api/keys/{id}': async () => {
    const { id } = await made('/api/keys', { name: 'another', scopes: ['read'] });
    return [at(`/api/keys/${id}`)];
  },
  'GET /api/upload-tokens': plainly,
  'POST /api/upload-tokens': () => [{ body: { label: 'a guest', types: ['image/*'] } }],
  'DELETE /api/upload-tokens/{id}': async () => {
    const { id } = await made('/api/upload-tokens', {});
    return [at(`/api/upload-tokens/${id}`)];
  },
  'GET /api/files': () => [
    at('/api/files?q=image'),
    at('/api/files?limit=1&sort=-size'),
    at('/api/files?deleted=1'),
  ],
  'POST /api/files': () => [at('/api/files?filename=a.json', { body: { in: 'a file' } })],
  'GET /api/files/{id}': () => [at(`/api/files/${image}`)],
  'PATCH /api/files/{id}': async () => [at(`/api/files/${await newFile()}`, { body: { filename: 'b.txt' } })],
  'DELETE /api/files/{id}': async () => {
    const [soon, forGood] = await Promise.all([newFile(), newFile()]);
    return [at(`/api/files/${soon}`), at(`/api/files/${forGood}?permanent=1`)];
  },
  'GET /api/files/{id}/events': () => [at(`/api/files/${image}/events`)],
  'GET /api/files/{id}/status': () => [at(`/api/files/${image}/status`)],
  'POST /api/files/{id}/restore': async () => {
    const id = await newFile();
    await owner.fetch(`/api/files/${id}`, { method: 'DELETE' });
    return [at(`/api/files/${id}/restore`)];
  },
  'POST /api/files/{id}/retry': async () => [at(`/api/files/${await canceledFile()}/retry`)],
  'POST /api/files/{id}/cancel': async () => [at(`/api/files/${await newFile()}/cancel`)],
  'POST /api/files/{id}/pause': async () => [at(`/api/files/${await newFile()}/pause`)],
  'POST /api/files/{id}/resume': async () => {
    const id = await newFile();
    await made(`/api/files/${id}/pause`, {});
    return [at(`/api/files/${id}/resume`)];
  },
  'POST /api/files/{id}/process': () => [at(`/api/files/${text}/process`, { body: { priority: 'low' } })],
  'POST /api/files/batch': () => [{ body: { ids: [image, uuidv7()], action: 'pause' } }],
  'POST /api/files/{id}/steps/{step}': async () => [
    { ...(await newQuestion()), body: { facts: { seen: true } } },
    { ...(await newQuestion()), body: { outcome: 'failed', reason: 'no' } },
  ],
  'GET /api/processing/estimate': () => [at('/api/processing/estimate?size=1000&type=image/jpeg')],
  'GET /api/processing/settings/{type}': () => [at('/api/processing/settings/image%2Fjpeg')],
  'GET /api/processing/settings/{type}/{subtype}': () => [
    at('/api/processing/settings/image/jpeg'),
    at('/api/processing/settings/text/plain'),
  ],
  'POST /api/processing/settings/validate': () => [
    { body: { settings: { quality: 70 }, type: 'image/png' } },
    { body: { settings: { quality: 0, size: 1 } } },
  ],
  'GET /api/files/{id}/content': () => contentCalls(`/api/files/${image}/content`),
  'GET /api/files/{id}/thumbnails/{size}': () => contentCalls(`/api/files/${image}/thumbnails/small`),
  'GET /api/files/{id}/optimized': () => contentCalls(`/api/files/${image}/optimized`),
  'GET /api/files/{id}/derived/{name}': () => contentCalls(`/api/files/${image}/derived/thumbnail-small`),
  'GET /api/events': plainly,
  'POST /api/events/link': plainly,
  'GET /api/webhooks': plainly,
  'POST /api/webhooks': async () => [{ as: await withRoom(), body: WEBHOOK }],
  'GET /api/webhooks/{id}': () => [at(`/api/webhooks/${webhook}`)],
  'PATCH /api/webhooks/{id}': () => [at(`/api/webhooks/${webhook}`, { body: { enabled: true } })],
  'DELETE /api/webhooks/{id}': async () => [at(`/api/webhooks/${await newWebhook()}`)],
  'POST /api/webhooks/{id}/rotate-secret': () => [at(`/api/webhooks/${webhook}/rotate-secret`)],
  'POST /api/webhooks/{id}/replay': async () => [
    at(`/api/webhooks/${await newWebhook()}/replay`, { body: { from: '2026-01-01T00:00:00Z' } }),
  ],
  'POST /api/webhooks/{id}/test': () => [at(`/api/webhooks/${webhook}/test`)],
  'GET /api/webhooks/{id}/deliveries': () => [at(`/api/webhooks/${webhook}/deliveries?state=failed`)],
  'POST /api/webhooks/deliveries/{id}/redeliver': async () => [
    at(`/api/webhooks/deliveries/${await newDelivery()}/redeliver`),
  ],
  'GET /api/uploads': async () => {
    await owner.create(100);
    return [at('/api/uploads?limit=1')];
  },
  'GET /api/uploads/info': plainly,
  'GET /api/uploads/{id}': async () => [
    at(`/api/uploads/${(await owner.create(100)).split('/').at(-1)}`),
    at(`/api/uploads/${image}`),
  ],
  'POST /api/uploads/presign': () => [{ body: { size: 3, filename: 'direct.txt' } }],
  'POST /api/uploads/complete': async () => [{ body: { id: await sentUpload() } }],
  'GET /api/stats': plainly,
  'GET /api/stats/types': plainly,
  'GET /api/admin/stats': asAdmin,
  'GET /api/admin/users': asAdmin,
  'PATCH /api/admin/users/{id}': () => [
    at(`/api/admin/users/${owner.id}`, { as: admin, body: { maxFiles: 'default' } }),
  ],
  'GET /api/admin/webhooks': () => [at('/api/admin/webhooks?limit=1', { as: admin })],
  'POST /api/admin/webhooks/{id}/test': () => [at(`/api/admin/webhooks/${webhook}/test`, { as: admin })],
  'GET /api/admin/jobs': () => [at('/api/admin/jobs?limit=1&status=completed', { as: admin })],
  'GET /api/admin/jobs/failures': () => [at('/api/admin/jobs/failures', { as: admin })],
  'POST /api/admin/jobs/retry': () => [at('/api/admin/jobs/retry', { as: admin, body: { step: 'verify' } })],
  'GET /api/admin/jobs/{id}': () => [at(`/api/admin/jobs/${image}-1`, { as: admin })],
  'POST /api/admin/jobs/{id}/retry': async () => [
    at(`/api/admin/jobs/${await canceledFile()}-1/retry`, { as: admin }),
  ],
  'DELETE /api/admin/jobs/{id}': async () => [at(`/api/admin/jobs/${await canceledFile()}-1`, { as: admin })],
  'POST /api/admin/files/{id}/rescan': () => [at(`/api/admin/files/${image}/rescan`, { as: admin })],
  'POST /api/admin/rescan': async () => {
    await endRescans();
    return [
      { as: admin, body: { outdated: true, version: 'ClamAV 1', scannedBefore: '2026-01-01T00:00:00Z' } },
    ];
  },
  'GET /api/admin/rescans': () => [at('/api/admin/rescans?limit=1', { as: admin })],
  'GET /api/admin/rescans/{id}': async () => [at(`/api/admin/rescans/${await newRescan()}`, { as: admin })],
  'DELETE /api/admin/rescans/{id}': async () => [
    at(`/api/admin/rescans/${await newRescan()}`, { as: admin }),
  ],
  'GET /api/admin/queue': asAdmin,
  'POST /api/admin/queue/pause': asAdmin,
  'POST /api/admin/queue/resume': asAdmin,
  'GET /api/admin/invitations': async () => {
    await made('/api/admin/invitations', { email: newAddress() }, admin);
    return asAdmin();
  },
  'POST /api/admin/invitations': () => [{ as: admin, body: { expiresInHours: 1 } }],
  'DELETE /api/admin/invitations/{id}': async () => {
    const { id } = await made('/api/admin/invitations', {}, admin);
    return [at(`/api/admin/invitations/${id}`, { as: admin })];
  },
  'GET /api/admin/hooks': asAdmin,
  'POST /api/admin/hooks/test': asAdmin,
  'GET /api/admin/audit': asAdmin,
  'GET /api/admin/audit/export': asAdmin,
  'GET /health': plainly,
  'GET /health/detailed': asAdmin,
  'GET /api/admin/log-level': async () => {
    await call('PUT /api/admin/log-level', { as: admin, body: { level: 'error', seconds: 60 } });
    return asAdmin();
  },
  'PUT /api/admin/log-level': () => [
    { as: admin, body: { level: 'error', seconds: 60 } },
    { as: admin, body: { level: null } },
  ],
  'GET /health/live': plainly,
  'GET /health/ready': plainly,
  'GET /metrics': () => [{ as: useAccount(owner, METRICS_TOKEN, () => processes.url) }],
  'GET /openapi.json': plainly,
};

function contentCalls(path: string): Call[] {
  return [at(path), at(path, { headers: { Range: 'bytes=0-9' } })];
}

async function call(name: string, { path, as = owner, body, headers }: Call): Promise<Response> {
  return as.fetch(path ?? pathOf(name), {
    method: methodOf(name),
    headers: { ...(body === undefined ? {} : { 'Content-Type': 'application/json' }), ...headers },
    redirect: 'manual',
    ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
  });
}

const methodOf = (name: string) => name.split(' ')[0] ?? '';
const pathOf = (name: string) => name.split(' ')[1] ?? '';

/** Faults that callers make, each with its status. */
type Fault = [what: string, call: Call, status: number];

/** More headers than the server takes. */
const MANY_HEADERS = Object.fromEntries(Array.from({ length: 101 }, (_, n) => [`X-${n}`, '1']));

/** All faults that can be made with the operation; `good` is a call that would succeed. */
function faultsOf(name: string, good: Call): Fault[] {
  const { security, parameters, requestBody } = operationOf(name);
  const ask = (more: Partial<Call>): Call => ({ ...good, ...more });
  const path = good.path ?? pathOf(name);
  const needed = security[0]?.bearer?.[0];
  const secured: Fault[] = [
    ['without a valid token', ask({ as: useAccount(owner, 'none', () => processes.url) }), 401],
    ['without the right', ask({ as: needed === 'upload' ? reader : uploader }), 403],
  ];
  const onOne: Fault[] = [
    [
      'of an unknown id',
      ask({ path: pathOf(name).replace('{id}', uuidv7()).replace('{size}', 'small') }),
      404,
    ],
    [
      'of an id that is none',
      ask({ path: pathOf(name).replace('{id}', 'none').replace('{size}', 'small') }),
      404,
    ],
  ];
  const withJson: Fault[] = [
    ['with half of a body', ask({ body: '{' }), 400],
    ['with a body of another kind', ask({ body: '[]' }), 400],
    ['with a large body', ask({ body: { x: 'x'.repeat(2 ** 20) } }), 413],
    ['with a body that is no JSON', ask({ body: 'x', headers: { 'Content-Type': 'text/plain' } }), 415],
  ];
  const query = parameters.filter((one) => one.in === 'query');
  const withQuery = query.map(({ name: field }): Fault => {
    // U+0000, which no parameter takes.
    return [`with a bad ${field}`, ask({ path: `${path.split('?')[0]}?${field}=%00` }), 400];
  });
  const isKeyed = parameters.some((one) => one.name === 'Idempotency-Key');
  return [
    ['with too many headers', ask({ headers: { ...good.headers, ...MANY_HEADERS } }), 431],
    ...(needed ? secured : []),
    ...(pathOf(name).includes('{id}') ? onOne : []),
    // A body of any type has no schema.
    ...(requestBody?.content['application/json']?.schema ? withJson : []),
    ...withQuery,
    ...(isKeyed ? [['with a bad key', ask({ headers: { 'Idempotency-Key': 'none' } }), 400] as Fault] : []),
  ];
}

function operationOf(name: string): Operation {
  const operation = contract.operations.get(name);
  if (!operation) throw new Error(`${name} is not in the document`);
  return operation;
}

/** The described statuses of success. The server redirects no one; another test asks one that does. */
const successesOf = (name: string) =>
  Object.keys(operationOf(name).responses)
    .map(Number)
    .filter((status) => status < 400 && status !== 302);

/** Faults in what the operation itself does, which depend on the state: each gets a problem of its own. */
const CONFLICTS: Record<string, () => Promise<Fault[]> | Fault[]> = {
  'POST /api/auth/register': () => [
    ['of a taken address', { body: { email: owner.email, password: PASSWORD } }, 409],
    [
      'of another page',
      { body: { email: newAddress(), password: PASSWORD }, headers: { Origin: 'https://evil.example' } },
      403,
    ],
  ],
  'POST /api/auth/login': () => [
    ['with a wrong password', { body: { email: owner.email, password: 'a wrong one' } }, 401],
  ],
  'POST /api/auth/refresh': () => [['with a wrong token', { body: { refreshToken: 'a wrong one' } }, 401]],
  'POST /api/admin/jobs/{id}/retry': () => [
    ['not failed', at(`/api/admin/jobs/${image}-1/retry`, { as: admin }), 409],
  ],
  'POST /api/admin/files/{id}/rescan': async () => [
    ['not scanned yet', at(`/api/admin/files/${await newFile()}/rescan`, { as: admin }), 409],
  ],
  'POST /api/admin/rescan': async () => {
    await newRescan();
    return [['while another one runs', { as: admin, body: {} }, 409]];
  },
  'DELETE /api/admin/rescans/{id}': async () => {
    const id = await newRescan();
    await endRescans();
    return [['that has ended', at(`/api/admin/rescans/${id}`, { as: admin }), 409]];
  },
  'POST /api/files/{id}/restore': () => [['not in the trash', at(`/api/files/${image}/restore`), 409]],
  'POST /api/files/{id}/retry': () => [['not failed', at(`/api/files/${image}/retry`), 409]],
  'POST /api/files/{id}/cancel': () => [['complete', at(`/api/files/${image}/cancel`), 409]],
  'POST /api/files/{id}/pause': () => [['complete', at(`/api/files/${image}/pause`), 409]],
  'POST /api/files/{id}/resume': () => [['not paused', at(`/api/files/${image}/resume`), 409]],
  'POST /api/files/{id}/steps/{step}': async () => {
    const answered = await newQuestion();
    expect((await call('POST /api/files/{id}/steps/{step}', { ...answered, body: {} })).status).toBe(204);
    return [
      [
        'with another token',
        at(`/api/files/${image}/steps/ask?token=1-1.${'A'.repeat(43)}`, { body: {} }),
        404,
      ],
      ['a second time', { ...answered, body: {} }, 409],
      ['with unknown fields', { ...(await newQuestion()), body: { fact: 1 } }, 400],
      ['with a large body', { ...(await newQuestion()), body: { x: 'x'.repeat(13 * 2 ** 20) } }, 413],
      [
        'with no JSON',
        { ...(await newQuestion()), body: 'x', headers: { 'Content-Type': 'text/plain' } },
        415,
      ],
    ];
  },
  'GET /api/files/{id}/content': async () => {
    const path = `/api/files/${image}/content`;
    return [
      ['not scanned yet', at(`/api/files/${await newFile()}/content`), 409],
      ['in another form', at(path, { headers: { 'If-Match': '"another"' } }), 412],
      ['beyond its end', at(path, { headers: { Range: 'bytes=999999-' } }), 416],
    ];
  },
  'POST /api/uploads/complete': async () => {
    const { id } = await made('/api/uploads/presign', { size: 3 });
    return [['without its bytes', { body: { id } }, 409]];
  },
  'GET /metrics': () => [['with another token', {}, 401]],
  'POST /api/keys': async () => {
    const headers = { 'Idempotency-Key': '"one key for two requests"' };
    const first = await call('POST /api/keys', { body: { name: 'a', scopes: ['read'] }, headers });
    expect(first.status).toBe(201);
    return [['with a used key', { body: { name: 'b', scopes: ['read'] }, headers }, 422]];
  },
  'POST /api/webhooks': () => [
    ['with a private address', { body: { ...WEBHOOK, url: 'http://10.0.0.1/' } }, 400],
    ['with an unknown type', { body: { ...WEBHOOK, events: ['file.eaten'] } }, 400],
    ['for the events of all', { body: { ...WEBHOOK, scope: 'all' } }, 403],
  ],
  'POST /api/webhooks/{id}/replay': async () => {
    const path = `/api/webhooks/${await newWebhook()}/replay`;
    await made(path, { from: '2026-01-01T00:00:00Z' });
    return [['while another one is under way', at(path, { body: { from: '2026-01-01T00:00:00Z' } }), 409]];
  },
  'POST /api/webhooks/{id}/test': async () => {
    const id = await newWebhook();
    await call('PATCH /api/webhooks/{id}', { path: `/api/webhooks/${id}`, body: { enabled: false } });
    return [['of a disabled one', at(`/api/webhooks/${id}/test`), 409]];
  },
  'POST /api/webhooks/deliveries/{id}/redeliver': async () => {
    const path = `/api/webhooks/deliveries/${await newDelivery()}/redeliver`;
    await made(path, {});
    return [['that is not finished', at(path), 409]];
  },
  'POST /api/files': () => [
    ['with a wrong sum', at(`/api/files?sha256=${'0'.repeat(64)}`, { body: {} }), 422],
    ['in an unknown coding', { body: {}, headers: { 'Content-Encoding': 'none' } }, 415],
  ],
};

test('the table has each operation of the document, and no other', () => {
  expect(Object.keys(OPERATIONS).sort()).toEqual([...contract.operations.keys()].sort());
});

describe.each(Object.entries(OPERATIONS))('%s', (name, calls) => {
  test('succeeds as described, with each of its statuses', async () => {
    const seen = new Set<number>();
    const see = async (one: Call) => {
      const answer = await call(name, one);
      seen.add(answer.status);
      expect(await contract.faultOf(name, answer)).toBeUndefined();
      return answer;
    };
    const all = await calls();
    for (const one of all) await see(one);
    const [first = {}] = all;
    // The worker may change what is shown in between.
    const isUnchanged = async () => {
      const etag = (await see(first)).headers.get('ETag') ?? '';
      return (await see({ ...first, headers: { ...first.headers, 'If-None-Match': etag } })).status === 304;
    };
    if (successesOf(name).includes(304)) await until('an unchanged answer', isUnchanged);
    expect([...seen].sort()).toEqual(successesOf(name));
  });

  test('refuses as described', async () => {
    const [good = {}] = await calls();
    const faults = [...faultsOf(name, good), ...((await CONFLICTS[name]?.()) ?? [])];
    const answers = [];
    for (const [what, one] of faults) {
      const answer = await call(name, one);
      answers.push([what, answer.status, await contract.faultOf(name, answer)]);
    }
    expect(answers).toEqual(faults.map(([what, , status]) => [what, status, undefined]));
  });
});

test('content is redirected as described if clients are to fetch it from the storage', async () => {
  await processes.start('server-2', { S3_REDIRECT: 'true' });
  const as = owner.at(() => processes.urlOf('server-2'));
  for (const name of ['GET /api/files/{id}/content', 'GET /api/files/{id}/thumbnails/{size}']) {
    const path = pathOf(name).replace('{id}', image).replace('{size}', 'small');
    const answer = await call(name, { path, as });
    expect([name, answer.status, await contract.faultOf(name, answer)]).toEqual([name, 302, undefined]);
  }
});

describe('the check', () => {
  const json = (body: object, init: ResponseInit = {}) => Response.json(body, init);
  const faultOf = (answer: Response) => contract.faultOf('GET /api/auth', answer);

  test('passes what the document describes, and further fields, which clients must expect', async () => {
    expect(await faultOf(json({ registration: 'open', signIn: true }))).toBeUndefined();
    expect(await faultOf(json({ registration: 'open', signIn: true, more: 1 }))).toBeUndefined();
  });

  test.each([
    [
      'another status',
      () => json({ registration: 'open', signIn: true }, { status: 202 }),
      /202 is not described/,
    ],
    ['another media type', () => new Response('open'), /is text\/plain/],
    ['another value', () => json({ registration: 'ajar', signIn: true }), /must be equal/],
    ['a missing field', () => json({}), /required property/],
    [
      'a problem that is none',
      () => json({}, { status: 400, headers: { 'Content-Type': 'application/problem+json' } }),
      /required property/,
    ],
  ])('finds %s', async (_what, answer, fault) => {
    expect(await faultOf(answer())).toMatch(fault);
  });

  test('finds an answer of a route that the document leaves out', async () => {
    expect(await contract.faultOf('GET /api/secret', json({}))).toMatch(/200 is not described/);
  });
});
