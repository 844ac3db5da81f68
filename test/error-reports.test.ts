import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';
import { registerUser, type TestUser } from './support/client.js';
import { type Processes, startProcesses } from './support/processes.js';
import { send } from './support/sign-in.js';
import { until } from './support/until.js';

/* With SENTRY_DSN unexpected errors are reported, with the ids by which the log is found, and without personal data. */

interface Report {
  event_id: string;
  level: string;
  logger: string;
  message: string;
  tags: Record<string, string>;
  exception: { values: { type: string; value: string; stacktrace: { frames: { filename: string }[] } }[] };
}

let receiver: Server;
let dsn: string;
let processes: Processes;
let user: TestUser;
let isHanging = false;
const requests: { url: string; auth: string; body: string }[] = [];

beforeAll(async () => {
  receiver = createServer(async (req, res) => {
    if (isHanging) return;
    const body = await text(req);
    requests.push({ url: req.url ?? '', auth: String(req.headers['x-sentry-auth']), body });
    res.end('{}');
  });
  receiver.listen(0, '127.0.0.1');
  await once(receiver, 'listening');
  dsn = `http://a-key@127.0.0.1:${(receiver.address() as AddressInfo).port}/base/42`;
  processes = await startProcesses({ SENTRY_DSN: dsn, LOG_LEVEL: 'error', JOB_ATTEMPTS: '1' });
  user = await registerUser(() => processes.url);
});

afterAll(async () => {
  await processes?.close();
  receiver?.closeAllConnections();
  receiver?.close();
});

function reports(): Report[] {
  return requests.map(({ body }) => JSON.parse(body.split('\n')[2] ?? ''));
}

const reported = (what: string, test: (report: Report) => boolean) => until(what, () => reports().find(test));

/** Each UPDATE of files that sets `column` fails, with an error that quotes the file's name. */
const failOnUpdateOf = (column: string) => `
  CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'cannot keep %', NEW.filename; END $$;
  CREATE TRIGGER fail BEFORE UPDATE OF ${column} ON files FOR EACH ROW EXECUTE FUNCTION fail()`;

const repair = 'DROP TRIGGER fail ON files; DROP FUNCTION fail';

test('a request that fails with 500 is reported with its id, and nothing of its content', async () => {
  const id = await user.upload(Buffer.from('bytes'), { filename: 'secret.txt' });
  await user.settled(id);
  await processes.database.query(failOnUpdateOf('filename'));
  const answer = await send(user, 'PATCH', `/api/files/${id}`, { filename: 'secret-too.txt' });
  await processes.database.query(repair);
  expect(answer.status).toBe(500);
  const requestId = answer.headers.get('X-Request-Id');
  const report = await reported('the request', ({ tags }) => tags.request_id === requestId);
  expect(report).toMatchObject({ level: 'error', logger: 'server', message: 'request failed' });
  expect(report.event_id).toMatch(/^[0-9a-f]{32}$/);
  const [exception] = report.exception.values;
  expect(exception?.stacktrace.frames.length).toBeGreaterThan(0);
  for (const { filename } of exception?.stacktrace.frames ?? [])
    expect(filename).not.toContain(process.cwd());
  expect(requests[0]).toMatchObject({
    url: '/base/api/42/envelope/',
    auth: expect.stringContaining('sentry_key=a-key'),
  });
});

test('a step that crashes is reported with upload and job, a faulty file is not', async () => {
  const sha256 = createHash('sha256').update('something else').digest('hex');
  const faulty = await user.upload(Buffer.from('bytes'), { filename: 'secret.txt', sha256 });
  expect(await user.settled(faulty)).toMatchObject({ status: 'failed' });
  await processes.database.query(failOnUpdateOf('sha256'));
  const id = await user.upload(Buffer.from('bytes'), { filename: 'secret.txt' });
  const report = await reported('the step', ({ tags }) => tags.upload_id === id);
  await processes.database.query(repair);
  expect(report).toMatchObject({ logger: 'worker', tags: { job_id: `${id}-1`, step: expect.any(String) } });
  expect(report.tags.request_id).toBeTruthy();
  expect(reports().filter(({ tags }) => tags.upload_id === faulty)).toEqual([]);
});

test('a pass that fails is reported', async () => {
  await processes.database.query('ALTER TABLE keyed_requests RENAME TO away');
  await processes.stop('worker');
  await processes.start('worker');
  const report = await reported('the pass', ({ message }) => message.includes('requests with a key'));
  await processes.database.query('ALTER TABLE away RENAME TO keyed_requests');
  expect(report).toMatchObject({ logger: 'worker', exception: { values: [{ value: '42P01' }] } });
});

test('no report holds a name of a file, a token or an address', () => {
  expect(requests.length).toBeGreaterThanOrEqual(3);
  const all = JSON.stringify(requests);
  for (const hidden of ['secret', user.token, user.email, '127.0.0.1']) expect(all).not.toContain(hidden);
});

test('a receiver that does not answer delays neither an answer nor the end of the process', async () => {
  isHanging = true;
  await processes.database.query('ALTER TABLE api_keys RENAME TO away');
  for (let n = 0; n < 30; n++) expect((await user.fetch('/api/keys')).status).toBe(500);
  await processes.database.query('ALTER TABLE away RENAME TO api_keys');
  expect(await processes.stop('server')).toBe(0);
});
