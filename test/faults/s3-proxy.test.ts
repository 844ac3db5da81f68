import { randomBytes } from 'node:crypto';
import {
  CompleteMultipartUploadCommand,
  CreateMultipartUploadCommand,
  GetObjectCommand,
  HeadObjectCommand,
  ListPartsCommand,
  PutObjectCommand,
  type S3Client,
  UploadPartCommand,
} from '@aws-sdk/client-s3';
import { createBucket, createS3Client, type TestBucket } from '../support/s3.js';
import { type S3Proxy, startS3Proxy } from '../support/s3-proxy.js';

const MIB = 1024 ** 2;

let bucket: TestBucket;
let proxy: S3Proxy;
/** Tries each request once, so that the test sees each fault. */
let client: S3Client;
let Bucket: string;

beforeAll(async () => {
  bucket = await createBucket();
  Bucket = bucket.bucket;
});
beforeEach(async () => {
  proxy = await startS3Proxy(bucket.env.S3_ENDPOINT);
  client = createS3Client(proxy.url, 1);
});
afterEach(async () => {
  client.destroy();
  await proxy.close();
});
afterAll(() => bucket?.drop());

const put = (Key: string, Body: Buffer | string = 'content') =>
  client.send(new PutObjectCommand({ Bucket, Key, Body }));
const get = async (Key: string) => {
  const { Body } = await client.send(new GetObjectCommand({ Bucket, Key }));
  return Buffer.from((await Body?.transformToByteArray()) ?? []);
};
const exists = async (key: string) => (await bucket.listKeys()).includes(key);
const createUpload = async (Key: string) => {
  const { UploadId = '' } = await client.send(new CreateMultipartUploadCommand({ Bucket, Key }));
  return { Bucket, Key, UploadId };
};

test('without rules the proxy passes signatures and large bodies on, and names the operations', async () => {
  const upload = await createUpload('a folder/ä+%');
  const bodies = [randomBytes(9 * MIB), randomBytes(3 * MIB)];
  const Parts = [];
  for (const [index, Body] of bodies.entries()) {
    const PartNumber = index + 1;
    const { ETag } = await client.send(new UploadPartCommand({ ...upload, PartNumber, Body }));
    Parts.push({ PartNumber, ETag });
  }
  await client.send(new ListPartsCommand(upload));
  await client.send(new CompleteMultipartUploadCommand({ ...upload, MultipartUpload: { Parts } }));
  expect((await get(upload.Key)).equals(Buffer.concat(bodies))).toBe(true);
  await client.send(new HeadObjectCommand({ Bucket, Key: upload.Key }));

  expect(proxy.requests.map(({ operation }) => operation)).toEqual([
    'CreateMultipartUpload',
    'UploadPart',
    'UploadPart',
    'ListParts',
    'CompleteMultipartUpload',
    'GetObject',
    'HeadObject',
  ]);
  expect(proxy.requests[2]).toMatchObject({ method: 'PUT', key: 'a folder/ä+%', status: 200 });
  expect(proxy.requests[2]?.query.get('partNumber')).toBe('2');
  expect(proxy.count('UploadPart')).toBe(2);
});

test('a rule fails the requests that it picks, and only until it is removed', async () => {
  const remove = proxy.rule(({ operation }, index) => operation === 'PutObject' && index > 0, { fail: 503 });
  await put('first');
  await expect(put('second')).rejects.toMatchObject({
    name: 'SlowDown',
    $metadata: { httpStatusCode: 503 },
  });
  await expect(put('large', randomBytes(5 * MIB))).rejects.toMatchObject({ name: 'SlowDown' });
  remove();
  await put('third');
  expect([await exists('first'), await exists('second'), await exists('third')]).toEqual([true, false, true]);
});

test('a request can fail for the client after S3 has done it', async () => {
  proxy.rule('PutObject', { fail: 500, at: 'after' });
  await expect(put('told-failed')).rejects.toMatchObject({ name: 'InternalError' });
  expect(await bucket.read('told-failed')).toEqual(Buffer.from('content'));
});

test('the client is cut off before, in the middle of its body, and after', async () => {
  for (const place of ['before', 'body', 'after'] as const) {
    for (const size of [10, 6 * MIB]) {
      const key = `cut-${place}-${size}`;
      const remove = proxy.rule('PutObject', { cut: place });
      await expect(put(key, randomBytes(size))).rejects.toThrow();
      remove();
      expect(await exists(key)).toBe(place === 'after');
    }
  }
});

test('an answer breaks off in the middle', async () => {
  await put('long', randomBytes(4 * MIB));
  proxy.rule('GetObject', { cut: 'answer' });
  await expect(get('long')).rejects.toThrow();
});

test('a request is held before S3 sees it, and after S3 has done it', async () => {
  const before = proxy.pauseAt((request) => request.key === 'held', 'before');
  const after = proxy.pauseAt(
    ({ operation }, index) => operation === 'CompleteMultipartUpload' && index === 0,
    'after',
  );
  const putting = put('held');
  await before.reached;
  expect(await exists('held')).toBe(false);
  before.open();
  await putting;
  expect(await exists('held')).toBe(true);

  const upload = await createUpload('completed');
  const { ETag } = await client.send(new UploadPartCommand({ ...upload, PartNumber: 1, Body: 'part' }));
  const completing = client.send(
    new CompleteMultipartUploadCommand({ ...upload, MultipartUpload: { Parts: [{ PartNumber: 1, ETag }] } }),
  );
  expect(await after.reached).toMatchObject({ operation: 'CompleteMultipartUpload', key: 'completed' });
  expect(await exists('completed')).toBe(true);
  expect(await bucket.listMultipartUploads()).toEqual([]);
  after.open();
  await completing;
});

test('a client that ends while its request is held has not sent it', async () => {
  const pause = proxy.pauseAt('PutObject', 'before');
  const abort = new AbortController();
  const putting = client.send(new PutObjectCommand({ Bucket, Key: 'never', Body: 'content' }), {
    abortSignal: abort.signal,
  });
  await pause.reached;
  abort.abort();
  await expect(putting).rejects.toThrow();
  pause.open();
  await put('next');
  expect(await exists('never')).toBe(false);
});

test('S3 goes away and comes back at the same address', async () => {
  const pause = proxy.pauseAt('PutObject', 'before');
  const cut = expect(put('away')).rejects.toThrow();
  await pause.reached;
  await proxy.away();
  await cut;
  await expect(put('away')).rejects.toThrow('ECONNREFUSED');
  await proxy.back();
  await put('away');
  expect(await exists('away')).toBe(true);
});
