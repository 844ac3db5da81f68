import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { readFileSync, readlinkSync } from 'node:fs';
import { Readable } from 'node:stream';
import sharp from 'sharp';
import { createLogger } from '../core/log.js';
import { startParsers } from '../core/media/parsers.js';
import { registerUser, type TestUser } from './support/client.js';
import { makePhotograph } from './support/fixtures.js';
import { childrenOf, type Processes, startProcesses } from './support/processes.js';
import { createBucket, type TestBucket } from './support/s3.js';
import { type S3Proxy, startS3Proxy } from './support/s3-proxy.js';
import { until } from './support/until.js';

const MIB = 1024 ** 2;

const CANARY = 'canary-5d0f8a1c';

const isRoot = process.getuid?.() === 0;

/** Whether this machine lets a process give up the network. */
const canUnshare = spawnSync('unshare', ['--user', '--map-current-user', '--net', 'true']).status === 0;

const readProc = (pid: number, name: string) => readFileSync(`/proc/${pid}/${name}`, 'utf8');

test('a task that waits for a free process ends when it is told to stop', async () => {
  const log = createLogger('silent', 'test');
  const pool = startParsers({ count: 0, timeoutSeconds: 60, maxImagePixels: 1, memory: MIB, log });
  const stop = new AbortController();
  const source = { size: 1, read: async () => Readable.from([Buffer.from('a')]) };
  const waiting = [pool.run('metadata', source, stop.signal), pool.run('type', source, stop.signal)];
  const reason = new Error('its file was deleted');
  stop.abort(reason);
  for (const task of waiting) await expect(task).rejects.toBe(reason);
  await expect(pool.open(source, stop.signal).run('metadata')).rejects.toBe(reason);
  pool.close();
});

test('an object of which a parser can hold only a part is not read for its thumbnails', async () => {
  const log = createLogger('silent', 'test');
  const pool = startParsers({ count: 0, timeoutSeconds: 60, maxImagePixels: 1, memory: 2 * MIB, log });
  const read = () => Promise.reject(new Error('it was read'));
  const session = pool.open({ size: MIB + 1, read }, new AbortController().signal);
  await expect(session.run('thumbnails')).rejects.toMatchObject({
    code: 'too_much_memory',
    detail: `${MIB + 1} bytes; at most ${MIB} are read into memory`,
  });
  pool.close();
});

describe('a parser process', () => {
  let bucket: TestBucket;
  let proxy: S3Proxy;
  let env: TestBucket['env'];
  let processes: Processes;
  let user: TestUser;
  let parsers: number[];

  beforeAll(async () => {
    bucket = await createBucket();
    proxy = await startS3Proxy(bucket.env.S3_ENDPOINT);
    env = { ...bucket.env, S3_ENDPOINT: proxy.url };
    processes = await startProcesses({ ...env, JWT_SECRET: CANARY.repeat(3), LANDFALL_CANARY: CANARY });
    user = await registerUser(() => processes.url);
    await until('the parsers to have given up their rights', async () => {
      parsers = childrenOf(processes.pid('worker'));
      const isUp = (pid: number) =>
        readProc(pid, 'cmdline').startsWith(process.execPath) && (!isRoot || uidOf(pid) !== '0');
      return parsers.length > 0 && parsers.every(isUp);
    });
  });

  afterAll(async () => {
    await processes?.close();
    await proxy?.close();
    await bucket?.drop();
  });

  it('knows no secret and no address', () => {
    expect(readProc(processes.pid('worker'), 'environ')).toContain(CANARY);
    for (const pid of parsers) {
      const known = readProc(pid, 'environ') + readProc(pid, 'cmdline');
      const secrets = [CANARY, 'PATH', 'DATABASE_URL', processes.dataDir, ...Object.values(env)];
      for (const secret of secrets) expect(known).not.toContain(secret);
    }
  });

  it('may do less than the worker', () => {
    const network = (pid: number) => readlinkSync(`/proc/${pid}/ns/net`);
    for (const pid of parsers) {
      expect(readProc(pid, 'cmdline')).toMatch(/--(experimental-)?permission/);
      if (isRoot) expect(readProc(pid, 'status')).toMatch(/CapEff:\s+0+$/m);
      if (canUnshare) expect(network(pid)).not.toBe(network(processes.pid('worker')));
    }
  });

  it('does not take an image for broken when the store breaks off in the middle of it', async () => {
    const noise = sharp(randomBytes(1000 * 1000 * 3), { raw: { width: 1000, height: 1000, channels: 3 } });
    const image = await noise.jpeg().toBuffer();
    let cut = 0;
    // The first read of an object is that of verify, sniff and scan.
    const removeRule = proxy.rule(
      ({ operation }, index) => operation === 'GetObject' && index > 0 && cut++ < 2,
      { cut: 'answer' },
    );
    const file = await user.settled(await user.upload(image, { filename: 'noise.jpg' }));
    removeRule();
    expect(cut).toBeGreaterThan(2);
    expect(file).toMatchObject({
      status: 'completed',
      warnings: [],
      steps: { thumbnails: { state: 'done' } },
    });
  });

  it('reads what the worker fetches from S3 for it', async () => {
    const id = await user.upload(await makePhotograph(), { filename: 'phare.jpg' });
    expect(await user.settled(id)).toMatchObject({
      status: 'completed',
      warnings: [],
      metadata: { image: { width: 1000, height: 1600 } },
      steps: { metadata: { state: 'done' }, thumbnails: { state: 'done' } },
    });
  });
});

function uidOf(pid: number): string | undefined {
  return /^Uid:\s+(\d+)/m.exec(readProc(pid, 'status'))?.[1];
}
