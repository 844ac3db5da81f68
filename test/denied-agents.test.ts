import { registerUser, type TestUser } from './support/client.js';
import { type Processes, startProcesses } from './support/processes.js';
import { problemOf } from './support/sign-in.js';

/* DENY_USER_AGENTS. */

let processes: Processes;
let user: TestUser;

beforeAll(async () => {
  processes = await startProcesses({ DENY_USER_AGENTS: 'BadBot, curl/7.*linux , (old) [x+' }, ['server']);
  user = await registerUser(() => processes.url);
});

afterAll(() => processes?.close());

const ask = (path: string, agent: string, method = 'GET') =>
  user.fetch(path, { method, headers: { 'User-Agent': agent, 'Tus-Resumable': '1.0.0' } });

test.each([
  'BadBot',
  'mozilla badbot/2',
  'curl/7.68.0 (x86_64-pc-Linux-gnu)',
  'CURL/7.LINUX',
  'a (OLD) [x+b',
])('%s is refused everywhere, but not about health', async (agent) => {
  for (const [path, method] of [
    ['/api/me', 'GET'],
    ['/api/auth', 'GET'],
    ['/uploads', 'POST'],
    ['/uploads', 'OPTIONS'],
    ['/', 'GET'],
    ['/admin/queues', 'GET'],
    ['/openapi.json', 'GET'],
    ['/healthy', 'GET'],
  ] as const) {
    const answer = await ask(path, agent, method);
    expect([path, ...(await problemOf(answer))]).toEqual([path, 403, 'user_agent_denied']);
  }
  for (const path of ['/health/live', '/health/ready']) expect((await ask(path, agent)).status).toBe(200);
});

test.each(['curl/8.0 (linux)', 'linux curl/7', 'Bad Bot', 'old', 'Mozilla/5.0'])(
  '%s is served',
  async (agent) => {
    expect((await ask('/api/me', agent)).status).toBe(200);
  },
);

test('the refusal comes before the sign-in, and a page can read it', async () => {
  const answer = await fetch(`${processes.url}/api/me`, {
    headers: { 'User-Agent': 'badbot', Authorization: 'Bearer x' },
  });
  expect(answer.headers.get('Access-Control-Allow-Origin')).toBe('*');
  expect(await problemOf(answer)).toEqual([403, 'user_agent_denied']);
});
