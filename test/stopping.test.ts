import { type FileJson, registerUser, type TestUser } from './support/client.js';
import { makePhotograph, makeSlowPng } from './support/fixtures.js';
import { childrenOf, type Processes, startProcesses } from './support/processes.js';
import { createBucket, type TestBucket } from './support/s3.js';
import { type S3Proxy, startS3Proxy } from './support/s3-proxy.js';
import { until } from './support/until.js';

/* What a worker with one slot and one parser does with S3: it reads an image twice, and it stops when a user deletes one. */

/** A second, and what a busy machine needs to process the next file. Nothing else would end these attempts for minutes. */
const SOON_MS = 30_000;

let bucket: TestBucket;
let proxy: S3Proxy;
let processes: Processes;
let user: TestUser;

beforeAll(async () => {
  bucket = await createBucket();
  proxy = await startS3Proxy(bucket.env.S3_ENDPOINT);
  processes = await startProcesses({
    ...bucket.env,
    S3_ENDPOINT: proxy.url,
    WORKER_CONCURRENCY: '1',
    // Nothing but the deletion may end a parser or a read here.
    PARSER_TIMEOUT_SECONDS: '600',
  });
  user = await registerUser(() => processes.url);
});

afterAll(async () => {
  await processes?.close();
  await proxy?.close();
  await bucket?.drop();
});

/** Processes a file, and counts how often the worker opened its object. */
async function countReads(content: Buffer, filename: string): Promise<{ file: FileJson; reads: number }> {
  const before = proxy.count('GetObject');
  const file = await user.settled(await user.upload(content, { filename }));
  return { file, reads: proxy.count('GetObject') - before };
}

/** Deletes a file, and waits until the next one, which needs no parser, has had the only slot. */
async function deleteBefore(id: string): Promise<number> {
  const next = await user.upload(Buffer.alloc(0), { filename: 'next.txt' });
  expect(await user.get(`/api/files/${next}/status`)).toMatchObject({ status: 'pending' });
  const answer = await user.fetch(`/api/files/${id}?permanent=1`, { method: 'DELETE' });
  expect(answer.status).toBe(204);
  const deletedAt = Date.now();
  const { completedAt } = await user.settled(next);
  return Date.parse(completedAt ?? '') - deletedAt;
}

test('an image is read once to be verified and scanned, and once for its metadata and thumbnails', async () => {
  const { file, reads } = await countReads(await makePhotograph(), 'phare.jpg');
  expect(file).toMatchObject({
    status: 'completed',
    warnings: [],
    steps: { metadata: { state: 'done' }, thumbnails: { state: 'done' } },
  });
  expect(reads).toBe(2);
  // No step decodes bytes of no known type.
  expect((await countReads(Buffer.alloc(100), 'a.bin')).reads).toBe(1);
});

test('a parser that decodes the image of a deleted file is killed, and the next file has its slot within a second', async () => {
  const id = await user.upload(await makeSlowPng(), { filename: 'slow.png' });
  await until(
    'it to be decoded',
    async () => (await user.get(`/api/files/${id}/status`)).step === 'thumbnails',
  );
  const parsers = childrenOf(processes.pid('worker'));
  expect(parsers).toHaveLength(1);
  // It would never answer, and would notice no signal but SIGKILL.
  for (const pid of parsers) process.kill(pid, 'SIGSTOP');
  expect(await deleteBefore(id)).toBeLessThan(SOON_MS);
  await until('another parser', () => {
    const now = childrenOf(processes.pid('worker'));
    return now.length === 1 && now[0] !== parsers[0];
  });
});

test('the read of a deleted file from a store that does not answer ends, and the next file has its slot within a second', async () => {
  const hold = proxy.pauseAt('GetObject', 'before');
  try {
    const id = await user.upload(Buffer.from('held'), { filename: 'held.txt' });
    await hold.reached;
    // An empty file is read too, but only the first read is held.
    expect(await deleteBefore(id)).toBeLessThan(SOON_MS);
  } finally {
    hold.open();
  }
});
