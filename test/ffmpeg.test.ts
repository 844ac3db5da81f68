import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, readlinkSync } from 'node:fs';
import { chmod, chown, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { makeClip } from '../worker/ffmpeg/pictures.js';
import { demuxerOf, inputArgs, probe } from '../worker/ffmpeg/probe.js';
import { type Ffmpeg, openFfmpeg } from '../worker/ffmpeg/run.js';
import type { WorkFolder } from '../worker/work-folders.js';
import { childrenOf } from './support/processes.js';
import { picture, record, tone } from './support/recordings.js';
import { until } from './support/until.js';

/* How ffmpeg is run: with fewer rights, within limits, and never for what the content names. */

const MIB = 1024 ** 2;
const CANARY = 'canary-77b1c3e0';

const isRoot = process.getuid?.() === 0;
const unshare = isRoot ? ['--net'] : ['--user', '--map-current-user', '--net'];

/** Whether this machine lets a process give up the network. */
const canUnshare = spawnSync('unshare', [...unshare, 'true']).status === 0;

/** Works until it is ended. */
const ENDLESS = ['-v', 'error', '-f', 'lavfi', '-i', 'testsrc', '-f', 'null', '-'];

const never = new AbortController().signal;

let folder: WorkFolder;
let ffmpeg: Ffmpeg;

const open = async (limits: { memory?: number; timeoutSeconds?: number } = {}) => {
  const found = await openFfmpeg({ memory: 1024 * MIB, timeoutSeconds: 600, ...limits });
  if (!found) throw new Error('ffmpeg does not run');
  return found;
};

async function give(content: Buffer | string): Promise<void> {
  await writeFile(folder.content, content);
  if (ffmpeg.owner !== undefined) await chown(folder.content, ffmpeg.owner, ffmpeg.owner);
}

/** The number of a process of this suite that runs the endless task. */
function running(): Promise<number> {
  return until('ffmpeg to run', () =>
    childrenOf(process.pid).find((pid) => {
      // Its tools run before it, as the same process.
      const command = readProc(pid, 'cmdline');
      return /^[^\0]*ffmpeg\0/.test(command) && command.includes('testsrc');
    }),
  );
}

function readProc(pid: number, name: string): string {
  try {
    return readFileSync(`/proc/${pid}/${name}`, 'utf8');
  } catch {
    return '';
  }
}

const isGone = (pid: number) =>
  ['', 'Z'].includes(/^State:\s+(\w)/m.exec(readProc(pid, 'status'))?.[1] ?? '');

beforeAll(async () => {
  const path = await mkdtemp(join(tmpdir(), 'landfall-ffmpeg-'));
  folder = { path, content: join(path, 'content') };
  ffmpeg = await open();
  if (ffmpeg.owner !== undefined) await chown(path, ffmpeg.owner, ffmpeg.owner);
});

afterAll(() => rm(folder.path, { recursive: true, force: true }));

describe('ffmpeg', () => {
  it('has fewer rights than the worker, and knows no secret', async () => {
    process.env.LANDFALL_CANARY = CANARY;
    const stop = new AbortController();
    const ended = ffmpeg.read({ program: 'ffmpeg', args: ENDLESS, folder, signal: stop.signal }, MIB);
    const pid = await running();
    const status = readProc(pid, 'status');
    const limits = readProc(pid, 'limits');
    const environment = readProc(pid, 'environ');
    const networks = [pid, process.pid].map((one) => readlinkSync(`/proc/${one}/ns/net`));
    const reason = new Error('its file was deleted');
    stop.abort(reason);
    await expect(ended).rejects.toBe(reason);
    expect(isGone(pid)).toBe(true);

    expect(environment).not.toMatch(new RegExp(`${CANARY}|PATH=|HOME=`));
    expect(status).toMatch(/^NoNewPrivs:\s+1$/m);
    if (isRoot) {
      expect(ffmpeg.owner).toBe(65_533);
      expect(status).toMatch(/^Uid:\s+65533\s+65533\s+65533\s+65533$/m);
      expect(status).toMatch(/^Groups:\s*$/m);
    }
    expect(status).toMatch(/^CapEff:\s+0+$/m);
    if (canUnshare) expect(networks[0]).not.toBe(networks[1]);
    expect(limits).toMatch(new RegExp(`^Max address space\\s+${1536 * MIB}\\s`, 'm'));
    expect(limits).toMatch(/^Max cpu time\s+1200\s/m);
    expect(limits).toMatch(new RegExp(`^Max file size\\s+${16 * MIB}\\s`, 'm'));
    expect(limits).toMatch(/^Max core file size\s+0\s/m);
  });

  it('is not started for a file that has been deleted already', async () => {
    const reason = new Error('deleted');
    const signal = AbortSignal.abort(reason);
    await expect(ffmpeg.read({ program: 'ffmpeg', args: ENDLESS, folder, signal }, 1)).rejects.toBe(reason);
  });

  it('is ended when it takes too long', async () => {
    const hasty = await open({ timeoutSeconds: 1 });
    const run = { program: 'ffmpeg', args: ENDLESS, folder, signal: never } as const;
    await expect(hasty.read(run, MIB)).rejects.toMatchObject({
      code: 'took_too_long',
      detail: 'More than 1 s',
    });
  });

  it('is ended when it writes too much', async () => {
    const args = ['-v', 'error', '-f', 'lavfi', '-i', 'testsrc', '-f', 'rawvideo', 'pipe:1'];
    const run = { program: 'ffmpeg', args, folder, signal: never } as const;
    await expect(ffmpeg.read(run, MIB)).rejects.toMatchObject({ code: 'unreadable' });
  });

  it('gets no more memory than its limit', async () => {
    const modest = await open({ memory: 128 * MIB });
    const input = ['-v', 'error', '-f', 'lavfi', '-i', 'testsrc'];
    const args = [...input, '-vf', 'scale=12000:12000', '-frames:v', '1', '-f', 'null', '-'];
    const run = { program: 'ffmpeg', args, folder, signal: never } as const;
    await expect(modest.read(run, MIB)).rejects.toMatchObject({ code: 'too_much_memory' });
  });

  it('cannot write beyond its folder, nor more than its limit into it', async () => {
    const write = (to: string, seconds: number) => {
      const args = ['-v', 'error', '-f', 'lavfi', '-i', `testsrc=d=${seconds}`, '-f', 'rawvideo', '-y', to];
      return ffmpeg.read({ program: 'ffmpeg', args, folder, signal: never }, MIB);
    };
    await expect(write('file:inside', 1)).resolves.toBeDefined();
    await expect(write('file:inside', 60)).rejects.toMatchObject({ code: 'unreadable' });
    const other = await mkdtemp(join(tmpdir(), 'landfall-ffmpeg-other-'));
    if (isRoot) await expect(write(`file:${other}/outside`, 1)).rejects.toMatchObject({ code: 'unreadable' });
    await rm(other, { recursive: true });
  });

  it('ends when the worker is killed', async () => {
    const script = `
      const { openFfmpeg } = await import(${JSON.stringify(pathToFileURL(resolve('dist/worker/ffmpeg/run.js')).href)});
      const ffmpeg = await openFfmpeg({ memory: ${1024 * MIB}, timeoutSeconds: 600 });
      const signal = new AbortController().signal;
      const run = { program: 'ffmpeg', args: ${JSON.stringify(ENDLESS)}, folder: { path: '/' }, signal };
      ffmpeg.read(run, 1);
    `;
    const worker = spawn(process.execPath, ['--input-type=module', '--eval', script], { stdio: 'inherit' });
    const pid = await until('ffmpeg to run', () =>
      childrenOf(worker.pid ?? 0).find((one) => /^[^\0]*ffmpeg\0.*testsrc/s.test(readProc(one, 'cmdline'))),
    );
    const ended = once(worker, 'exit');
    worker.kill('SIGKILL');
    await ended;
    await until('ffmpeg to be gone', () => isGone(pid));
  });
});

describe('content that names other files', () => {
  let server: Server;
  let requests: string[];
  let address: string;

  beforeAll(async () => {
    requests = [];
    server = createServer((req, res) => {
      requests.push(req.url ?? '');
      res.end();
    });
    await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
    address = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  });

  afterAll(() => server?.close());

  const TYPES = ['video/mp4', 'video/matroska', 'video/mp2t', 'video/vnd.avi', 'audio/mpeg', 'audio/ogg'];

  it.each([
    ['a playlist of HLS', (url: string) => `#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n${url}/a.ts\n`],
    ['a playlist of a local file', () => '#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nother\n'],
    ['a list for concat', (url: string) => `ffconcat version 1.0\nfile '${url}/b.mp4'\nfile other\n`],
    ['a description of DASH', (url: string) => `<MPD><BaseURL>${url}/</BaseURL><Period/></MPD>`],
    ['a session description', () => 'v=0\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n'],
  ])('is not opened as %s', async (_name, make) => {
    await writeFile(join(folder.path, 'other'), await record('mp4', picture('64x64', 1)));
    await chmod(join(folder.path, 'other'), 0o644);
    await give(make(address));
    for (const type of TYPES) {
      const opened = probe(ffmpeg, demuxerOf(type) ?? '', folder, never).then(
        ({ video, audio }) => ({ video, audio }),
        () => ({}),
      );
      expect(await opened).toEqual({});
    }
    expect(requests).toEqual([]);
  });

  it('is not opened by an MP4 file whose samples are elsewhere', async () => {
    const mov = await record('mov', [...picture('64x64', 1), '-c:v', 'rawvideo', '-pix_fmt', 'rgb24']);
    // Its data reference says "in this file" by a flag; without the flag, the reference is an address.
    const at = mov.indexOf('dref') + 12;
    expect(mov.toString('latin1', at + 4, at + 8)).toMatch(/url |alis/);
    mov.writeUInt32BE(0, at + 8);
    mov.write('url ', at + 4, 'latin1');
    await give(mov);
    const demuxer = demuxerOf('video/quicktime') ?? '';
    await probe(ffmpeg, demuxer, folder, never).catch(() => undefined);
    expect(requests).toEqual([]);
  });

  it('cannot choose a protocol', async () => {
    const args = ['-v', 'error', '-protocol_whitelist', 'file', '-f', 'mov', '-i', `${address}/c.mp4`];
    const run = { program: 'ffprobe', args, folder, signal: never } as const;
    await expect(ffmpeg.read(run, MIB)).rejects.toMatchObject({ code: 'unreadable' });
    expect(requests).toEqual([]);
    expect(inputArgs('mov')).toEqual(
      expect.arrayContaining(['-protocol_whitelist', 'file', '-format_whitelist', '-f']),
    );
  });

  it('is not read in the place of a clip that a program was to make', async () => {
    await give(await record('mp4', [...picture('64x64', 1), ...tone(1)]));
    const probed = await probe(ffmpeg, 'mov', folder, never);
    if (!probed.video) throw new Error('There is no video');
    // As if the program had been taken over: it ends well and leaves a link.
    const taken = { read: async () => Buffer.alloc(0) };
    await symlink('/etc/passwd', join(folder.path, 'clip.mp4'));
    const input = { ffmpeg: taken, folder, signal: never, probed, video: probed.video, maxImagePixels: 1e8 };
    await expect(makeClip(input, 0)).rejects.toThrow();
    await rm(join(folder.path, 'clip.mp4'));
  });
});

it('is not there for the worker when it does not run', async () => {
  const path = process.env.PATH;
  const bin = await mkdtemp(join(tmpdir(), 'landfall-broken-'));
  for (const name of ['ffmpeg', 'ffprobe'])
    await writeFile(join(bin, name), '#!/bin/sh\nexit 1\n', { mode: 0o755 });
  try {
    await chmod(bin, 0o755);
    process.env.PATH = bin;
    expect(await openFfmpeg({ memory: 1024 * MIB, timeoutSeconds: 60 })).toBeUndefined();
  } finally {
    process.env.PATH = path;
    await rm(bin, { recursive: true });
  }
});
