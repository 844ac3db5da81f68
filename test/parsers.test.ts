import { spawnSync } from 'node:child_process';
import { readFileSync, readlinkSync } from 'node:fs';
import { registerUser, type TestUser } from './client.js';
import { makePhotograph } from './fixtures.js';
import { childrenOf, type Processes, startProcesses } from './processes.js';
import { createBucket, type TestBucket } from './s3.js';
import { until } from './until.js';

const CANARY = 'canary-5d0f8a1c';

const isRoot = process.getuid?.() === 0;

/** Whether this machine lets a process give up the network. */
const canUnshare = spawnSync('unshare', ['--user', '--map-current-user', '--net', 'true']).status === 0;

const readProc = (pid: number, name: string) => readFileSync(`/proc/${pid}/${name}`, 'utf8');

describe('a parser process', () => {
  let bucket: TestBucket;
  let processes: Processes;
  let user: TestUser;
  let parsers: number[];

  beforeAll(async () => {
    bucket = await createBucket();
    processes = await startProcesses({
      ...bucket.env,
      JWT_SECRET: CANARY.repeat(3),
      LANDFALL_CANARY: CANARY,
    });
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
    await bucket?.drop();
  });

  it('knows no secret and no address', () => {
    expect(readProc(processes.pid('worker'), 'environ')).toContain(CANARY);
    for (const pid of parsers) {
      const known = readProc(pid, 'environ') + readProc(pid, 'cmdline');
      const secrets = [CANARY, 'PATH', 'DATABASE_URL', processes.dataDir, ...Object.values(bucket.env)];
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
