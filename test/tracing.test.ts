import { randomBytes } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { encodeMetadata, idOf, registerUser, type TestUser } from './support/client.js';
import { type OtlpReceiver, startOtlpReceiver } from './support/otlp.js';
import { type Processes, startProcesses } from './support/processes.js';

/* With OTEL_EXPORTER_OTLP_ENDPOINT one trace leads from the request through the job. */

let receiver: OtlpReceiver;
let processes: Processes;
let user: TestUser;

beforeAll(async () => {
  receiver = await startOtlpReceiver();
  processes = await startProcesses({ OTEL_EXPORTER_OTLP_ENDPOINT: receiver.url });
  user = await registerUser(() => processes.url);
});

afterAll(async () => {
  await processes?.close();
  await receiver?.close();
});

const caller = { traceId: randomBytes(16).toString('hex'), spanId: randomBytes(8).toString('hex') };

test('an upload, its job and its steps are one trace, that of the caller; stopping sends the last spans', async () => {
  const created = await user.tus(
    'POST',
    '/uploads',
    {
      'Upload-Length': '5',
      'Upload-Metadata': encodeMetadata({ filename: 'a secret name.txt' }),
      'Content-Type': 'application/offset+octet-stream',
      traceparent: `00-${caller.traceId}-${caller.spanId}-01`,
    },
    Buffer.from('bytes'),
  );
  expect(created.status).toBe(201);
  const id = idOf(created.headers.get('Location') ?? '');
  expect(await user.settled(id)).toMatchObject({ status: 'completed' });
  await processes.stop('worker');
  await processes.stop('server');

  const mine = receiver.spans.filter(({ traceId }) => traceId === caller.traceId);
  const byName = new Map(mine.map((span) => [span.name, span]));
  const parentOf = (name: string) => byName.get(name)?.parentSpanId;
  expect([...byName.keys()].sort()).toEqual([
    'POST /uploads',
    'job',
    'settle',
    ...['document', 'media', 'metadata', 'optimize', 'preview', 'scan', 'sniff', 'thumbnails', 'verify'].map(
      (step) => `step ${step}`,
    ),
  ]);
  expect(mine).toHaveLength(byName.size);
  expect(parentOf('POST /uploads')).toBe(caller.spanId);
  expect(parentOf('settle')).toBe(byName.get('POST /uploads')?.spanId);
  expect(parentOf('job')).toBe(byName.get('settle')?.spanId);
  for (const { name } of mine.filter((span) => span.name.startsWith('step '))) {
    expect(parentOf(name)).toBe(byName.get('job')?.spanId);
  }
  expect(byName.get('POST /uploads')?.kind).toBe(2);
  const attributes = new Map(byName.get('job')?.attributes.map(({ key, value }) => [key, value]));
  expect(attributes.get('landfall.upload_id')).toEqual({ stringValue: id });
  expect(attributes.get('landfall.request_id')).toEqual({ stringValue: created.headers.get('X-Request-Id') });
  await Promise.all([processes.start('server'), processes.start('worker')]);
});

test('spans are named by routes, and hold no paths, names, tokens or addresses', async () => {
  const secret = 'secret-in-a-path';
  expect((await user.fetch(`/api/files/${secret}?token=secret-in-a-query`)).status).toBe(404);
  expect((await user.fetch(`/${secret}`)).status).toBe(404);
  await user.upload(Buffer.from('x'), { filename: 'secret-name' });
  await processes.stop('server');
  await processes.start('server');
  const names = receiver.spans.map(({ name }) => name);
  expect(names).toEqual(expect.arrayContaining(['GET /api/files/:id', 'GET /{*path}', 'POST /uploads']));
  for (const hidden of ['secret', user.token, user.email, '127.0.0.1'])
    expect(receiver.text()).not.toContain(hidden);
});

test('a receiver that answers nothing, or is gone, delays nothing', async () => {
  receiver.hang();
  for (const away of [async () => {}, () => receiver.close()]) {
    await away();
    const ids = await Promise.all(Array.from({ length: 10 }, () => user.upload(randomBytes(10))));
    for (const id of ids) expect(await user.settled(id)).toMatchObject({ status: 'completed' });
    expect([await processes.stop('worker'), await processes.stop('server')]).toEqual([0, 0]);
    await Promise.all([processes.start('server'), processes.start('worker')]);
  }
  receiver = await startOtlpReceiver();
});

test.each(['server', 'worker'])('without the variable the %s loads nothing of OpenTelemetry', (part) => {
  const seen = new Set<string>();
  const packages = new Set<string>();
  const visit = (file: string) => {
    if (seen.has(file) || !existsSync(file)) return;
    seen.add(file);
    for (const [, path = ''] of readFileSync(file, 'utf8').matchAll(
      /^(?:import|export)\b[^;]*?'([^']+)';/gm,
    )) {
      if (path.startsWith('.')) visit(resolve(dirname(file), path));
      else packages.add(path);
    }
  };
  visit(resolve(`dist/${part}/main.js`));
  expect(packages).toContain('pino');
  expect([...packages].filter((name) => /opentelemetry|nats-io/.test(name))).toEqual([]);
});
