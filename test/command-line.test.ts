import { randomUUID } from 'node:crypto';
import { chmod, mkdir, readFile, stat, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { PASSWORD, registerUser, type TestUser } from './support/client.js';
import { type Home, makeHome } from './support/command.js';
import { type HttpProxy, startHttpProxy } from './support/http-proxy.js';
import { type Processes, startProcesses } from './support/processes.js';
import { freePort } from './support/services/port.js';

/* The command `landfall`: accounts, lists, states and exit codes. Transfers have suites of their own. */

let processes: Processes;
let proxy: HttpProxy;
let user: TestUser;
let home: Home;
/** The requests that the proxy has seen in this test. */
let requests: string[];

beforeAll(async () => {
  processes = await startProcesses();
  proxy = await startHttpProxy(() => processes.url);
  proxy.meddle = (request) => {
    requests.push(`${request.method} ${request.url}`);
    return false;
  };
});

afterAll(async () => {
  proxy?.close();
  await processes?.close();
});

beforeEach(async () => {
  requests = [];
  user = await registerUser(() => processes.url);
  home = await makeHome({ LANDFALL_URL: proxy.url });
});

afterEach(() => home?.remove());

const signIn = (as = user) => home.run(['login', '--email', as.email], `${PASSWORD}\n`);

const sessionsPath = () => join(home.folder, 'config/landfall/sessions.json');

async function makeKey(scopes: string[]): Promise<string> {
  const answer = await user.fetch('/api/keys', {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ name: 'of a test', scopes }),
  });
  return (await answer.json()).key;
}

/** Lets the access token that is stored look as if it had expired. */
async function expireToken(): Promise<void> {
  const stored = JSON.parse(await readFile(sessionsPath(), 'utf8'));
  stored.sessions[proxy.url].expiresAt = 0;
  await writeFile(sessionsPath(), JSON.stringify(stored));
}

describe('accounts', () => {
  test('login keeps a session that only its owner can read', async () => {
    expect(await signIn()).toEqual({
      code: 0,
      stdout: `Signed in to ${proxy.url} as ${user.email}\n`,
      stderr: '',
    });
    expect((await stat(sessionsPath())).mode & 0o777).toBe(0o600);
    expect((await stat(join(home.folder, 'config/landfall'))).mode & 0o777).toBe(0o700);
    expect(await readFile(sessionsPath(), 'utf8')).not.toContain(PASSWORD);
  });

  test('after login the server need not be named again', async () => {
    await home.run(['login', processes.url, '--email', user.email], PASSWORD);
    home.env.LANDFALL_URL = '';
    expect((await home.run(['ls'])).code).toBe(0);
  });

  test('a wrong password ends with 3 and the request id', async () => {
    const ended = await home.run(['login', '--email', user.email], 'not this one');
    expect(ended).toMatchObject({ code: 3, stdout: '' });
    expect(ended.stderr).toMatch(/^landfall: .+ \(request [\w-]+\)\n$/);
  });

  test('without a session and without a key the command ends with 3', async () => {
    expect(await home.run(['ls'])).toMatchObject({ code: 3, stdout: '' });
    expect(requests).toEqual([]);
  });

  test('a session is refreshed once, however many processes need that at the same time', async () => {
    await signIn();
    await expireToken();
    const ends = await Promise.all(Array.from({ length: 6 }, () => home.run(['ls'])));
    expect(ends.map(({ code, stderr }) => ({ code, stderr }))).toEqual(
      Array(6).fill({ code: 0, stderr: '' }),
    );
    expect(requests.filter((request) => request === 'POST /api/auth/refresh')).toHaveLength(1);
    // The chain of refresh tokens is whole.
    await expireToken();
    expect((await home.run(['ls'])).code).toBe(0);
  });

  test('a refresh whose answer is lost is sent again', async () => {
    await signIn();
    await expireToken();
    proxy.loseNext('/api/auth/refresh', 'broken');
    expect((await home.run(['ls'])).code).toBe(0);
    await expireToken();
    expect((await home.run(['ls'])).code).toBe(0);
  });

  test('a session that has ended elsewhere ends the command with 3 and is forgotten', async () => {
    await signIn();
    await expireToken();
    await user.fetch('/api/me/sessions', { method: 'DELETE' });
    expect((await home.run(['ls'])).code).toBe(3);
    requests = [];
    expect((await home.run(['ls'])).code).toBe(3);
    expect(requests).toEqual([]);
  });

  test('logout ends the session at the server', async () => {
    await signIn();
    const { sessions } = JSON.parse(await readFile(sessionsPath(), 'utf8'));
    expect((await home.run(['logout'])).code).toBe(0);
    expect((await home.run(['ls'])).code).toBe(3);
    const { refreshToken } = sessions[proxy.url];
    const answer = await fetch(`${processes.url}/api/auth/refresh`, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ refreshToken }),
    });
    expect(answer.status).toBe(401);
  });

  test('a key from the environment goes before a session', async () => {
    const other = await registerUser(() => processes.url);
    const id = await other.upload(Buffer.from('of the other'), { filename: 'other.txt' });
    await signIn(other);
    expect((await home.json(['ls'])).lines).toMatchObject([{ id }]);
    home.env.LANDFALL_API_KEY = await makeKey(['read']);
    expect(await home.json(['ls'])).toEqual({ code: 0, lines: [] });
  });

  test.each(['lf_0123456789_wrong', 'wrong', 'wrong key'])('the key "%s" is refused', async (key) => {
    home.env.LANDFALL_API_KEY = key;
    const { code, stdout, stderr } = await home.run(['ls']);
    expect({ code, stdout }).toEqual({ code: key.includes(' ') ? 2 : 3, stdout: '' });
    expect(stderr).not.toContain(key === 'wrong' ? 'wrong\n' : key);
  });

  test('a key without the right ends the command with 3', async () => {
    const id = await user.upload(Buffer.from('stays'));
    home.env.LANDFALL_API_KEY = await makeKey(['read']);
    const { code, lines } = await home.json(['rm', id]);
    expect({ code, lines }).toMatchObject({
      code: 3,
      lines: [{ id, error: { status: 403, code: 'forbidden' } }],
    });
    expect((await user.get('/api/files')).items).toHaveLength(1);
  });
});

