import { createHmac } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { v7 as uuidv7 } from 'uuid';
import { type FileJson, registerUser, type TestUser } from './support/client.js';
import { type Processes, startProcesses } from './support/processes.js';
import { type Answering, type Receiver, startReceiver } from './support/receiver.js';
import { until } from './support/until.js';

/* Steps that a service answers, at once or later: the service is this process. */

const SECRET = `whsec_${Buffer.alloc(32, 7).toString('base64')}`;

let folder: string;
let processes: Processes;
let user: TestUser;
let service: Receiver;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'landfall-services-'));
  service = await startReceiver();
  processes = await startProcesses({ JOB_ATTEMPTS: '3' }, ['server']);
  user = await registerUser(() => processes.url);
});

afterEach(async () => {
  await processes?.close();
  await service?.close();
  await rm(folder, { recursive: true, force: true });
});

const env = () => ({ STEPS_FILE: join(folder, 'steps.yaml'), ASK_SECRET: SECRET, PUBLIC_URL: processes.url });

async function startWorker(more: object = {}): Promise<void> {
  const step = { name: 'ask', url: service.url, secretVariable: 'ASK_SECRET', optional: false, ...more };
  await writeFile(env().STEPS_FILE, JSON.stringify({ steps: [step] }));
  await processes.start('worker', env());
}

const json =
  (body: unknown, status = 200): Answering =>
  (res) =>
    res.writeHead(status, { 'Content-Type': 'application/json' }).end(JSON.stringify(body));

const later: Answering = (res) => res.writeHead(202).end();

const upload = (text = 'a text') => user.upload(Buffer.from(text), { filename: 'a.txt' });

/** The question with this number, as soon as the service has got it. */
async function question(number: number) {
  return until(`question ${number}`, () => service.received[number - 1]);
}

/** Waits until the file waits for the service, and no slot of the worker with it. */
async function untilWaiting(id: string): Promise<void> {
  await until('the file to wait', async () => {
    const { rows } = await processes.database.query(
      `SELECT 1 FROM files JOIN bullmq.job ON data ->> 'fileId' = files.id::text
       WHERE files.id = $1 AND steps -> 'ask' ->> 'state' = 'waiting' AND state = 'delayed'`,
      [id],
    );
    return rows.length > 0;
  });
}

async function answer(callback: string, body: unknown = {}): Promise<number> {
  const got = await fetch(callback, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: typeof body === 'string' ? body : JSON.stringify(body),
  });
  await got.arrayBuffer();
  return got.status;
}

type WithDerived = FileJson & { derived: { name: string; contentType: string; link: string }[] };

const settled = async (id: string) => (await user.settled(id)) as WithDerived;

const DERIVED = [
  { name: 'summary', contentType: 'text/plain', base64: Buffer.from('in short').toString('base64') },
  { name: 'icon', contentType: 'image/png', base64: 'iVBORw0KGgo=', width: 3, height: 2 },
];

async function expectAnswered(id: string): Promise<void> {
  const file = await settled(id);
  expect(file).toMatchObject({
    status: 'completed',
    steps: { ask: { state: 'done' } },
    metadata: { ask: { words: 2 } },
    derived: [
      { name: 'ask-icon', contentType: 'image/png', width: 3, height: 2 },
      { name: 'ask-summary', contentType: 'text/plain', size: 8 },
    ],
  });
  const summary = await fetch(`${processes.url}${file.derived[1]?.link}`);
  expect(await summary.text()).toBe('in short');
}

