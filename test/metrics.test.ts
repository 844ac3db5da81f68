import { randomBytes } from 'node:crypto';
import { registerUser, type TestUser } from './support/client.js';
import { makePng } from './support/fixtures.js';
import { type HookReceiver, startHookReceiver } from './support/hook-receiver.js';
import { metricsIn, readText, type Scrape, scrape } from './support/metrics.js';
import { runPasses } from './support/passes.js';
import { type Processes, startProcesses } from './support/processes.js';
import { type Receiver, startReceiver } from './support/receiver.js';
import { createBucket, type TestBucket } from './support/s3.js';
import { freePort } from './support/services/port.js';
import { until } from './support/until.js';
import { makeDue } from './support/uploads.js';

/* The metrics of a real server and a real worker after real uploads. */

const TOKEN = 'a-token-of-the-test-suite';
const MIB = 1024 * 1024;

let bucket: TestBucket;
let processes: Processes;
let hook: HookReceiver;
let receiver: Receiver;
let user: TestUser;
const ports = { server: 0, worker: 0 };

beforeAll(async () => {
  bucket = await createBucket();
  Object.assign(ports, { server: await freePort(), worker: await freePort() });
  [hook, receiver] = await Promise.all([startHookReceiver(), startReceiver()]);
  processes = await startProcesses(
    {
      ...bucket.env,
      METRICS_TOKEN: TOKEN,
      RATE_LIMIT_PROCESSING: '3/1h',
      HOOK_URL: hook.url,
      HOOK_EVENTS: 'pre-create',
      HOOK_ATTEMPTS: '1',
      WEBHOOK_ALLOW_PRIVATE: 'true',
      WEBHOOK_RETRY_SECONDS: '1',
    },
    [],
  );
  await processes.start('server', { METRICS_PORT: String(ports.server) });
  await processes.start('worker', { METRICS_PORT: String(ports.worker) });
  user = await registerUser(() => processes.url);
});

afterAll(async () => {
  await processes?.close();
  await Promise.all([bucket?.drop(), hook?.close(), receiver?.close()]);
});

const read = (part: 'server' | 'worker') => scrape(`http://127.0.0.1:${ports[part]}`, TOKEN);

/** The sum over both processes: events are counted by the one that numbers them. */
async function total(name: string, labels?: Record<string, string>): Promise<number> {
  const both = await Promise.all([read('server'), read('worker')]);
  return both.reduce((sum, one) => sum + one.sum(name, labels), 0);
}

/** Waits until a figure has grown by exactly `growth` since `before`. */
async function grownBy(growth: number, before: number, name: string, labels?: Record<string, string>) {
  await until(`${name} to grow by ${growth}`, async () => (await total(name, labels)) >= before + growth);
  expect([name, labels, (await total(name, labels)) - before]).toEqual([name, labels, growth]);
}

const outcome = (name: string) => ['landfall_uploads_total', { outcome: name }] as const;

test('an upload and its processing are counted, once in both processes together', async () => {
  const steps = ['landfall_steps_total', { outcome: 'done' }] as const;
  const before = {
    created: await total(...outcome('created')),
    completed: await total(...outcome('completed')),
    bytes: await total('landfall_upload_bytes_total'),
    steps: await total(...steps),
    files: await total('landfall_events_total', { type: 'file.completed', result: 'ok' }),
  };
  const image = Buffer.concat([await makePng({ width: 400, height: 300 }), randomBytes(6 * MIB)]);
  const { steps: ended } = await user.settled(await user.tusUpload(image, { chunkSize: 5 * MIB }));
  await grownBy(1, before.created, ...outcome('created'));
  await grownBy(1, before.completed, ...outcome('completed'));
  await grownBy(image.length, before.bytes, 'landfall_upload_bytes_total');
  await grownBy(1, before.files, 'landfall_events_total', { type: 'file.completed', result: 'ok' });
  const done = Object.values(ended).filter(({ state }) => state === 'done').length;
  expect(done).toBeGreaterThan(3);
  await grownBy(done, before.steps, ...steps);
  expect(await total('landfall_step_duration_seconds_count', { step: 'thumbnails' })).toBeGreaterThan(0);
  const server = await read('server');
  expect(
    server.sum('landfall_store_send_duration_seconds_count', { kind: 'part', result: 'ok' }),
  ).toBeGreaterThan(0);
  expect(server.sum('landfall_store_send_duration_seconds_count', { result: 'failed' })).toBe(0);
});

test('uploads that end without a file are counted by their outcome', async () => {
  const before = {
    terminated: await total(...outcome('terminated')),
    expired: await total(...outcome('expired')),
    refused: await total(...outcome('refused')),
    created: await total(...outcome('created')),
  };
  const [one, other] = [await user.create(10), await user.create(10)];
  expect((await user.tus('DELETE', one)).status).toBe(204);
  await makeDue(processes.database, other.split('/').at(-1));
  const tooLong = await user.tus('POST', '/uploads', { 'Upload-Length': String(6 * 1024 ** 4) });
  expect(tooLong.status).toBe(413);
  await grownBy(1, before.terminated, ...outcome('terminated'));
  await grownBy(1, before.refused, ...outcome('refused'));
  await grownBy(2, before.created, ...outcome('created'));
  await runPasses(processes, async () => (await total(...outcome('expired'))) > before.expired);
});