describe('files', () => {
  beforeEach(async () => {
    home.env.LANDFALL_API_KEY = await makeKey(['upload', 'read', 'manage']);
  });

  test('ls lists the newest files first, as a table, as JSON and as ids', async () => {
    const names = ['a.txt', 'naïve name.txt', 'c.txt'];
    const ids: string[] = [];
    for (const filename of names) ids.unshift(await user.upload(Buffer.from(filename), { filename }));
    const { code, stdout, stderr } = await home.run(['ls']);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    const rows = stdout.trimEnd().split('\n');
    expect(rows.map((row) => row.split(/ {2,}/)[0])).toEqual(ids);
    expect(rows[1]).toMatch(/^\S{36} {2}15 B {2}\w+ +\d{4}-\d\d-\d\d \d\d:\d\d {2}naïve name\.txt$/);
    expect((await home.json(['ls', '-n', '2'])).lines.map(({ id }) => id)).toEqual(ids.slice(0, 2));
    expect((await home.run(['ls', '--quiet'])).stdout).toBe(ids.map((id) => `${id}\n`).join(''));
  });

  test('ls --all reads all pages', async () => {
    // One more than a page of the server may have.
    const count = 201;
    for (const files of [100, 100, 1]) {
      const form = new FormData();
      for (let file = 0; file < files; file++) form.append('files', new Blob(['some text']), `${file}.txt`);
      expect((await user.fetch('/api/files', { method: 'POST', body: form })).status).toBe(201);
    }
    const { lines } = await home.json(['ls', '--all']);
    expect(new Set(lines.map(({ id }) => id)).size).toBe(count);
    expect((await home.json(['ls'])).lines).toHaveLength(20);
  });

  test('rm puts files into the trash, or deletes them for good', async () => {
    const kept = await user.upload(Buffer.from('kept in the trash'));
    const gone = await user.upload(Buffer.from('gone'));
    expect(await home.run(['rm', kept])).toEqual({ code: 0, stdout: `${kept}  in the trash\n`, stderr: '' });
    expect((await home.run(['rm', '--permanent', gone])).code).toBe(0);
    expect((await user.get('/api/files')).items).toEqual([]);
    const restore = (id: string) => user.fetch(`/api/files/${id}/restore`, { method: 'POST' });
    expect((await restore(kept)).status).toBe(200);
    expect((await restore(gone)).status).toBe(404);
  });

  test('an id that does not exist does not keep a command from the others', async () => {
    const id = await user.upload(Buffer.from('exists'));
    const unknown = randomUUID();
    const { code, lines } = await home.json(['rm', unknown, id]);
    expect({ code, lines }).toMatchObject({
      code: 1,
      lines: [
        { id: unknown, error: { status: 404, code: 'not_found', exitCode: 1 } },
        { id, permanent: false },
      ],
    });
  });

  test('an id cannot lead to another route', async () => {
    expect((await home.run(['status', '../me'])).code).toBe(1);
    expect(requests).toEqual(['GET /api/files/..%2Fme/status']);
  });

  test('watch follows a file to its end, and status shows it', async () => {
    const id = await user.upload(Buffer.from('plain text'), { filename: 'a.txt' });
    const { code, lines } = await home.json(['watch', id]);
    expect(code).toBe(0);
    expect(lines.at(-1)).toMatchObject({ id, status: 'completed', progress: 100 });
    expect(await home.run(['status', id])).toEqual({ code: 0, stdout: `${id}  completed\n`, stderr: '' });
  });

  test('watch ends with 4 when the processing of a file has failed', async () => {
    const good = await user.upload(Buffer.from('good'));
    const bad = await user.upload(Buffer.from('bad'), { sha256: '0'.repeat(64) });
    const { code, stdout } = await home.run(['watch', good, bad]);
    expect(code).toBe(4);
    expect(stdout).toMatch(new RegExp(`^${good}  completed$`, 'm'));
    expect(stdout).toMatch(new RegExp(`^${bad}  failed  .+$`, 'm'));
  });
});

