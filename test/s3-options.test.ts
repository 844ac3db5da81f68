import { createHash, randomBytes, randomUUID } from 'node:crypto';
import { buffer } from 'node:stream/consumers';
import { DeleteBucketCommand, HeadBucketCommand } from '@aws-sdk/client-s3';
import { loadConfig } from '../core/config.js';
import { ConfigError } from '../core/config-error.js';
import { createLogger } from '../core/log.js';
import { openS3Storage } from '../core/storage/s3/storage.js';
import { BytesLost, type Part, type Storage, type StoredUpload } from '../core/storage/storage.js';
import { appendTo } from './support/bytes.js';
import { createBucket, createS3Client, type TestBucket } from './support/s3.js';
import { type S3Proxy, startS3Proxy } from './support/s3-proxy.js';

const MIB = 1024 ** 2;

let bucket: TestBucket;
let proxy: S3Proxy;

beforeAll(async () => {
  bucket = await createBucket();
  proxy = await startS3Proxy(bucket.env.S3_ENDPOINT);
});
afterAll(async () => {
  await proxy.close();
  await bucket.drop();
});

function openStorage(variables: Record<string, string> = {}): Promise<Storage> {
  const { s3 } = loadConfig({ ...bucket.env, S3_ENDPOINT: proxy.url, ...variables });
  if (!s3) throw new Error('no bucket is configured');
  return openS3Storage(s3, 32 * MIB, createLogger('silent', 'test'));
}

/** Uploads the content, and returns the key of its object. */
async function upload(storage: Storage, content: Buffer): Promise<string> {
  let present: StoredUpload = { key: randomUUID(), offset: 0, length: content.length, state: null };
  const parts: Part[] = [];
  let key: string | undefined;
  async function* source() {
    yield content;
  }
  await appendTo(storage.uploads, present, source(), async (progress) => {
    present = { ...present, offset: progress.offset, state: progress.state ?? present.state };
    parts.push(...(progress.parts ?? []));
    key = progress.objectKey;
  });
  return key ?? (await storage.uploads.complete(present, parts)).objectKey;
}

test('S3_SSE and S3_KMS_KEY_ID are sent with every request that begins an object', async () => {
  const storage = await openStorage({ S3_SSE: 'aws:kms', S3_KMS_KEY_ID: 'some-key' });
  // This store has no encryption keys and refuses, so the test looks at the requests.
  await storage.blobs.write('a-blob', Buffer.from('blob')).catch(() => {});
  await upload(storage, randomBytes(9 * MIB)).catch(() => {});
  for (const operation of ['PutObject', 'CreateMultipartUpload'] as const) {
    const asked = proxy.requests.find((request) => request.operation === operation);
    expect(asked?.headers).toMatchObject({
      'x-amz-server-side-encryption': 'aws:kms',
      'x-amz-server-side-encryption-aws-kms-key-id': 'some-key',
    });
  }
});

test('S3_CHECKSUMS=when_supported: the store checks what it gets', async () => {
  const storage = await openStorage({ S3_CHECKSUMS: 'when_supported' });
  for (const size of [1000, 20 * MIB]) {
    const content = randomBytes(size);
    const key = await upload(storage, content);
    expect((await buffer(await storage.blobs.read(key))).equals(content)).toBe(true);
    const sent = proxy.requests.filter((request) => request.key.startsWith(key.slice(0, 36)));
    const bodies = sent.filter(({ operation }) => operation === 'PutObject' || operation === 'UploadPart');
    expect(bodies.length).toBe(size < MIB ? 1 : 3);
    for (const { headers } of bodies) expect(headers['content-md5']).toMatch(/^[\w+/]{22}==$/);
    if (bodies.length === 1) {
      const md5 = createHash('md5').update(content).digest('base64');
      expect(bodies[0]?.headers['content-md5']).toBe(md5);
    }
  }
});

describe('the bucket', () => {
  test('is created if it is missing', async () => {
    const name = `test-${randomBytes(6).toString('hex')}`;
    const storage = await openStorage({ S3_BUCKET: name });
    const key = await upload(storage, Buffer.from('abc'));
    await storage.blobs.delete(key);
    const client = createS3Client();
    await client.send(new HeadBucketCommand({ Bucket: name }));
    await client.send(new DeleteBucketCommand({ Bucket: name }));
    client.destroy();
  });

  test.each([
    ['keys that are wrong', { S3_SECRET_ACCESS_KEY: 'wrong' }, /^S3_BUCKET=.*the keys may not use it/],
    ['a store that is not there', { S3_ENDPOINT: 'http://127.0.0.1:1' }, /^S3_BUCKET=.*ECONNREFUSED/],
  ])('refused because of %s makes the start fail with the reason', async (_what, variables, message) => {
    await expect(openStorage(variables)).rejects.toThrow(ConfigError);
    await expect(openStorage(variables)).rejects.toThrow(message);
  });

  test('that is missing and may not be created makes the start fail with the reason', async () => {
    const remove = proxy.rule('CreateBucket', { fail: 403, code: 'AccessDenied' });
    const opening = openStorage({ S3_BUCKET: `test-${randomBytes(6).toString('hex')}` });
    await expect(opening).rejects.toThrow(/does not exist and could not be created: .*AccessDenied/);
    remove();
  });
});

test('an upload whose bodies had to be dropped again and again ends', async () => {
  const storage = await openStorage();
  const open = (nextPart: number) => {
    const state = { multipartId: 'any', nextPart, tail: [] };
    return storage.uploads.open(
      { key: randomUUID(), offset: 0, length: 20 * MIB, state },
      async () => {},
      'at the end',
    );
  };
  await (await open(100)).end();
  await expect(open(1000)).rejects.toBeInstanceOf(BytesLost);
});