describe('a service that answers at once', () => {
  test('is told of the file in a signed message, can fetch the content, and gives facts and derived files', async () => {
    service.answer = json({ facts: { words: 2 }, derived: DERIVED });
    await startWorker();
    const id = await upload();
    await expectAnswered(id);

    const { headers, text, body } = await question(1);
    expect(body).toEqual({
      step: 'ask',
      file: {
        id,
        filename: 'a.txt',
        size: 6,
        declaredType: null,
        detectedType: 'text/plain',
        sha256: expect.stringMatching(/^[0-9a-f]{64}$/),
        metadata: expect.any(Object),
      },
      content: expect.stringContaining(`${processes.url}/api/files/${id}/content?token=`),
      callback: expect.stringContaining(`${processes.url}/api/files/${id}/steps/ask?token=`),
      deadline: expect.any(String),
    });
    const signed = `${headers['webhook-id']}.${headers['webhook-timestamp']}.${text}`;
    const key = Buffer.from(SECRET.slice('whsec_'.length), 'base64');
    const signature = createHmac('sha256', key).update(signed).digest('base64');
    expect(headers['webhook-signature']).toBe(`v1,${signature}`);
    const content = await fetch(body.content);
    expect([content.status, await content.text()]).toEqual([200, 'a text']);
  });

  test.each<[string, Answering, object]>([
    ['nothing (204)', (res) => res.writeHead(204).end(), { status: 'completed', metadata: {} }],
    [
      'that there is nothing to do',
      json({ outcome: 'skipped', reason: 'too\nshort' }),
      { status: 'completed', steps: { ask: { state: 'skipped', reason: 'too short' } } },
    ],
    [
      'that it failed',
      json({ outcome: 'failed', reason: 'not allowed' }),
      { status: 'failed', attempts: 1, error: { step: 'ask', code: 'step_failed', detail: 'not allowed' } },
    ],
    ['404', json({}, 404), { status: 'failed', attempts: 1, error: { detail: 'The service answered 404' } }],
    [
      'a redirect',
      (res) => res.writeHead(302, { Location: '/elsewhere' }).end(),
      { status: 'failed', attempts: 1, error: { detail: 'The service answered 302' } },
    ],
    [
      'no JSON',
      (res) => res.end('<html>'),
      { status: 'failed', attempts: 1, error: { code: 'step_failed' } },
    ],
    [
      'an unknown field',
      json({ fact: 1 }),
      { status: 'failed', error: { detail: expect.stringContaining('fact') } },
    ],
    [
      'facts that are none',
      json({ facts: [1] }),
      { status: 'failed', error: { detail: expect.stringContaining('facts') } },
    ],
    [
      'a bad name',
      json({ derived: [{ ...DERIVED[0], name: '../x' }] }),
      { status: 'failed', error: { detail: expect.stringContaining('derived.0.name') } },
    ],
    [
      'too much',
      (res) => res.end('x'.repeat(13 * 2 ** 20)),
      { status: 'failed', error: { detail: 'The service answered more than 12582912 bytes' } },
    ],
    [
      '503 each time',
      json({}, 503),
      { status: 'failed', attempts: 3, error: { detail: 'The service answered 503' } },
    ],
  ])('with %s', async (_what, answering, expected) => {
    service.answer = answering;
    await startWorker();
    expect(await settled(await upload())).toMatchObject(expected);
    expect(service.received.length).toBe((expected as { attempts?: number }).attempts ?? 1);
  });

  test('is asked again when it breaks the connection, is silent, or wants to be', async () => {
    const faults: Answering[] = [
      (res) => res.destroy(),
      () => {},
      json({ outcome: 'retry', reason: 'busy' }),
      json({ facts: { at: 'last' } }),
    ];
    service.answer = (res, got) => faults.shift()?.(res, got);
    await processes.stop('server');
    await processes.start('server', { JOB_ATTEMPTS: '5' });
    await startWorker({ timeoutSeconds: 10 });
    expect(await settled(await upload())).toMatchObject({
      status: 'completed',
      attempts: 4,
      metadata: { ask: { at: 'last' } },
    });
  });
});

