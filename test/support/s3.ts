import { randomBytes } from 'node:crypto';
import {
  AbortMultipartUploadCommand,
  CreateBucketCommand,
  DeleteBucketCommand,
  DeleteObjectCommand,
  GetObjectCommand,
  ListMultipartUploadsCommand,
  type ListMultipartUploadsOutput,
  paginateListObjectsV2,
  S3Client,
} from '@aws-sdk/client-s3';
import { MARKER } from '../../core/storage/storage.js';

export interface TestBucket {
  /** Landfall's configuration for this bucket. */
  env: Record<'S3_BUCKET' | 'S3_ENDPOINT' | 'S3_ACCESS_KEY_ID' | 'S3_SECRET_ACCESS_KEY', string>;
  client: S3Client;
  bucket: string;
  /** The keys of all objects but the marker of the installation. */
  listKeys(): Promise<string[]>;
  /** The objects with their sizes in bytes. */
  listObjects(): Promise<{ key: string; size: number }[]>;
  /** The multipart uploads that are neither completed nor aborted. */
  listMultipartUploads(): Promise<{ key: string; uploadId: string }[]>;
  read(key: string): Promise<Buffer>;
  /** Removes the bucket and all that is in it. */
  drop(): Promise<void>;
}

/** A client of the tests' S3 server, or of a proxy before it. It tries each request `attempts` times. */
export function createS3Client(endpoint = requireEnv('TEST_S3_ENDPOINT'), attempts = 3): S3Client {
  return new S3Client({
    endpoint,
    maxAttempts: attempts,
    region: 'us-east-1',
    forcePathStyle: true,
    credentials: {
      accessKeyId: requireEnv('TEST_S3_ACCESS_KEY_ID'),
      secretAccessKey: requireEnv('TEST_S3_SECRET_ACCESS_KEY'),
    },
    // Ceph refuses the trailing checksums that the SDK sends by default.
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
  });
}

/** Makes an empty bucket for one suite. */
export async function createBucket(): Promise<TestBucket> {
  const client = createS3Client();
  const Bucket = `test-${randomBytes(6).toString('hex')}`;
  await client.send(new CreateBucketCommand({ Bucket }));

  async function listAll() {
    const objects: { key: string; size: number }[] = [];
    for await (const page of paginateListObjectsV2({ client }, { Bucket })) {
      for (const { Key = '', Size = 0 } of page.Contents ?? []) objects.push({ key: Key, size: Size });
    }
    return objects;
  }

  const listObjects = async () => (await listAll()).filter(({ key }) => !key.endsWith(MARKER));
  const listKeys = async () => (await listObjects()).map(({ key }) => key);

  async function listMultipartUploads() {
    const uploads: { key: string; uploadId: string }[] = [];
    let last: ListMultipartUploadsOutput | undefined;
    do {
      last = await client.send(
        new ListMultipartUploadsCommand({
          Bucket,
          KeyMarker: last?.NextKeyMarker,
          UploadIdMarker: last?.NextUploadIdMarker,
        }),
      );
      for (const { Key = '', UploadId = '' } of last.Uploads ?? []) {
        uploads.push({ key: Key, uploadId: UploadId });
      }
    } while (last.IsTruncated);
    return uploads;
  }

  return {
    env: {
      S3_BUCKET: Bucket,
      S3_ENDPOINT: requireEnv('TEST_S3_ENDPOINT'),
      S3_ACCESS_KEY_ID: requireEnv('TEST_S3_ACCESS_KEY_ID'),
      S3_SECRET_ACCESS_KEY: requireEnv('TEST_S3_SECRET_ACCESS_KEY'),
    },
    client,
    bucket: Bucket,
    listKeys,
    listObjects,
    listMultipartUploads,
    async read(Key) {
      const { Body } = await client.send(new GetObjectCommand({ Bucket, Key }));
      return Buffer.from((await Body?.transformToByteArray()) ?? []);
    },
    async drop() {
      for (const { key: Key, uploadId: UploadId } of await listMultipartUploads()) {
        await client.send(new AbortMultipartUploadCommand({ Bucket, Key, UploadId }));
      }
      for (const { key: Key } of await listAll()) await client.send(new DeleteObjectCommand({ Bucket, Key }));
      await client.send(new DeleteBucketCommand({ Bucket }));
      client.destroy();
    },
  };
}

function requireEnv(name: string): string {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is missing: run the tests with npm test`);
  return value;
}
