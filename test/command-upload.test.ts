import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdir, readdir, stat, symlink, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { layCable } from './support/cable.js';
import { type FileJson, registerUser, type TestUser } from './support/client.js';
import { type Home, makeHome, PROGRAM, type Running } from './support/command.js';
import { type HttpProxy, startHttpProxy } from './support/http-proxy.js';
import { type Processes, startProcesses } from './support/processes.js';
import { until } from './support/until.js';

/* `landfall upload`: what it sends, how it goes on after an interruption, and how it ends. */

const MIB = 1024 ** 2;
const EICAR = ['X5O!P%@AP[4\\PZX54(P^)7CC)7}$', 'EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*'].join('');

interface Patch {
  id: string;
  offset: number;
  length: number;
}

let processes: Processes;
let cable: Awaited<ReturnType<typeof layCable>>;
let proxy: HttpProxy;
let user: TestUser;
let home: Home;
/** The PATCH requests of this test. */
let patches: Patch[];
let created: number;

beforeAll(async () => {
  processes = await startProcesses();
  cable = await layCable(Number(new URL(processes.url).port));
  proxy = await startHttpProxy(() => cable.url);
  proxy.meddle = ({ method, url, headers }) => {
    if (method === 'POST' && url === '/uploads') created++;
    if (method === 'PATCH') {
      const [offset, length] = [Number(headers['upload-offset']), Number(headers['content-length'])];
      patches.push({ id: url?.split('/').at(-1) ?? '', offset, length });
    }
    return false;
  };
});

afterAll(async () => {
  proxy?.close();
  cable?.close();
  await processes?.close();
});

beforeEach(async () => {
  patches = [];
  created = 0;
  cable.carryAtMost(Number.POSITIVE_INFINITY);
  user = await registerUser(() => processes.url);
  home = await makeHome({ LANDFALL_URL: proxy.url, LANDFALL_API_KEY: user.token });
});

afterEach(() => home?.remove());

async function put(name: string, content: Buffer | string): Promise<void> {
  const path = join(home.folder, name);
  await mkdir(join(path, '..'), { recursive: true });
  await writeFile(path, content);
}

const listFiles = async (): Promise<FileJson[]> => (await user.get('/api/files')).items;

async function requireContent(id: string, content: Buffer): Promise<void> {
  await user.settled(id);
  const answer = await user.fetch(`/api/files/${id}/content`);
  expect(Buffer.from(await answer.arrayBuffer()).equals(content)).toBe(true);
}

/** The notes about uploads that are under way. */
const notes = () => readdir(join(home.folder, 'state/landfall/uploads')).catch(() => []);

/** Lets each connection carry only some bytes from now on. Those that have carried more before are closed. */
function hold(): void {
  cable.cut();
  cable.mend();
  cable.carryAtMost(3 * MIB);
}

/** Starts an upload, and waits until its connection has come to a standstill in the middle of a PATCH. */
async function startStalled(args: string[]): Promise<Running> {
  hold();
  const before = cable.held();
  const running = home.start(args);
  await until('the upload to stand still', () => cable.held() > before);
  return running;
}

/** Breaks the connections that stand still, and lets new ones carry everything. */
function release(): void {
  cable.carryAtMost(Number.POSITIVE_INFINITY);
  cable.cut();
  cable.mend();
}

/** Releases connections. @returns what the server has of the interrupted upload */
async function heal(): Promise<{ id: string; offset: number }> {
  release();
  return until('the server to keep what has arrived', async () => {
    const [upload] = (await user.get('/api/uploads')).items;
    return upload.offset > 0 && upload;
  });
}

