import { randomBytes } from 'node:crypto';
import { expectCompletedOnce } from '../support/aftermath.js';
import { idOf, type TestUser } from '../support/client.js';
import { concatenate } from '../support/concatenated-upload.js';
import { type Dialect, IETF, type Piece, TUS } from '../support/dialects.js';
import { expectInOrder, type Installation, install } from '../support/installation.js';
import { objectKeyOf, storageKeyOf } from '../support/objects.js';
import { MIB } from '../support/piecewise-upload.js';
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
  /** The sizes of the pieces that are acknowledged before the server stands still. */
  before: number[];
  /** The size of the piece that stands still. */
  piece: number;
  /** The call to S3 at which it stands still. */
  operation: 'PutObject' | 'UploadPart';
  /** Whether it has a digest. */
  checksum?: boolean;
  /** Undefined: tus. */
  dialect?: Dialect;
  /** Whether the upload is a partial one, of which the other server makes a final one. */
  partial?: boolean;
}

const CASES: Case[] = [
  { name: 'a part', length: 20 * MIB, before: [8 * MIB], piece: 9 * MIB, operation: 'UploadPart' },
  {
    name: 'a part that takes up a tail',
    length: 20 * MIB,
    before: [MIB],
    piece: 9 * MIB,
    operation: 'UploadPart',
  },
  { name: 'a first segment', length: 20 * MIB, before: [], piece: MIB, operation: 'PutObject' },
  { name: 'a further segment', length: 20 * MIB, before: [8 * MIB, MIB], piece: MIB, operation: 'PutObject' },
  { name: 'the last part', length: 12 * MIB, before: [8 * MIB], piece: 4 * MIB, operation: 'UploadPart' },
  { name: 'a whole object', length: MIB, before: [], piece: MIB, operation: 'PutObject' },
  {
    ...{ name: 'a part with a checksum', length: 20 * MIB, before: [MIB], piece: 9 * MIB },
    ...{ operation: 'UploadPart', checksum: true },
  },
  {
    ...{ name: 'a further segment with a checksum', length: 20 * MIB, before: [MIB], piece: MIB },
    ...{ operation: 'PutObject', checksum: true },
  },
  {
    ...{ name: 'a part of a PATCH by the IETF draft', length: 20 * MIB, before: [MIB], piece: 9 * MIB },
    ...{ operation: 'UploadPart', dialect: IETF },
  },
  {
    ...{ name: 'a part with a Content-Digest', length: 20 * MIB, before: [MIB], piece: 9 * MIB },
    ...{ operation: 'UploadPart', dialect: IETF, checksum: true },
  },
  {
    ...{ name: 'a whole object of a POST by the IETF draft', length: MIB, before: [], piece: MIB },
    ...{ operation: 'PutObject', dialect: IETF },
  },
  {
    ...{ name: 'the last part of a partial upload', length: 12 * MIB, before: [8 * MIB], piece: 4 * MIB },
    ...{ operation: 'UploadPart', partial: true },
  },
  {
    ...{ name: 'a whole partial upload', length: MIB, before: [], piece: MIB },
    ...{ operation: 'PutObject', partial: true },
  },
];

/** Cuts bytes into pieces of these sizes, from an offset on; what they leave is not sent. */
function cut(content: Buffer, from: number, sizes: number[]): Piece[] {
  let offset = from;
  return sizes.map((size) => {
    const body = content.subarray(offset, offset + size);
    const piece = { offset, body, isLast: offset + body.length === content.length };
    offset += body.length;
    return piece;
  });
}

const endOf = ({ offset, body, isLast }: Piece) => ({ offset: offset + body.length, isComplete: isLast });

/** Sends the pieces that are acknowledged, and then the one that stands still at S3. */
async function beginStalled(its: Case) {
  const { length, before, operation, checksum = false, dialect = TUS, partial = false } = its;
  const { user, processes, s3 } = installation;
  const content = randomBytes(length);
  const pieces = cut(content, 0, [...before, its.piece]).map((piece) => ({ ...piece, checksum }));
  const [first] = pieces as [Piece, ...Piece[]];
  const late = pieces.pop() as Piece;
  const headers: Record<string, string> = partial ? { 'Upload-Concat': 'partial' } : {};
  const { path, send } = await dialect.begin(user, { length, first, headers });
  for (const piece of pieces) expect(await send(piece)).toEqual(endOf(piece));
  const id = idOf(path);
  const key = await storageKeyOf(processes, id);
  const pause = s3.pauseAt(
    (request) => request.key.startsWith(key) && request.operation === operation,
    'before',
  );
  const stalled = send(late);
  // The test awaits it much later, and fails then if it was refused.
  stalled.catch(() => {});
  await pause.reached;
  return { id, path, dialect, partial, content, offset: late.offset, pause, stalled };
}

type Stalled = Awaited<ReturnType<typeof beginStalled>>;

/** The client asks the other server, which has to wait until the lease has run out. */
async function takeOver(other: TestUser, { path, dialect, offset }: Stalled): Promise<void> {
  const told = await until('the other server to have the upload', () => dialect.ask(other, path));
  expect(told.offset).toBe(offset);
}

interface Landed {
  fileId: string;
  content: Buffer;
}

/** The client goes on at the other server, with other bytes from the offset on. @returns the whole file */
async function goOnAt(other: TestUser, upload: Stalled, sizes: number[]): Promise<Landed> {
  const { id, path, dialect, partial, offset } = upload;
  const rest = upload.content.length - offset;
  const content = Buffer.concat([upload.content.subarray(0, offset), randomBytes(rest)]);
  for (const piece of cut(content, offset, [...sizes, rest])) {
    if (piece.body.length > 0) expect(await dialect.send(other, path, piece)).toEqual(endOf(piece));
  }
  return { fileId: partial ? await concatenate(other, [path]) : id, content };
}

test.each([
  ['after the other has finished', true],
  ['while the other is at it', false],
])('a server that stands still in a request wakes up %s', async (_, finished) => {
  const { processes, user, bucket, s3 } = installation;
  const other = user.at(() => processes.urlOf('server-2'));
  const stalled = await Promise.all(CASES.map(beginStalled));
  process.kill(processes.pid('server'), 'SIGSTOP');
  const landed: Landed[] = [];
  try {
    const wake = async () => {
      process.kill(processes.pid('server'), 'SIGCONT');
      for (const { pause } of stalled) pause.open();
      // None is acknowledged, and those of the IETF draft are not answered at all.
      expect(await Promise.all(stalled.map((each) => each.stalled))).toEqual(stalled.map(() => undefined));
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
    landed.push(...(await going));
    await processes.start('worker');
    for (const { fileId, content } of landed) await expectCompletedOnce(processes, other, fileId, content);
    await processes.stop('worker');
    if (finished) await wake();
  } finally {
    process.kill(processes.pid('server'), 'SIGCONT');
  }
  await processes.start('worker');
  for (const [index, { fileId, content }] of landed.entries()) {
    await expectCompletedOnce(processes, user, fileId, content);
    const key = await objectKeyOf(processes, stalled[index]?.id ?? '');
    expect((await bucket.read(key)).equals(content)).toBe(true);
  }
  await expectInOrder(installation);
});
