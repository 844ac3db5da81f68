import { listKeys } from './folder.js';
import type { Processes } from './processes.js';
import { openRedis } from './redis.js';
import { createBucket, type TestBucket } from './s3.js';

/*
 * The stores and queues that server and worker can run on. The main job and the leases must work alike on
 * each.
 */

export interface Form {
  /** The environment for startProcesses(). */
  env: Record<string, string>;
  /** Undefined: the bytes are in the folder of the processes. */
  bucket: TestBucket | undefined;
  /** The keys of all stored objects, unfinished multipart uploads included. */
  listStored(processes: Processes): Promise<string[]>;
  /** Removes the bucket and the Redis of the form. Close the processes first. */
  close(): Promise<void>;
}

/** For describe.each(): a name, and a function that opens an empty form of that kind. */
export const FORMS: [name: string, open: () => Promise<Form>][] = [
  ['files and PostgreSQL', openFiles],
  ['S3 and Redis', openS3AndRedis],
];

async function openFiles(): Promise<Form> {
  return {
    env: {},
    bucket: undefined,
    listStored: ({ dataDir }) => listKeys(dataDir),
    close: async () => {},
  };
}

/** Opens a form with a bucket and a Redis of its own. */
export async function openS3AndRedis(): Promise<Form & { bucket: TestBucket }> {
  const [bucket, redis] = await Promise.all([createBucket(), openRedis()]);
  return {
    env: { ...bucket.env, REDIS_URL: redis.url },
    bucket,
    async listStored() {
      const unfinished = await bucket.listMultipartUploads();
      return [...(await bucket.listKeys()), ...unfinished.map(({ key }) => key)];
    },
    async close() {
      await Promise.all([bucket.drop(), redis.close()]);
    },
  };
}