describe('what can go wrong', () => {
  test.each([
    [['no-such-command']],
    [['upload']],
    [['ls', '--limit', 'many']],
    [['upload', '.', '--parallel', '0']],
    [['upload', '.', '--chunk-size', 'big']],
    [['login', 'ftp://example.org']],
    [['login', '--email', 'me@example.org']],
  ])('%j is a wrong usage and ends with 2', async (args) => {
    const { code, stdout, stderr } = await home.run(args);
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
    expect(stderr).not.toContain(' at ');
  });

  test('a server that is not there ends the command with 5 at once', async () => {
    home.env.LANDFALL_URL = `http://127.0.0.1:${await freePort()}`;
    home.env.LANDFALL_API_KEY = 'any';
    await writeFile(join(home.folder, 'a.txt'), 'a');
    for (const args of [['ls'], ['upload', 'a.txt'], ['get', randomUUID()]]) {
      const { code, stderr } = await home.run(args);
      expect({ code, stderr }).toMatchObject({ code: 5, stderr: expect.stringContaining('ECONNREFUSED') });
    }
  });

  test('neither password nor key follows a redirect', async () => {
    const authorizations: (string | undefined)[] = [];
    const target = createServer((req, res) => {
      authorizations.push(req.headers.authorization);
      res.end();
    });
    const from = createServer((req, res) => {
      res
        .writeHead(307, { Location: `http://127.0.0.1:${(target.address() as AddressInfo).port}${req.url}` })
        .end();
    });
    for (const server of [target, from])
      await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
    home.env.LANDFALL_URL = `http://127.0.0.1:${(from.address() as AddressInfo).port}`;
    expect((await home.run(['login', '--email', user.email], PASSWORD)).code).toBe(1);
    home.env.LANDFALL_API_KEY = 'secret';
    expect((await home.run(['ls'])).code).toBe(1);
    await writeFile(join(home.folder, 'a.txt'), 'a');
    expect((await home.run(['upload', 'a.txt'])).code).toBe(1);
    expect(authorizations).toEqual([]);
    for (const server of [target, from]) server.close();
  });

  test('a folder for the session that cannot be written is an error without a stack', async () => {
    await mkdir(join(home.folder, 'config'));
    await writeFile(join(home.folder, 'config/landfall'), 'a file is here');
    const { code, stderr } = await signIn();
    expect(code).toBe(1);
    expect(stderr).toMatch(/^landfall: [^\n]+\n$/);
  });

  test('a program that is not built says what to do', async () => {
    const lonely = join(home.folder, 'cli');
    await mkdir(lonely);
    await writeFile(join(lonely, 'landfall.mjs'), await readFile('cli/landfall.js'));
    await chmod(join(lonely, 'landfall.mjs'), 0o755);
    const { spawnSync } = await import('node:child_process');
    const { status, stderr } = spawnSync(join(lonely, 'landfall.mjs'), ['ls'], { encoding: 'utf8' });
    expect(status).toBe(1);
    expect(stderr).toContain('npm run build');
  });
});