describe('what is sent', () => {
  test('files, each with its name and its SHA-256, which the server checks', async () => {
    const big = randomBytes(MIB);
    await put('big.bin', big);
    await put('small.txt', 'small');
    await put('empty.txt', '');
    const { code, lines } = await home.json([
      'upload',
      'big.bin',
      'small.txt',
      'empty.txt',
      'big.bin',
      '--wait',
    ]);
    expect(code).toBe(0);
    expect(lines).toHaveLength(3);
    for (const { id, path, size, status } of lines) {
      expect(status).toBe('completed');
      const file: FileJson = await user.get(`/api/files/${id}`);
      expect(join(home.folder, file.filename)).toBe(path);
      expect(file.size).toBe(size);
    }
    await requireContent(lines.find(({ size }) => size === MIB).id, big);
    expect(await notes()).toEqual([]);
  });

  test('a small file goes with the request that creates its upload', async () => {
    await put('small.txt', 'small');
    expect((await home.run(['upload', 'small.txt'])).code).toBe(0);
    expect({ created, patches }).toEqual({ created: 1, patches: [] });
  });

  test('the folder with everything in it, except for links', async () => {
    for (const name of ['in/a.txt', 'in/.hidden', 'in/deep/er/b.txt', 'outside.txt']) await put(name, name);
    await symlink('../outside.txt', join(home.folder, 'in/link.txt'));
    await symlink('..', join(home.folder, 'in/loop'));
    await mkdir(join(home.folder, 'in/empty'));
    const { code, lines } = await home.json(['upload', 'in', '-p', '2']);
    expect(code).toBe(0);
    const paths = ['in/.hidden', 'in/a.txt', 'in/deep/er/b.txt'].map((name) => join(home.folder, name));
    expect(lines.map(({ path }) => path).sort()).toEqual(paths);
    expect((await listFiles()).map(({ filename }) => filename).sort()).toEqual(['.hidden', 'a.txt', 'b.txt']);
  });

  test('several files at the same time, and no more than wanted', async () => {
    for (const name of ['a', 'b', 'c', 'd']) await put(name, randomBytes(4 * MIB));
    const running = await startStalled(['upload', 'a', 'b', 'c', 'd', '--parallel', '3']);
    await until('three uploads to begin', () => patches.length === 3);
    expect(created).toBe(3);
    release();
    expect((await running.ended).code).toBe(0);
    expect(created).toBe(4);
    expect(await listFiles()).toHaveLength(4);
  });

  test('requests of at most --chunk-size bytes', async () => {
    await put('a.bin', randomBytes(2.5 * MIB));
    expect((await home.run(['upload', 'a.bin', '--chunk-size', '1MiB'])).code).toBe(0);
    expect(patches.map(({ offset, length }) => [offset, length])).toEqual([
      [0, MIB],
      [MIB, MIB],
      [2 * MIB, MIB / 2],
    ]);
  });

  test('nothing if one of the arguments names no file', async () => {
    await put('a.txt', 'a');
    expect(await home.run(['upload', 'a.txt', 'missing.txt'])).toMatchObject({ code: 2, stdout: '' });
    expect(created).toBe(0);
  });
});