describe('a service that answers later', () => {
  test('is awaited over restarts of server and worker', async () => {
    service.answer = later;
    await startWorker();
    const id = await upload();
    await untilWaiting(id);
    await Promise.all([processes.kill('worker'), processes.kill('server')]);
    await Promise.all([processes.start('worker', env()), processes.start('server')]);
    const { body } = await question(1);
    expect(await answer(body.callback, { facts: { words: 2 }, derived: DERIVED })).toBe(204);
    await expectAnswered(id);
    expect(service.received.length).toBe(1);
    expect(await settled(id)).toMatchObject({ attempts: 1 });
  });

  test('may answer before it has accepted the question', async () => {
    service.answer = async (res, { body }) => {
      expect(await answer(body.callback, { facts: { words: 2 }, derived: DERIVED })).toBe(204);
      later(res, service.received[0] as never);
    };
    await startWorker();
    await expectAnswered(await upload());
  });

  test('answers once, and only the question that is open', async () => {
    service.answer = later;
    await startWorker();
    const [first, second] = [await upload('the first'), await upload('the second')];
    await Promise.all([untilWaiting(first), untilWaiting(second)]);
    const askedOf = async (id: string, at = 0) => {
      const all = await until('the question', () => {
        const found = service.received.filter(({ body }) => body.file.id === id);
        return found.length > at && found;
      });
      return all[at]?.body.callback as string;
    };
    const callback = await askedOf(first);
    const token = new URL(callback).searchParams.get('token') ?? '';
    const address = callback.split('?')[0] ?? '';

    // No address, a changed one, that of another file, of another step.
    expect(await answer(address)).toBe(404);
    expect(await answer(`${address}?token=${token.slice(0, -3)}AAA`)).toBe(404);
    expect(await answer(`${address}?token=9${token}`)).toBe(404);
    expect(await answer(`${(await askedOf(second)).split('?')[0]}?token=${token}`)).toBe(404);
    expect(await answer(`${address.replace('/ask', '/other')}?token=${token}`)).toBe(404);
    expect(await answer(`${address.replace(first, uuidv7())}?token=${token}`)).toBe(404);
    // A refused answer leaves the question open.
    expect(await answer(callback, '{')).toBe(400);
    expect(await answer(callback, { outcome: 'maybe' })).toBe(400);
    expect(await answer(callback, { facts: { deep: JSON.parse('['.repeat(40) + ']'.repeat(40)) } })).toBe(
      400,
    );
    expect(await answer(callback, { facts: { long: 'x'.repeat(70_000) } })).toBe(400);
    expect(await answer(callback, { derived: [DERIVED[0], DERIVED[0]] })).toBe(400);
    expect(await answer(callback, { derived: [{ ...DERIVED[0], contentType: 'text/html\r\nX: y' }] })).toBe(
      400,
    );
    expect(await answer(callback, 'x'.repeat(13 * 2 ** 20))).toBe(413);

    // A new run asks again. The first question is over.
    await user.fetch(`/api/files/${first}/cancel`, { method: 'POST' });
    expect(await answer(callback)).toBe(409);
    await user.fetch(`/api/files/${first}/retry`, { method: 'POST' });
    const next = await askedOf(first, 1);
    expect(next).not.toBe(callback);
    expect(await answer(callback)).toBe(409);
    const both = await Promise.all([answer(next, { facts: { n: 1 } }), answer(next, { facts: { n: 1 } })]);
    expect(both.sort()).toEqual([204, 409]);
    expect(await settled(first)).toMatchObject({ status: 'completed', metadata: { ask: { n: 1 } } });
    expect(await answer(next)).toBe(409);

    await user.fetch(`/api/files/${second}`, { method: 'DELETE' });
    expect(await answer(await askedOf(second))).toBe(409);
  });

  test('that has failed is asked again only if it says so', async () => {
    service.answer = later;
    await startWorker();
    const id = await upload();
    await untilWaiting(id);
    expect(
      await answer((await question(1)).body.callback, { outcome: 'retry', reason: 'out of memory' }),
    ).toBe(204);
    const { body } = await question(2);
    await untilWaiting(id);
    expect((await user.get(`/api/files/${id}`)).error).toMatchObject({
      step: 'ask',
      detail: 'out of memory',
    });
    expect(await answer(body.callback, { outcome: 'failed', reason: 'no words' })).toBe(204);
    expect(await settled(id)).toMatchObject({
      status: 'failed',
      attempts: 2,
      error: { step: 'ask', code: 'step_failed', detail: 'no words' },
    });
  });

  test('that fails for good in an optional step leaves a warning', async () => {
    service.answer = later;
    await startWorker({ optional: true });
    const id = await upload();
    await untilWaiting(id);
    expect(await answer((await question(1)).body.callback, { outcome: 'failed' })).toBe(204);
    expect(await settled(id)).toMatchObject({
      status: 'completed',
      warnings: [{ step: 'ask', code: 'step_failed', detail: 'The service has failed' }],
    });
  });

  test('and does not is asked again after the deadline, with a new address', async () => {
    service.answer = (res, got) => {
      const answering = service.received.length < 2 ? later : json({ facts: { at: 'second' } });
      answering(res, got);
    };
    await startWorker({ answerWithinSeconds: 1 });
    const id = await upload();
    expect(await settled(id)).toMatchObject({
      status: 'completed',
      attempts: 2,
      metadata: { ask: { at: 'second' } },
    });
    const [first, second] = service.received;
    expect(first?.body.callback).not.toBe(second?.body.callback);
    expect(await answer(first?.body.callback)).toBe(409);
  });
});
