import { randomBytes, randomUUID } from 'node:crypto';
import { mkdir, readdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { type IncomingMessage, type ServerResponse, request as send } from 'node:http';
import { join } from 'node:path';
import { safeName } from '../cli/safe-name.js';
import { registerUser, type TestUser } from './support/client.js';
import { type Home, makeHome, type Running } from './support/command.js';
import { type HttpProxy, startHttpProxy } from './support/http-proxy.js';
import { type Processes, startProcesses } from './support/processes.js';
import { until } from './support/until.js';

/* `landfall get`: where the bytes come to lie, and how a download goes on after an interruption. */

const MIB = 1024 ** 2;

let processes: Processes;
let proxy: HttpProxy;
let user: TestUser;
let home: Home;
/** The Range and If-Range of each request for a content. */
let asked: { range?: string | undefined; ifRange?: string | undefined }[];
/** Resolves when the proxy may go on with requests for a content after the first one. */
let mayGoOn: Promise<void>;
/** What happens to the next answers with a content: after so many bytes they break off, or nothing more comes. */
let faults: { after: number; end: 'break' | 'silence' }[];

beforeAll(async () => {
  processes = await startProcesses();
  proxy = await startHttpProxy(() => processes.url);
  proxy.meddle = async (request, response) => {
    if (!request.url?.includes('/content')) return false;
    if (asked.length > 0) await mayGoOn;
    asked.push({ range: request.headers.range, ifRange: request.headers['if-range'] as string | undefined });
    const fault = faults.shift();
    if (fault) forwardPart(request, response, fault);
    return fault !== undefined;
  };
});

afterAll(async () => {
  proxy?.close();
  await processes?.close();
});

beforeEach(async () => {
  asked = [];
  faults = [];
  mayGoOn = Promise.resolve();
  user = await registerUser(() => processes.url);
  home = await makeHome({ LANDFALL_URL: proxy.url, LANDFALL_API_KEY: user.token });
});

afterEach(() => home?.remove());

/** Forwards an answer as far as the fault lets it come. */
function forwardPart(
  { url, headers }: IncomingMessage,
  response: ServerResponse,
  { after, end }: (typeof faults)[number],
): void {
  const onward = send(`${processes.url}${url}`, { headers });
  onward.on('response', (answer) => {
    response.writeHead(answer.statusCode ?? 502, answer.rawHeaders);
    let carried = 0;
    answer.on('data', (chunk: Buffer) => {
      response.write(chunk.subarray(0, Math.max(0, after - carried)));
      carried += chunk.length;
      if (carried < after) return;
      answer.destroy();
      // What has been written goes out before the end.
      if (end === 'break') response.socket?.destroySoon();
    });
    answer.on('error', () => {});
  });
  onward.end();
}

async function store(content: Buffer, filename: string): Promise<string> {
  const id = await user.upload(content, { filename });
  await user.settled(id);
  return id;
}

const read = (name: string) => readFile(join(home.folder, name));

const partOf = (id: string) => join(home.folder, `.landfall-${id}.part`);

/** Starts a download of which only the first MiB comes, and waits for that. */
async function startSilenced(id: string): Promise<Running> {
  faults = [{ after: MIB, end: 'silence' }];
  const running = home.start(['get', id]);
  await until('bytes to arrive', async () => (await readFile(partOf(id)).catch(() => '')).length === MIB);
  return running;
}

const list = async () => (await readdir(home.folder)).filter((name) => name !== 'state').sort();

describe('where it lies', () => {
  test('a file gets the name that it has at the server, and nothing else is left', async () => {
    const content = randomBytes(MIB);
    const id = await store(content, 'holiday.bin');
    const { code, stdout, stderr } = await home.run(['get', id]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    expect(stdout).toBe(`${join(home.folder, 'holiday.bin')}  1.0 MiB\n`);
    expect((await read('holiday.bin')).equals(content)).toBe(true);
    expect(await list()).toEqual(['holiday.bin']);
    expect(await readdir(join(home.folder, 'state/landfall/downloads'))).toEqual([]);
  });

  test('--output names a file, or a folder', async () => {
    const id = await store(Buffer.from('text'), 'a.txt');
    await mkdir(join(home.folder, 'folder'));
    expect((await home.run(['get', id, '-o', 'other.txt'])).code).toBe(0);
    expect((await home.run(['get', id, '-o', 'folder'])).code).toBe(0);
    expect(await list()).toEqual(['folder', 'other.txt']);
    expect(await readdir(join(home.folder, 'folder'))).toEqual(['a.txt']);
  });

  test('an empty file', async () => {
    const id = await store(Buffer.alloc(0), 'empty.txt');
    expect((await home.run(['get', id])).code).toBe(0);
    expect(await read('empty.txt')).toHaveLength(0);
  });

  test('a file that exists is replaced with --force only, and a link is replaced itself', async () => {
    const id = await store(Buffer.from('new'), 'a.txt');
    await writeFile(join(home.folder, 'precious.txt'), 'precious');
    await symlink('precious.txt', join(home.folder, 'a.txt'));
    const { code, stderr } = await home.run(['get', id]);
    expect({ code, stderr }).toMatchObject({ code: 1, stderr: expect.stringContaining('--force') });
    expect(asked).toEqual([]);
    expect((await home.run(['get', id, '--force'])).code).toBe(0);
    expect((await read('a.txt')).toString()).toBe('new');
    expect((await read('precious.txt')).toString()).toBe('precious');
  });

  test('a file that appears during the download is not replaced', async () => {
    const id = await store(randomBytes(MIB), 'a.bin');
    faults = [{ after: MIB / 2, end: 'break' }];
    let goOn = () => {};
    mayGoOn = new Promise((resolve) => {
      goOn = resolve;
    });
    const running = home.start(['get', id]);
    await until('the download to begin', () => asked.length > 0);
    await writeFile(join(home.folder, 'a.bin'), 'mine');
    goOn();
    expect((await running.ended).code).toBe(1);
    expect((await read('a.bin')).toString()).toBe('mine');
    // The bytes are here: the download is over as soon as a place is named.
    expect((await home.run(['get', id, '--force'])).code).toBe(0);
    expect((await read('a.bin')).length).toBe(MIB);
    expect(asked).toHaveLength(2);
  });

  test.each([
    ['../../etc/passwd', 'passwd'],
    ['..\\..\\evil.exe', 'evil.exe'],
    ['.bashrc', '_bashrc'],
    ['-rf', '_rf'],
    ['..', '_.'],
    ['.', 'id'],
    ['', 'id'],
    ['/', 'id'],
    ['a\x1b[31m\n\u202Eb.txt', 'a[31mb.txt'],
    ['\ud800.txt', '\ufffd.txt'],
    [`${'ä'.repeat(200)}.jpeg`, `${'ä'.repeat(125)}.jpeg`],
    ['x'.repeat(300), 'x'.repeat(255)],
  ])('the name %j of a server becomes %j', (given, safe) => {
    expect(safeName(given, 'id')).toBe(safe);
  });
});

describe('after an interruption', () => {
  test('the same process asks for the rest', async () => {
    const content = randomBytes(4 * MIB);
    const id = await store(content, 'a.bin');
    faults = [
      { after: MIB, end: 'break' },
      { after: MIB / 2, end: 'break' },
    ];
    expect((await home.run(['get', id])).code).toBe(0);
    expect((await read('a.bin')).equals(content)).toBe(true);
    const starts = asked.map(({ range }) => Number(/^bytes=(\d+)-$/.exec(range ?? '')?.[1] ?? 0));
    expect(starts).toHaveLength(3);
    expect(starts).toEqual([0, expect.any(Number), expect.any(Number)]);
    expect(starts[1]).toBeGreaterThan(0);
    expect(starts[2]).toBeGreaterThan(starts[1] ?? 0);
    expect(asked[2]?.ifRange).toMatch(/^"[\da-f]{64}"$/);
  });

  test('another process continues the part of one that was killed', async () => {
    const content = randomBytes(4 * MIB);
    const id = await store(content, 'a.bin');
    const running = await startSilenced(id);
    running.child.kill('SIGKILL');
    await running.ended;
    const { code, stderr } = await home.run(['get', id]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: 'a.bin: continues at 25 %\n' });
    expect(asked[1]).toEqual({ range: `bytes=${MIB}-`, ifRange: expect.stringMatching(/^"/) });
    expect((await read('a.bin')).equals(content)).toBe(true);
    expect(await list()).toEqual(['a.bin']);
  });

  test('Ctrl-C keeps the part and says that the same command continues', async () => {
    const id = await store(randomBytes(2 * MIB), 'a.bin');
    const running = await startSilenced(id);
    running.child.kill('SIGINT');
    expect(await running.ended).toEqual({
      code: 130,
      stdout: '',
      stderr: 'landfall: Interrupted; the same command continues\n',
    });
    expect((await home.run(['get', id])).code).toBe(0);
  });

  test('bytes that are not those of the file are thrown away', async () => {
    const content = randomBytes(2 * MIB);
    const id = await store(content, 'a.bin');
    const running = await startSilenced(id);
    running.child.kill('SIGKILL');
    await running.ended;
    await writeFile(partOf(id), Buffer.alloc(MIB));
    const { code, stderr } = await home.run(['get', id]);
    expect({ code, stderr }).toMatchObject({ code: 1, stderr: expect.stringContaining('SHA-256') });
    expect(await list()).toEqual([]);
    expect((await home.run(['get', id])).code).toBe(0);
    expect((await read('a.bin')).equals(content)).toBe(true);
  });

  test('a server that is away for longer than --retry ends the command with 5', async () => {
    const id = await store(randomBytes(2 * MIB), 'a.bin');
    faults = Array(50).fill({ after: 0, end: 'break' });
    expect((await home.run(['get', id, '--retry', '1'])).code).toBe(5);
    faults = [];
    expect((await home.run(['get', id])).code).toBe(0);
  });
});

test('an infected file ends with 4, one that is not there with 1', async () => {
  const eicar = ['X5O!P%@AP[4\\PZX54(P^)7CC)7}$', 'EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*'].join('');
  const id = await store(Buffer.from(eicar), 'bad.txt');
  expect((await home.run(['get', id])).code).toBe(4);
  expect((await home.run(['get', randomUUID()])).code).toBe(1);
  expect(await list()).toEqual([]);
});
