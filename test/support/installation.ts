import { expectBlobsInOrder } from './aftermath.js';
import { registerUser, type TestUser } from './client.js';
import { type Part, type Processes, startProcesses } from './processes.js';
import { createBucket, type TestBucket } from './s3.js';
import { type S3Proxy, startS3Proxy } from './s3-proxy.js';

/** Landfall over a bucket of its own, which it reaches through a proxy that can fail. */
export interface Installation {
  processes: Processes;
  user: TestUser;
  /** The bucket, reached directly and not through the proxy. */
  bucket: TestBucket;
  s3: S3Proxy;
  close(): Promise<void>;
}

export interface InstallationOptions {
  parts?: Part[];
  env?: Record<string, string>;
  /** The address at which the processes find the database. */
  reach?: (databaseUrl: string) => Promise<string>;
}

export async function install({ parts, env, reach }: InstallationOptions = {}): Promise<Installation> {
  const bucket = await createBucket();
  const s3 = await startS3Proxy(bucket.env.S3_ENDPOINT);
  const processes = await startProcesses(
    { ...bucket.env, S3_ENDPOINT: s3.url, ...env },
    parts ?? ['server', 'worker'],
    reach,
  );
  return {
    processes,
    user: await registerUser(() => processes.url),
    bucket,
    s3,
    async close() {
      await processes.close();
      await s3.close();
      await bucket.drop();
    },
  };
}

/** Compares the store with the database, after a worker that has just started has cleaned up. */
export async function expectInOrder({ processes, bucket }: Installation): Promise<void> {
  await processes.stop('worker');
  await processes.start('worker');
  await expectBlobsInOrder(processes, bucket);
}
