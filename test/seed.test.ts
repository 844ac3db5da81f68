import { execFile } from 'node:child_process';
import { registerUser } from './support/client.js';
import { coverageEnv } from './support/coverage.js';
import { type Processes, startProcesses } from './support/processes.js';
import { logIn } from './support/sign-in.js';
import { until } from './support/until.js';

/* `npm run seed`. */

let processes: Processes;

beforeAll(async () => {
  processes = await startProcesses();
});

afterAll(() => processes?.close());

interface Ended {
  code: number;
  output: string;
  errors: string;
}

function seed(...args: string[]): Promise<Ended> {
  const command = ['dist/cli/seed.js', ...args];
  return new Promise((resolve) => {
    execFile(
      process.execPath,
      command,
      { env: { ...process.env, ...coverageEnv } },
      (error, output, errors) => {
        resolve({ code: error ? Number(error.code) : 0, output, errors });
      },
    );
  });
}

const here = (...args: string[]) => seed('--url', processes.url, ...args);

async function countFiles(): Promise<number> {
  return (await processes.database.query('SELECT FROM files')).rows.length;
}

test('it makes users with files of all kinds, and when it runs again only what is missing', async () => {
  const first = await here('--users', '2', '--files', '10');
  expect(first).toMatchObject({ code: 0, errors: '' });
  expect(first.output).toContain('sample1@example.org (admin): 10 files sent, 0 were there');
  expect(await countFiles()).toBe(20);
  const again = await here('--users', '2', '--files', '11');
  expect(again.output).toContain('sample2@example.org (user): 1 files sent, 10 were there');
  expect(await countFiles()).toBe(22);

  const session = await logIn(processes.url, 'sample2@example.org', 'sample password');
  const headers = { Authorization: `Bearer ${session.accessToken}` };
  const files = await until('all to be processed', async () => {
    const { items } = await (await fetch(`${processes.url}/api/files`, { headers })).json();
    const open = items.filter(({ status }: { status: string }) => ['pending', 'processing'].includes(status));
    return open.length === 0 && items;
  });
  const byName = Object.fromEntries(files.map((file: { filename: string }) => [file.filename, file]));
  expect(byName['IMG_1000.jpg']).toMatchObject({ status: 'completed', detectedType: 'image/jpeg' });
  expect(JSON.stringify(byName['IMG_1000.jpg'].metadata)).toContain('Sample camera');
  expect(byName['notes 003.txt']).toMatchObject({ status: 'completed' });
  expect(byName['infected-009.txt']).toMatchObject({ status: 'infected' });
});

test('it says what is wrong', async () => {
  await registerUser(() => processes.url);
  for (const [args, code, message] of [
    [['--users', '-1'], 1, 'whole number'],
    [['--password', 'another password', '--users', '1'], 3, 'wrong'],
    [['--url', 'http://files.example.org'], 2, '--password'],
    [['--url', 'http://localhost:1'], 5, 'localhost:1'],
  ] as const) {
    const ended = await (args[0] === '--url' ? seed(...args) : here(...args));
    expect([args, ended.code, ended.errors]).toEqual([args, code, expect.stringContaining(message)]);
  }
});

test('with AUTH=off the local account gets the files', async () => {
  await processes.stop('server');
  await processes.start('server', { AUTH: 'off' });
  expect((await here('--files', '2')).output).toContain('(AUTH=off) (admin): 2 files sent');
  const { items } = await (await fetch(`${processes.url}/api/files`)).json();
  expect(items).toHaveLength(2);
});
