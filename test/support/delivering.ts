import { randomUUID } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestUser } from './client.js';
import { type HookReceiver, startHookReceiver } from './hook-receiver.js';
import { type Installation, install } from './installation.js';
import type { Part } from './processes.js';
import { createBucket, type TestBucket } from './s3.js';
import { type S3Proxy, startS3Proxy } from './s3-proxy.js';

/*
 * An installation that delivers. The hook reads the target of each file in its metadata (`to`), so that one start serves all
 * tests. The destinations:
 * - same: a bucket in the store of the installation
 * - rich: the same bucket, with everything that can be set
 * - far: the same bucket at another address, so that Landfall takes it for another store
 * - wrong: there too, with keys that nobody has
 * - missing: a bucket that does not exist
 * - disk, gone: folders; the second does not exist
 */

export interface Delivering extends Installation {
  receiver: HookReceiver;
  /** Where files are delivered. */
  target: TestBucket;
  /** Before the store, at the address of the destinations `far` and `wrong`. */
  far: S3Proxy;
  /** Of the destination `disk`. */
  folder: string;
  /** The folder of the destination `gone`, which a test may make. */
  gone: string;
  /** Sends a file that is to be delivered to this target. Returns its id. */
  send(content: Uint8Array, to: string, metadata?: Record<string, string>): Promise<string>;
}

/** @param env further environment of all processes, for the bucket where files are delivered */
export async function installDelivering(
  parts?: Part[],
  env: (bucket: string) => Record<string, string> = () => ({}),
): Promise<Delivering> {
  const [receiver, target] = await Promise.all([startHookReceiver(), createBucket()]);
  receiver.answer = ({ type, event }) =>
    type === 'pre-create' && event.Upload.MetaData.to ? { DeliverTo: event.Upload.MetaData.to } : {};
  const far = await startS3Proxy(target.env.S3_ENDPOINT);
  const base = await mkdtemp(join(tmpdir(), 'landfall-delivery-'));
  const folder = await mkdtemp(join(base, 'disk-'));
  const gone = join(base, 'gone');
  const bucket = target.bucket;
  const keys = {
    accessKeyId: target.env.S3_ACCESS_KEY_ID,
    secretAccessKeyFrom: 'S3_SECRET_ACCESS_KEY',
  };
  const destinations = {
    same: { bucket, prefix: 'same/' },
    rich: {
      bucket,
      prefix: 'rich/',
      storageClass: 'STANDARD',
      contentDisposition: 'attachment',
      headers: {
        'Cache-Control': 'max-age=60',
        'X-Amz-Meta-Owner': '{owner}',
        'X-Amz-Meta-Project': '{metadata.project}',
      },
      tags: { project: '{metadata.project}', type: '{type}' },
    },
    far: {
      bucket,
      prefix: 'far/',
      endpoint: far.url,
      ...keys,
      contentDisposition: 'inline',
      headers: { 'Cache-Control': 'no-cache', 'X-Amz-Meta-Project': '{metadata.project}' },
      tags: { a: 'b' },
    },
    wrong: { bucket, endpoint: far.url, accessKeyId: 'nobody', secretAccessKey: randomUUID() },
    missing: { bucket: `missing-${randomUUID()}` },
    disk: { folder },
    gone: { folder: gone },
  };
  const file = join(base, 'destinations.json');
  await writeFile(file, JSON.stringify(destinations));
  const installation = await install({
    ...(parts ? { parts } : {}),
    env: { HOOK_URL: receiver.url, HOOK_EVENTS: 'pre-create', DELIVER_DESTINATIONS: file, ...env(bucket) },
  });
  const { user } = installation;
  return {
    ...installation,
    receiver,
    target,
    far,
    folder,
    gone,
    send: (content, to, metadata = {}) => user.upload(content, { to, ...metadata }),
    async close() {
      await installation.close();
      await Promise.all([receiver.close(), far.close(), target.drop()]);
      await rm(base, { recursive: true, force: true });
    },
  };
}

/** The data of the events that a file was delivered, oldest first. */
export async function deliveredEvents(user: TestUser, id: string): Promise<object[]> {
  const { items } = await user.get(`/api/files/${id}/events`);
  return items
    .filter(({ type }: { type: string }) => type === 'file.delivered')
    .map(({ data }: { data: object }) => data);
}
