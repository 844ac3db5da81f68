import { randomBytes } from 'node:crypto';
import { PutObjectCommand } from '@aws-sdk/client-s3';
import { expectCompletedOnce } from '../support/aftermath.js';
import { type Installation, install } from '../support/installation.js';
import { objectKeyOf } from '../support/objects.js';
import { MIB } from '../support/piecewise-upload.js';
import { sha256 } from '../support/plain-client.js';

/* Connections to S3 are reset again and again while a large object is read. */

const EVERY = 1.5 * MIB;
const SIZE = 24 * MIB;

let installation: Installation;

beforeAll(async () => {
  installation = await install();
});
afterAll(() => installation?.close());

test('the worker, in one attempt, and clients read an object to its end despite resets', async () => {
  const { user, s3, processes } = installation;
  s3.rule('GetObject', { cutAfter: EVERY });
  const content = randomBytes(SIZE);
  const id = await user.tusUpload(content);
  const file = await expectCompletedOnce(processes, user, id, content);
  expect(file.attempts).toBe(1);
  const reads = s3.count('GetObject');
  expect(reads).toBeGreaterThanOrEqual(SIZE / EVERY);

  const whole = await user.fetch(`/api/files/${id}/content`);
  expect(sha256(Buffer.from(await whole.arrayBuffer()))).toBe(sha256(content));
  expect(s3.count('GetObject') - reads).toBeGreaterThanOrEqual(SIZE / EVERY);
  const part = await user.fetch(`/api/files/${id}/content`, {
    headers: { Range: `bytes=${MIB}-${SIZE - 2}` },
  });
  expect(sha256(Buffer.from(await part.arrayBuffer()))).toBe(sha256(content.subarray(MIB, SIZE - 1)));
});

test('an object of which the store has lost bytes fails its file at the first attempt', async () => {
  const { user, processes, bucket } = installation;
  await processes.stop('worker');
  const id = await user.upload(randomBytes(MIB), { filename: 'short.bin' });
  const key = await objectKeyOf(processes, id);
  await bucket.client.send(
    new PutObjectCommand({ Bucket: bucket.bucket, Key: key, Body: randomBytes(MIB / 2) }),
  );
  await processes.start('worker');
  expect(await user.settled(id)).toMatchObject({
    status: 'failed',
    attempts: 1,
    error: { step: 'verify', code: 'size_mismatch' },
  });
});