test('hooks are counted by type and outcome', async () => {
  const hooks = (name: string) =>
    ['landfall_hook_duration_seconds_count', { hook: 'pre-create', outcome: name }] as const;
  const count = () => Promise.all(['answered', 'refused', 'failed'].map((name) => total(...hooks(name))));
  const before = await count();
  const refused = await total(...outcome('refused'));
  const create = async () => (await user.tus('POST', '/uploads', { 'Upload-Length': '3' })).status;
  expect(await create()).toBe(201);
  hook.answer = () => ({ RejectUpload: true });
  expect(await create()).toBeLessThan(500);
  hook.answer = (_asked, res) => void res.writeHead(400).end();
  expect(await create()).toBeGreaterThanOrEqual(500);
  hook.reset();
  expect((await count()).map((number, n) => number - (before[n] ?? 0))).toEqual([1, 1, 1]);
  // A hook that gives no answer is no fault of the upload.
  expect((await total(...outcome('refused'))) - refused).toBe(1);
});

test('deliveries to webhooks are counted by outcome', async () => {
  const body = JSON.stringify({ url: receiver.url, events: ['file.created'] });
  const headers = { 'Content-Type': 'application/json' };
  expect((await user.fetch('/api/webhooks', { method: 'POST', headers, body })).status).toBe(201);
  const attempts = (name: string) =>
    ['landfall_deliveries_total', { kind: 'webhook', outcome: name }] as const;
  await user.upload(Buffer.from('a file'), { filename: 'a.txt' });
  await grownBy(1, 0, ...attempts('delivered'));
  receiver.answer = (res) => res.writeHead(500).end();
  await user.upload(Buffer.from('another'), { filename: 'a.txt' });
  await grownBy(1, 0, ...attempts('failed'));
  expect(await total(...attempts('retried'))).toBe(1);
  expect(await total('landfall_delivery_duration_seconds_count', { kind: 'webhook' })).toBe(3);
});

test('a request that sends bytes is seen while it does', async () => {
  const path = await user.create(10);
  let end = () => {};
  const body = new ReadableStream({
    start(controller) {
      controller.enqueue(Buffer.from('abc'));
      end = () => controller.close();
    },
  });
  const sending = user.tus('PATCH', path, { 'Upload-Offset': '0' }, body);
  const receiving = async () => (await read('server')).sum('landfall_uploads_receiving');
  await until('the request to be seen', async () => (await receiving()) === 1);
  expect((await read('server')).sum('landfall_uploads_unfinished')).toBeGreaterThan(0);
  end();
  expect((await sending).status).toBe(204);
  expect(await receiving()).toBe(0);
});

test('requests are counted by route, method and class of status, and never by path', async () => {
  const route = { route: '/api/files/:id', method: 'GET', status: '4xx' };
  const before = await read('server');
  for (const id of [randomBytes(4).toString('hex'), randomBytes(4).toString('hex')]) {
    expect((await user.fetch(`/api/files/${id}`)).status).toBe(404);
  }
  const after = await read('server');
  const name = 'landfall_http_requests_total';
  expect(after.sum(name, route) - before.sum(name, route)).toBe(2);
  expect(after.sum(name, { route: '/uploads/:id', method: 'PATCH', status: '2xx' })).toBeGreaterThan(0);
  expect(after.sum('landfall_http_request_duration_seconds_count', { route: '/uploads' })).toBeGreaterThan(0);
});

test('paths and methods that nobody declared make no new series', async () => {
  const odd = async () => {
    const word = randomBytes(6).toString('hex');
    for (const path of [`/${word}`, `/api/${word}`, `/api/files/${word}/x`, `/uploads/${word}/${word}`]) {
      for (const method of ['GET', 'POST', 'PROPFIND']) {
        await (await fetch(`${processes.url}${path}`, { method })).arrayBuffer();
      }
    }
  };
  const http = ({ series }: Scrape) => series.filter((one) => one.startsWith('landfall_http_requests_total'));
  await odd();
  const before = http(await read('server'));
  for (let round = 0; round < 5; round++) await odd();
  expect(http(await read('server')).sort()).toEqual(before.sort());
});

test('requests beyond a rate limit are counted by limit', async () => {
  const limited = { limit: 'processing' };
  const before = (await read('server')).sum('landfall_rate_limited_total', limited);
  const statuses = [];
  for (let n = 0; n < 5; n++) {
    statuses.push((await user.fetch('/api/files/batch', { method: 'POST' })).status);
  }
  const refused = statuses.filter((status) => status === 429).length;
  expect(refused).toBeGreaterThan(0);
  expect((await read('server')).sum('landfall_rate_limited_total', limited) - before).toBe(refused);
});