describe('after an interruption', () => {
  test('a process that is killed has left a note, and the next one sends each byte once', async () => {
    const content = randomBytes(8 * MIB);
    await put('a.bin', content);
    const running = await startStalled(['upload', 'a.bin']);
    running.child.kill('SIGKILL');
    await running.ended;
    const { id, offset } = await heal();
    const [note = ''] = (await notes()).filter((name) => name.endsWith('.json'));
    expect((await stat(join(home.folder, 'state/landfall/uploads', note))).mode & 0o777).toBe(0o600);

    const { code, stdout, stderr } = await home.run(['upload', 'a.bin', '--wait']);
    expect({ code, stdout }).toEqual({ code: 0, stdout: `${id}  completed  8.0 MiB  a.bin\n` });
    expect(stderr).toMatch(/^a\.bin: continues at \d+ %\n$/);
    expect(created).toBe(1);
    expect(patches).toEqual([
      { id, offset: 0, length: content.length },
      { id, offset, length: content.length - offset },
    ]);
    await requireContent(id, content);
    expect(await notes()).toEqual([]);
  });

  test('Ctrl-C says that the same command continues, and it does', async () => {
    await put('a.bin', randomBytes(8 * MIB));
    const running = await startStalled(['upload', 'a.bin']);
    running.child.kill('SIGINT');
    const { code, stdout, stderr } = await running.ended;
    expect({ code, stdout }).toEqual({ code: 130, stdout: '' });
    expect(stderr).toBe('landfall: Interrupted; the same command continues\n');
    const { id, offset } = await heal();
    expect((await home.run(['upload', 'a.bin', '-q'])).stdout).toBe(`${id}\n`);
    expect(patches.at(-1)).toMatchObject({ id, offset });
  });

  test('a server that dies and comes back is found again by the same process', async () => {
    const content = randomBytes(8 * MIB);
    await put('a.bin', content);
    const running = await startStalled(['upload', 'a.bin']);
    await processes.kill('server');
    await until('the command to try again', () => running.remarks().includes('trying again'));
    cable.carryAtMost(Number.POSITIVE_INFINITY);
    await processes.start('server');
    const { code, stdout } = await running.ended;
    expect(code).toBe(0);
    expect(created).toBe(1);
    await requireContent(stdout.slice(0, 36), content);
  });

  test('a server that stays away ends the command with 5 after --retry, and the upload can continue', async () => {
    await put('a.bin', randomBytes(8 * MIB));
    const running = await startStalled(['upload', 'a.bin', '--retry', '1']);
    cable.cut();
    expect((await running.ended).code).toBe(5);
    cable.mend();
    await heal();
    expect((await home.run(['upload', 'a.bin'])).code).toBe(0);
    expect(created).toBe(1);
  });

  test('the files of a folder that have arrived are not sent again', async () => {
    for (const name of ['a', 'b', 'c']) await put(`in/${name}`, `file ${name}`);
    await put('in/z.bin', randomBytes(8 * MIB));
    const running = await startStalled(['upload', 'in', '-p', '1']);
    running.child.kill('SIGKILL');
    const { stdout } = await running.ended;
    await heal();
    const again = await home.run(['upload', 'in', '-p', '1']);
    expect(again.code).toBe(0);
    expect(again.stdout.split('\n').slice(0, 3)).toEqual(stdout.trimEnd().split('\n'));
    expect(created).toBe(4);
    // A command that has succeeded is over: the next one is meant as it stands.
    expect((await home.run(['upload', 'in'])).code).toBe(0);
    expect(created).toBe(8);
  });

  test('a file that was changed meanwhile is a new upload', async () => {
    await put('a.bin', randomBytes(8 * MIB));
    const running = await startStalled(['upload', 'a.bin']);
    running.child.kill('SIGKILL');
    await heal();
    await utimes(join(home.folder, 'a.bin'), new Date(), new Date(1_600_000_000_000));
    expect((await home.run(['upload', 'a.bin'])).code).toBe(0);
    expect(patches.at(-1)?.offset).toBe(0);
    expect(created).toBe(2);
  });

  test('a refused key does not make the upload forgotten', async () => {
    await put('a.bin', randomBytes(8 * MIB));
    const answer = await user.fetch('/api/keys', {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ name: 'short-lived', scopes: ['upload'] }),
    });
    const { id, key } = await answer.json();
    home.env.LANDFALL_API_KEY = key;
    const running = await startStalled(['upload', 'a.bin']);
    running.child.kill('SIGKILL');
    await heal();
    await user.fetch(`/api/keys/${id}`, { method: 'DELETE' });
    expect((await home.run(['upload', 'a.bin'])).code).toBe(3);
    expect((await notes()).filter((name) => name.endsWith('.json'))).toHaveLength(1);
    expect(created).toBe(1);
  });

  test('an upload that was deleted at the server begins anew', async () => {
    await put('a.bin', randomBytes(8 * MIB));
    const running = await startStalled(['upload', 'a.bin']);
    running.child.kill('SIGKILL');
    const { id } = await heal();
    expect((await user.tus('DELETE', `/uploads/${id}`)).status).toBe(204);
    expect((await home.run(['upload', 'a.bin', '--wait'])).code).toBe(0);
    expect(created).toBe(2);
  });

  test('two processes with the same file make one upload', async () => {
    await put('a.bin', randomBytes(4 * MIB));
    const ends = await Promise.all([home.run(['upload', 'a.bin']), home.run(['upload', 'a.bin'])]);
    expect(ends.map(({ code }) => code)).toEqual([0, 0]);
    // The second one found the upload of the first, unless that had ended before it began.
    expect((await listFiles()).length).toBe(created);
    const sent = patches.reduce((sum, { length }) => sum + length, 0);
    expect(sent).toBe(created * 4 * MIB);
  });
});

