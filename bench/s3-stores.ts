import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { fileURLToPath } from 'node:url';
import { CreateBucketCommand, DeleteObjectCommand, ListObjectsV2Command, S3Client } from '@aws-sdk/client-s3';
import { startScript } from './programs.js';

/* The stores that the benches of S3 run on: one that discards bytes, and a real one. */

const CEPH = fileURLToPath(new URL('../../test/support/services/ceph-rgw.sh', import.meta.url));

export interface Store {
  name: string;
  endpoint: string;
  accessKeyId: string;
  secretAccessKey: string;
  client: S3Client;
  /** Returns the counts since the last call. */
  takeCounts?: () => Promise<Counts>;
  stop(): Promise<void>;
}

export interface Counts {
  requests: Record<string, number>;
  /** Bytes of the objects that were made. */
  stored: number;
}

export function sumRequests({ requests }: Counts): number {
  return Object.values(requests).reduce((sum, count) => sum + count, 0);
}

/** The store that discards; it alone counts requests. */
export type NullS3 = Store & { takeCounts: () => Promise<Counts> };

/** Starts the store that discards. */
export async function startNullS3(): Promise<NullS3> {
  const server = await startScript('./null-s3.js', {});
  const counts = `${server.url}/__counts`;
  return {
    ...connect('null S3', server.url, 'bench', 'bench'),
    takeCounts: async () => (await fetch(counts, { method: 'DELETE' })).json() as Promise<Counts>,
    stop: () => server.stop(),
  };
}

/**
 * The store that BENCH_S3_ENDPOINT, BENCH_S3_ACCESS_KEY_ID and BENCH_S3_SECRET_ACCESS_KEY name, or a Ceph of
 * our own.
 * @returns nothing where Ceph is not installed, or when BENCH_S3_ENDPOINT=none
 */
async function startRealS3(): Promise<Store | undefined> {
  const { BENCH_S3_ENDPOINT, BENCH_S3_ACCESS_KEY_ID = '', BENCH_S3_SECRET_ACCESS_KEY = '' } = process.env;
  if (BENCH_S3_ENDPOINT === 'none') return undefined;
  if (BENCH_S3_ENDPOINT) {
    const store = connect('S3', BENCH_S3_ENDPOINT, BENCH_S3_ACCESS_KEY_ID, BENCH_S3_SECRET_ACCESS_KEY);
    return { ...store, stop: async () => {} };
  }
  if (!existsSync('/usr/bin/radosgw')) return undefined;
  const [port, accessKeyId, secretAccessKey] = [await findFreePort(), 'bench', 'only-for-the-bench'];
  const arguments_ = [port, await findFreePort(), accessKeyId, secretAccessKey].map(String);
  // Ceph keeps its data on disk here: in memory it would take twice the size.
  const env = { ...process.env, STORE: 'bluestore' };
  const script = spawn(CEPH, arguments_, { env, stdio: ['pipe', 'pipe', 'inherit'] });
  const ended = once(script, 'exit');
  const failed = ended.then(([code]) => Promise.reject(new Error(`Ceph ended with ${code}`)));
  await Promise.race([once(script.stdout, 'data'), failed]);
  failed.catch(() => {});
  return {
    ...connect('Ceph', `http://127.0.0.1:${port}`, accessKeyId, secretAccessKey),
    async stop() {
      // Ceph runs until its standard input ends.
      script.stdin.end();
      await ended;
    },
  };
}

/** Runs a bench on the store that discards and then on a real one, if there is one. */
export async function onEachStore<T>(bench: (store: Store) => Promise<T[]>): Promise<T[]> {
  const rows: T[] = [];
  for (const start of [startNullS3, startRealS3]) {
    const store = await start();
    if (!store) continue;
    try {
      rows.push(...(await bench(store)));
    } finally {
      await store.stop();
    }
  }
  return rows;
}

export async function createBucket(store: Store, bucket: string): Promise<void> {
  await store.client.send(new CreateBucketCommand({ Bucket: bucket }));
}

/** Sizes of a bucket's objects by key: the first thousand. */
export async function listObjects(store: Store, bucket: string): Promise<Map<string, number>> {
  const { Contents = [] } = await store.client.send(new ListObjectsV2Command({ Bucket: bucket }));
  return new Map(Contents.map(({ Key = '', Size = 0 }) => [Key, Size]));
}

/**
 * Makes room after a run: deletes the objects that the other contenders leave. (Stock answers 404 to the DELETE of a
 * finished upload.)
 */
export async function emptyBucket(store: Store, bucket: string): Promise<void> {
  for (;;) {
    const keys = [...(await listObjects(store, bucket)).keys()];
    if (keys.length === 0) return;
    await Promise.all(
      keys.map((key) => store.client.send(new DeleteObjectCommand({ Bucket: bucket, Key: key }))),
    );
  }
}

function connect(name: string, endpoint: string, accessKeyId: string, secretAccessKey: string) {
  const client = new S3Client({
    endpoint,
    region: 'us-east-1',
    forcePathStyle: true,
    credentials: { accessKeyId, secretAccessKey },
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
  });
  return { name, endpoint, accessKeyId, secretAccessKey, client };
}

export async function findFreePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}
