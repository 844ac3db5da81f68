import { once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import { text } from 'node:stream/consumers';
import { registerUser, type TestUser } from './support/client.js';
import {
  begin,
  expectProblem,
  FORM_TYPE,
  filePart,
  filesOf,
  form,
  MIB,
  part,
  post,
} from './support/plain-client.js';
import { type Processes, startProcesses } from './support/processes.js';
import { openRedis, type TestRedis } from './support/redis.js';

/* Each file of a form is an upload, also for RATE_LIMIT_UPLOADS; on two servers that count together. */

let redis: TestRedis;
let processes: Processes;

beforeAll(async () => {
  redis = await openRedis();
  const env = { REDIS_URL: redis.url, RATE_LIMIT_UPLOADS: '5/1h' };
  processes = await startProcesses(env, ['server', 'server-2']);
});
afterAll(async () => {
  await processes?.close();
  await redis?.close();
});

const newUser = () => registerUser(() => processes.url);

const files = (count: number, from = 1) =>
  Array.from({ length: count }, (_, index) => filePart(`${from + index}`, 'words'));

const send = (user: TestUser, ...parts: Buffer[]) =>
  post(user, form(...parts), { 'Content-Type': FORM_TYPE });

/** Names of the files that a user has, in the order in which they came, and how many uploads were begun for them. */
async function stored(user: TestUser) {
  const { rows } = await processes.database.query(
    `SELECT (SELECT array_agg(filename ORDER BY id) FROM files WHERE owner_id = $1) AS names,
     (SELECT count(*)::int FROM uploads WHERE owner_id = $1) AS begun`,
    [user.id],
  );
  return rows[0];
}

/** The limit as an answer states it: each header once. */
const told = ({ headers }: Response) => [
  headers.get('RateLimit')?.match(/"uploads"; r=\d+/g),
  headers.get('RateLimit-Policy')?.match(/"uploads"; q=\d+; w=\d+/g),
  headers.get('RateLimit')?.match(/"global"/g),
];
const left = (count: number) => [[`"uploads"; r=${count}`], ['"uploads"; q=5; w=3600'], ['"global"']];

test('a form counts as often as it has files, on whatever server', async () => {
  const user = await newUser();
  const field = part('Content-Disposition: form-data; name="note"', 'no file');
  const first = await send(user, field, ...files(3), field);
  expect(told(first)).toEqual(left(2));
  await filesOf(first);
  const second = await send(
    user.at(() => processes.urlOf('server-2')),
    ...files(1, 4),
  );
  expect(told(second)).toEqual(left(1));
  await filesOf(second);
  expect((await user.tus('POST', '/uploads', { 'Upload-Length': '3' })).status).toBe(201);
  const third = await send(user, ...files(2, 5));
  expect(told(third)).toEqual(left(0));
  const detail = await expectProblem(third, 429, 'rate_limited');
  expect(detail).toMatch(/^At most 5 new uploads in 3600 s: try again in \d+ s$/);
  expect(await stored(user)).toEqual({ names: ['1', '2', '3', '4'], begun: 5 });
});

test('a file beyond the limit is refused before it begins; the error names the stored files', async () => {
  const user = await newUser();
  await filesOf(await send(user, ...files(2)));
  const answer = await send(
    user.at(() => processes.urlOf('server-2')),
    ...files(20, 3),
  );
  expect(told(answer)).toEqual(left(0));
  const wait = answer.headers.get('Retry-After') ?? '';
  expect(wait).toMatch(/^[1-9]\d*$/);
  const detail = await expectProblem(answer, 429, 'rate_limited');
  expect(detail).toMatch(
    new RegExp(
      `^File 4 of the form: At most 5 new uploads in 3600 s: try again in ${wait} s\\. Those before it are stored: `,
    ),
  );
  const { rows } = await processes.database.query(
    'SELECT id FROM files WHERE owner_id = $1 ORDER BY id OFFSET 2',
    [user.id],
  );
  expect(detail.match(/[0-9a-f-]{36}/g)).toEqual(rows.map(({ id }) => id));
  expect(await stored(user)).toEqual({ names: ['1', '2', '3', '4', '5'], begun: 5 });
});

test('a client that is still sending gets the refusal too, and need not send the rest', async () => {
  const user = await newUser();
  const outgoing = begin(processes.url, user, { 'Content-Type': FORM_TYPE });
  const answered = once(outgoing, 'response') as Promise<[IncomingMessage]>;
  outgoing.write(Buffer.concat([...files(5), filePart('6').subarray(0, -2), Buffer.alloc(MIB)]));
  const [answer] = await answered;
  expect([answer.statusCode, answer.headers.connection]).toEqual([429, 'close']);
  expect(JSON.parse(await text(answer)).detail).toMatch(/^File 6 of the form: /);
  outgoing.destroy();
  expect((await stored(user)).begun).toBe(5);
});
