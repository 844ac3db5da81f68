import { listKeys } from './aftermath.js';
import type { Processes } from './processes.js';
import { openRedis } from './redis.js';
import { createBucket, type TestBucket } from './s3.js';

/*
 * What server and worker can stand on. The main job, and who may write to an upload, must not differ by it.
 */

export interface Form {
  /** What startProcesses() is given. */
  env: Record<string, string>;
  /** Undefined: the bytes are in the folder of the processes. */
  bucket: TestBucket | undefined;
  /** Keys of all objects that are stored, also of those that nobody has finished yet. */
  listStored(processes: Processes): Promise<string[]>;
  /** Removes what the form consists of; the processes are closed before. */
  close(): Promise<void>;
}

/** For describe.each(): a name, and what makes an empty one of the kind. */
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

/** A bucket and a Redis of its own. */
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