test('the queue, the log and the process are measured', async () => {
  await processes.stop('worker');
  await user.upload(Buffer.from('a file'), { filename: 'a.txt' });
  await until(
    'the job to be seen',
    async () => (await read('server')).sum('landfall_queue_jobs', { state: 'waiting' }) > 0,
  );
  const aged = async () => (await read('server')).sum('landfall_queue_oldest_job_seconds') > 0;
  await until('the job to grow old', aged);
  await processes.database.query(
    `INSERT INTO event_cursors (name, seq) SELECT 'reader:' || n, seq - n FROM event_head, generate_series(1, 3) AS n`,
  );
  const server = await read('server');
  expect(server.sum('landfall_event_reader_lag', { reader: 'reader' })).toBeGreaterThanOrEqual(3);
  expect(server.sum('landfall_database_connections')).toBeGreaterThan(0);
  expect(server.types.get('landfall_upload_buffer_bytes')).toBe('gauge');
  expect(server.series.filter((one) => one.startsWith('landfall_upload_buffer_bytes')).sort()).toEqual([
    'landfall_upload_buffer_bytes{place="memory"}',
    'landfall_upload_buffer_bytes{place="spool"}',
  ]);
  expect(server.sum('nodejs_eventloop_lag_p99_seconds')).toBeGreaterThan(0);
  await processes.start('worker', { METRICS_PORT: String(ports.worker) });
  expect((await read('worker')).sum('landfall_worker_slots')).toBe(4);
});

describe('the token', () => {
  const status = async (url: string, method = 'GET', headers: Record<string, string> = {}) =>
    (await fetch(url, { method, headers })).status;

  test.each(['server', 'worker'] as const)('is needed on the port of the %s', async (part) => {
    const url = `http://127.0.0.1:${ports[part]}`;
    expect(await status(`${url}/metrics`)).toBe(401);
    expect(await status(`${url}/metrics`, 'GET', { Authorization: `Bearer ${TOKEN}x` })).toBe(401);
    expect(await status(`${url}/metrics`, 'GET', { Authorization: `Bearer ${user.token}` })).toBe(401);
    expect(await status(`${url}/metrics`, 'GET', { Authorization: `Bearer ${TOKEN}` })).toBe(200);
    expect(await status(`${url}/metrics`, 'POST', { Authorization: `Bearer ${TOKEN}` })).toBe(405);
    expect(await status(`${url}/api/files`, 'GET', { Authorization: `Bearer ${TOKEN}` })).toBe(404);
  });

  test('opens the public port too, and is no token for anything else', async () => {
    expect(await status(`${processes.url}/metrics`)).toBe(401);
    const { types } = await scrape(processes.url, TOKEN);
    expect(types.get('landfall_uploads_total')).toBe('counter');
    expect(await status(`${processes.url}/api/files`, 'GET', { Authorization: `Bearer ${TOKEN}` })).toBe(401);
  });

  test('without one the public port tells nothing, and the other port tells everybody', async () => {
    const port = await freePort();
    await processes.start('server-2', { METRICS_TOKEN: '', METRICS_PORT: String(port) });
    expect(await status(`${processes.urlOf('server-2')}/metrics`)).toBe(404);
    expect(await status(`${processes.urlOf('server-2')}/metrics`, 'GET', { Authorization: 'Bearer ' })).toBe(
      404,
    );
    expect((await scrape(`http://127.0.0.1:${port}`)).types.get('landfall_uploads_total')).toBe('counter');
    await processes.stop('server-2');
  });
});

describe('the files for operations', () => {
  const told = async () => {
    const both = await Promise.all([read('server'), read('worker')]);
    return new Set(both.flatMap(({ types }) => [...types.keys()]));
  };

  test.each(['monitoring/alerts.yml', 'monitoring/grafana/landfall.json'])(
    '%s names only metrics that are told',
    async (path) => {
      const names = metricsIn(readText(path));
      const known = await told();
      expect(names.length).toBeGreaterThan(10);
      expect(names.filter((name) => !known.has(name))).toEqual([]);
    },
  );

  test('the dashboard is JSON with a query in each panel', () => {
    const { panels } = JSON.parse(readText('monitoring/grafana/landfall.json'));
    const graphs = panels.filter(({ type }: { type: string }) => type !== 'row');
    expect(graphs.length).toBeGreaterThan(15);
    for (const { targets } of graphs) {
      expect(targets.every(({ expr }: { expr: string }) => metricsIn(expr).length > 0)).toBe(true);
    }
  });

  test('the page for operations lists each metric of ours with its type, and each alert', async () => {
    const page = readText('docs/operations.md');
    const listed = [...page.matchAll(/^\| `(landfall_\w+)` \| (\w+) \|/gm)].map(([, name, type]) => [
      name,
      type,
    ]);
    const both = await Promise.all([read('server'), read('worker')]);
    const ours = new Map(
      both.flatMap(({ types }) => [...types]).filter(([name]) => name.startsWith('landfall_')),
    );
    expect(new Map(listed as [string, string][])).toEqual(ours);
    const alerts = [...readText('monitoring/alerts.yml').matchAll(/alert: (\w+)/g)].map(([, name]) => name);
    expect(alerts.length).toBeGreaterThan(10);
    expect(alerts.filter((name) => !page.includes(`\`${name}\``))).toEqual([]);
  });
});