test('a server that limits new uploads gets all of them, as soon as it takes them', async () => {
  const strict = await startProcesses({ RATE_LIMIT_UPLOADS: '2/1s' }, ['server']);
  try {
    const limited = await registerUser(() => strict.url);
    Object.assign(home.env, { LANDFALL_URL: strict.url, LANDFALL_API_KEY: limited.token });
    for (const name of ['a', 'b', 'c', 'd', 'e', 'f']) await put(`in/${name}`, name);
    expect((await home.run(['upload', 'in', '--retry', '1'])).code).toBe(0);
    expect((await limited.get('/api/files')).items).toHaveLength(6);
  } finally {
    await strict.close();
  }
});

describe('how it ends', () => {
  test('an infected file ends --wait with 4, the others with success', async () => {
    await put('bad.txt', EICAR);
    await put('good.txt', 'good');
    const { code, lines } = await home.json(['upload', 'bad.txt', 'good.txt', '--wait']);
    expect(code).toBe(4);
    const of = (name: string) => lines.find(({ path }) => path.endsWith(name));
    expect(of('bad.txt')).toMatchObject({ status: 'infected', error: { exitCode: 4, code: 'infected' } });
    expect(of('good.txt')).toMatchObject({ status: 'completed' });
  });

  test('a key that may only upload can wait as well', async () => {
    const answer = await user.fetch('/api/upload-tokens', {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ label: 'one file' }),
    });
    home.env.LANDFALL_API_KEY = (await answer.json()).token;
    await put('a.txt', 'of a guest');
    const { code, lines } = await home.json(['upload', 'a.txt', '--wait']);
    expect({ code, lines }).toMatchObject({ code: 0, lines: [{ status: 'completed' }] });
  });

  test('a file that the server does not take ends with 4 and says why', async () => {
    await processes.database.query('UPDATE users SET max_bytes = 10 WHERE id = $1', [user.id]);
    await put('big.txt', 'more than ten bytes');
    const { code, lines } = await home.json(['upload', 'big.txt']);
    const error = { exitCode: 4, status: 413, detail: expect.any(String), requestId: expect.any(String) };
    expect({ code, lines }).toMatchObject({ code: 4, lines: [{ error }] });
  });

  test('without a terminal there are neither bars nor escape sequences, and names cannot bring some in', async () => {
    const name = 'red\x1b[31m\u202Etxt.exe';
    await put(name, 'text');
    const { code, stdout, stderr } = await home.run(['upload', name]);
    // The server takes no control characters in names.
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
    expect(stderr).toMatch(/^landfall: red\uFFFD\[31m\uFFFDtxt\.exe: [ -~]+\n$/);
  });

  test('on a terminal there are bars', async () => {
    await put('a.bin', randomBytes(8 * MIB));
    hold();
    const before = cable.held();
    // The terminal that `script` makes has no size at first.
    const command = `stty rows 24 cols 100 && ${process.execPath} ${PROGRAM} upload a.bin`;
    const child = spawn('script', ['--quiet', '--return', '--command', command, '/dev/null'], {
      cwd: home.folder,
      env: { ...home.env, TERM: 'xterm' },
    });
    let seen = '';
    child.stdout.on('data', (chunk) => {
      seen += chunk;
    });
    // A server that was cut off before its first answer would count as one that cannot be reached.
    await until('the upload to stand still', () => cable.held() > before);
    await until('a bar', () => /a\.bin.*\d+ % [█░]{20} {4}8\.0 MiB/.test(seen));
    release();
    const [code] = await once(child, 'close');
    expect(code).toBe(0);
    expect(seen).toMatch(/[\da-f-]{36} {2}8\.0 MiB {2}a\.bin/);
    // The cursor is visible again.
    expect(seen.lastIndexOf('\x1b[?25h')).toBeGreaterThan(seen.lastIndexOf('\x1b[?25l'));
  });
});
