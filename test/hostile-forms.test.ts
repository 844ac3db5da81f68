import { randomInt } from 'node:crypto';
import { registerUser, type TestUser } from './support/client.js';
import { BAD_FORMS, FORM_BOUNDARY, FORM_PIECES, ODD_FORMS } from './support/hostile-inputs.js';
import { type Processes, startProcesses } from './support/processes.js';
import { type Answer, exchange, formRequest } from './support/raw-http.js';

/*
 * Forms as no browser sends them. Each has its answer, none leaves an upload behind, and none keeps the server from
 * stopping.
 */

let processes: Processes;
let user: TestUser;

beforeAll(async () => {
  const off = ['UPLOADS', 'STATUS', 'GLOBAL'].map((bucket) => [`RATE_LIMIT_${bucket}`, '0']);
  processes = await startProcesses(Object.fromEntries(off), ['server']);
  user = await registerUser(() => processes.url);
});
afterAll(() => processes?.close());

const type = (boundary: string) => `multipart/form-data; boundary=${boundary}`;

/** The answer to a form. @param cut the body comes in two chunks, divided there; undefined: in one piece */
function send(body: string, boundary = FORM_BOUNDARY, cut?: number): Promise<Answer | undefined> {
  const headers = { Authorization: `Bearer ${user.token}`, 'Content-Type': type(boundary) };
  const bytes = Buffer.from(body, 'latin1');
  if (cut === undefined) return exchange(processes.url, formRequest('POST', '/api/files', headers, bytes));
  const chunks = [bytes.subarray(0, cut), bytes.subarray(cut)]
    .filter(({ length }) => length > 0)
    .flatMap((chunk) => [`${chunk.length.toString(16)}\r\n`, chunk, '\r\n'])
    .concat('0\r\n\r\n')
    .map((piece) => Buffer.from(piece as string));
  const chunked = { ...headers, 'Transfer-Encoding': 'chunked' };
  return exchange(processes.url, Buffer.concat([formRequest('POST', '/api/files', chunked), ...chunks]));
}

async function expectNothingLeft(): Promise<void> {
  const { rows } = await processes.database.query(
    `SELECT id, status FROM uploads WHERE status NOT IN ('finished', 'terminated')`,
  );
  expect(rows).toEqual([]);
  expect((await fetch(`${processes.url}/health/ready`)).status).toBe(200);
  // A request that never comes to an end would keep it from that.
  const exitCode = await processes.stop('server');
  await processes.start('server');
  expect(exitCode).toBe(0);
}

test.each(BAD_FORMS)('is refused: %s', async (_what, body) => {
  for (const cut of [undefined, Math.floor(body.length / 2)]) {
    const answer = await send(body, FORM_BOUNDARY, cut);
    expect(answer?.status).toBe(400);
    expect(JSON.parse(answer?.body ?? '')).toMatchObject({ code: 'invalid_request' });
  }
});

test.each(ODD_FORMS)('is taken: %s', async (_what, body) => {
  for (const cut of [undefined, Math.floor(body.length / 2)]) {
    const answer = await send(body, FORM_BOUNDARY, cut);
    expect([answer?.status, answer?.body]).toEqual([201, expect.any(String)]);
    expect(JSON.parse(answer?.body ?? '').files).toMatchObject([{ filename: 'a.txt', size: 7 }]);
  }
});

test('a boundary has at most 70 characters', async () => {
  const [, body = ''] = ODD_FORMS.find(([what]) => what === 'a boundary twice') ?? [];
  const sent = (boundary: string) => send(body.replaceAll(`--${FORM_BOUNDARY}`, `--${boundary}`), boundary);
  expect((await sent('b'.repeat(70)))?.status).toBe(201);
  for (const length of [71, 300, 5000]) expect((await sent('b'.repeat(length)))?.status).toBe(400);
});

test('after all of them nothing is left, and the server stops', expectNothingLeft);

/** Numbers from 0 to below 1, the same for the same seed (mulberry32). */
function createRandom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

test('mutated forms are refused or taken, and nothing is left of them', async () => {
  const seed = Number(process.env.TEST_SEED ?? randomInt(2 ** 31));
  const random = createRandom(seed);
  const below = (limit: number) => Math.floor(random() * limit);
  const mutate = () => {
    const pieces = Array.from({ length: 1 + below(10) }, () => FORM_PIECES[below(FORM_PIECES.length)] ?? '');
    const form = pieces.map((piece) => piece + (random() < 0.3 ? '\r\n' : '')).join('');
    const body = random() < 0.6 ? `${form}\r\n--${FORM_BOUNDARY}--\r\n` : form;
    return { body, cut: random() < 0.5 ? below(body.length) : undefined };
  };
  const pending = Array.from({ length: 400 }, mutate);
  const statuses = new Set<number>();
  const faults: string[] = [];
  const work = async () => {
    for (let next = pending.pop(); next; next = pending.pop()) {
      const { body, cut } = next;
      const answer = await send(body, FORM_BOUNDARY, cut).catch((error: Error) => error);
      if (answer && 'status' in answer) statuses.add(answer.status);
      if (answer && 'status' in answer && [201, 400].includes(answer.status)) continue;
      const said = answer instanceof Error ? answer.message : JSON.stringify(answer);
      faults.push(`seed ${seed}: ${JSON.stringify(body).slice(0, 500)} cut at ${cut}: ${said}`);
    }
  };
  await Promise.all(Array.from({ length: 8 }, work));
  expect(faults).toEqual([]);
  // Both kinds were there.
  expect([...statuses].sort()).toEqual([201, 400]);
  await expectNothingLeft();
});
