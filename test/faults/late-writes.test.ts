import { createHash, randomBytes } from 'node:crypto';
import { expectCompletedOnce } from '../support/aftermath.js';
import type { TestUser } from '../support/client.js';
import { expectInOrder, type Installation, install } from '../support/installation.js';
import { objectKeyOf, storageKeyOf } from '../support/objects.js';
import { beginUpload, MIB } from '../support/piecewise-upload.js';
import { until } from '../support/until.js';

/*
 * A server stands still while it sends bytes to S3, loses its leases, and wakes up after another server has
 * gone on with other bytes. Its late writes must not reach the file.
 */

let installation: Installation;

beforeEach(async () => {
  // Enough for the bodies of all cases at a time.
  const env = { UPLOAD_MEMORY_BUDGET: '512MiB' };
  installation = await install({ parts: ['server', 'server-2'], env });
});
afterEach(() => installation?.close());

interface Case {
  name: string;
  length: number;
  /** The sizes of the PATCHes that are acknowledged before the server stands still. */
  before: number[];
  /** The size of the PATCH that stands still. */
  patch: number;
  /** The call to S3 at which it stands still. */
  operation: 'PutObject' | 'UploadPart';
  /** Whether it has a checksum. */
  checksum?: boolean;
}

const CASES: Case[] = [
  { name: 'a part', length: 20 * MIB, before: [8 * MIB], patch: 9 * MIB, operation: 'UploadPart' },
  {
    name: 'a part that takes up a tail',
    length: 20 * MIB,
    before: [MIB],
    patch: 9 * MIB,
    operation: 'UploadPart',
  },
  { name: 'a first segment', length: 20 * MIB, before: [], patch: MIB, operation: 'PutObject' },
  { name: 'a further segment', length: 20 * MIB, before: [8 * MIB, MIB], patch: MIB, operation: 'PutObject' },
  { name: 'the last part', length: 12 * MIB, before: [8 * MIB], patch: 4 * MIB, operation: 'UploadPart' },
  { name: 'a whole object', length: MIB, before: [], patch: MIB, operation: 'PutObject' },
  {
    ...{ name: 'a part with a checksum', length: 20 * MIB, before: [MIB], patch: 9 * MIB },
    ...{ operation: 'UploadPart', checksum: true },
  },
  {
    ...{ name: 'a further segment with a checksum', length: 20 * MIB, before: [MIB], patch: MIB },
    ...{ operation: 'PutObject', checksum: true },
  },
];

/** Sends the PATCHes that are acknowledged, and then the one that stands still at S3. */
async function beginStalled({ length, before, patch, operation, checksum }: Case) {
  const { user, processes, s3 } = installation;
  const content = randomBytes(length);
  const upload = await beginUpload(user, content, []);
  let offset = 0;
  for (const size of before) {
    const body = content.subarray(offset, offset + size) as BodyInit;
    const answer = await user.tus('PATCH', upload.path, { 'Upload-Offset': String(offset) }, body);
    expect(answer.status).toBe(204);
    offset += size;
  }
  const key = await storageKeyOf(processes, upload.id);
  const pause = s3.pauseAt(
    (request) => request.key.startsWith(key) && request.operation === operation,
    'before',
  );
  const body = content.subarray(offset, offset + patch);
  const sum = `sha1 ${createHash('sha1').update(body).digest('base64')}`;
  const headers = { 'Upload-Offset': String(offset), ...(checksum ? { 'Upload-Checksum': sum } : {}) };
  const stalled = user
    .tus('PATCH', upload.path, headers, body as BodyInit)
    .then((answer) => answer.status)
    .catch(() => undefined);
  await pause.reached;
  return { upload, content, offset, key, pause, stalled };
}

type Stalled = Awaited<ReturnType<typeof beginStalled>>;

/** The client asks the other server, which has to wait until the lease has run out. */
async function takeOver(other: TestUser, { upload, offset }: Stalled): Promise<void> {
  const head = await until(
    'the other server to have the upload',
    async () => {
      const answer = await other.tus('HEAD', upload.path);
      return answer.status === 200 ? answer : undefined;
    },
    40,
  );
  expect(Number(head.headers.get('Upload-Offset'))).toBe(offset);
}

/** The client goes on at the other server, with other bytes from the offset on. @returns the whole content */
async function goOnAt(
  other: TestUser,
  { upload, content, offset }: Stalled,
  sizes: number[],
): Promise<Buffer> {
  const all = Buffer.concat([content.subarray(0, offset), randomBytes(content.length - offset)]);
  let at = offset;
  for (const size of [...sizes, all.length]) {
    const end = Math.min(at + size, all.length);
    if (end === at) break;
    const body = all.subarray(at, end) as BodyInit;
    const answer = await other.tus('PATCH', upload.path, { 'Upload-Offset': String(at) }, body);
    expect([answer.status, answer.headers.get('Upload-Offset')]).toEqual([204, String(end)]);
    at = end;
  }
  return all;
}

test.each([
  ['after the other has finished', true],
  ['while the other is at it', false],
])('a server that stands still in a PATCH wakes up %s', async (_, finished) => {
  const { processes, user, bucket, s3 } = installation;
  const other = user.at(() => processes.urlOf('server-2'));
  const stalled = await Promise.all(CASES.map(beginStalled));
  process.kill(processes.pid('server'), 'SIGSTOP');
  const contents: Buffer[] = [];
  try {
    const wake = async () => {
      process.kill(processes.pid('server'), 'SIGCONT');
      for (const { pause } of stalled) pause.open();
      const statuses = await Promise.all(stalled.map((each) => each.stalled));
      for (const status of statuses) expect(status).not.toBe(204);
    };
    // Take all uploads over: the server that wakes up would still rightly hold any other.
    await Promise.all(stalled.map((each) => takeOver(other, each)));
    const late = finished ? undefined : s3.pauseAt('CompleteMultipartUpload', 'before');
    const going = Promise.all(stalled.map((each) => goOnAt(other, each, [3 * MIB, 6 * MIB])));
    if (late) {
      await late.reached;
      await wake();
      late.open();
    }
    contents.push(...(await going));
    await processes.start('worker');
    for (const [index, { upload }] of stalled.entries()) {
      await expectCompletedOnce(processes, other, upload.id, contents[index] ?? Buffer.alloc(0));
    }
    await processes.stop('worker');
    if (finished) await wake();
  } finally {
    process.kill(processes.pid('server'), 'SIGCONT');
  }
  await processes.start('worker');
  for (const [index, { upload }] of stalled.entries()) {
    const content = contents[index] ?? Buffer.alloc(0);
    await expectCompletedOnce(processes, user, upload.id, content);
    const key = await objectKeyOf(processes, upload.id);
    expect((await bucket.read(key)).equals(content)).toBe(true);
  }
  await expectInOrder(installation);
});
