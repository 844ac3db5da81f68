import { randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import * as tus from 'tus-js-client';
import { deriveKeys } from '../server/auth/keys.js';
import { signToken } from '../server/auth/tokens.js';
import { PASSWORD, registerUser, type TestUser } from './support/client.js';
import { type Processes, startProcesses } from './support/processes.js';

/* The README's example for tus-js-client, run as it stands there. */

const SECRET = 'a secret of this test, long enough for a key';

let processes: Processes;
let user: TestUser;

beforeAll(async () => {
  processes = await startProcesses({ JWT_SECRET: SECRET, RATE_LIMIT_UPLOADS: '1/6s' }, ['server', 'worker']);
  user = await registerUser(() => processes.url);
});

afterAll(() => processes?.close());

async function readExample(): Promise<string> {
  const readme = await readFile('README.md', 'utf8');
  const [, code] = /With \[tus-js-client\].*?```js\n(.*?)```/s.exec(readme) ?? [];
  expect(code).toContain('new tus.Upload(');
  return (code ?? '').replace('http://localhost:3000', processes.url);
}

/** Signs in like fetch(), but the first token that comes has just run out. */
function fetchOldToken(): typeof fetch {
  const old = signToken({ userId: user.id, role: 'user' }, deriveKeys(SECRET).access, -1);
  return async (input, init) => {
    const answer = await fetch(input, init);
    if (!String(input).endsWith('/login')) return answer;
    return Response.json({ ...(await answer.json()), accessToken: old });
  };
}

test('it goes on after 401 with a fresh token and after 429 when the server says', async () => {
  const content = randomBytes(300_000);
  const file = Object.assign(content, { name: 'holiday.bin', type: 'application/octet-stream' });
  const statuses: string[] = [];
  class Upload extends tus.Upload {
    constructor(given: Buffer, options: tus.UploadOptions) {
      super(given, {
        ...options,
        async onAfterResponse(request, response) {
          statuses.push(`${request.getMethod()} ${response.getStatus()}`);
          await options.onAfterResponse?.(request, response);
        },
      });
    }
  }
  const code = await readExample();
  // The only upload that is let in for six seconds, within which even a busy machine comes to the next.
  await user.create(1);

  const url = await new Promise<string>((resolve, reject) => {
    const names = ['tus', 'file', 'email', 'password', 'fetch', 'console'];
    const example = new Function(...names, `return (async () => {${code}})()`);
    const output = { log: resolve, error: (message: string) => reject(new Error(message)) };
    example({ Upload }, file, user.email, PASSWORD, fetchOldToken(), output).catch(reject);
  });
  expect(statuses).toEqual(['POST 401', 'POST 429', 'POST 201', 'PATCH 204']);
  const id = url.split('/').at(-1) ?? '';
  expect(await user.settled(id)).toMatchObject({ status: 'completed', filename: 'holiday.bin' });
  const answer = await user.fetch(`/api/files/${id}/content`);
  expect(Buffer.from(await answer.arrayBuffer()).equals(content)).toBe(true);
});
