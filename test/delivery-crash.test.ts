import { randomBytes } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { GetObjectTaggingCommand } from '@aws-sdk/client-s3';
import { type Barrier, closeBarrier } from './support/barrier.js';
import { type Delivering, deliveredEvents, installDelivering } from './support/delivering.js';
import { until } from './support/until.js';

/* Workers that are killed around a delivery: the copy is there once, with one event, and nothing else is left. */

const MIB = 1024 ** 2;

/** A dead worker is noticed after 15 s; then the job still has to run. */
const TAKEOVER_SECONDS = 150;

let landfall: Delivering;

beforeAll(async () => {
  landfall = await installDelivering(['server'], () => ({ WORKER_CONCURRENCY: '8' }));
});
afterAll(() => landfall?.close());

const ofFile = (id: string) => `NEW.file_id = '${id}'`;

/** Before the delivery is recorded: the copy is there. */
const atRecord = (id: string) =>
  closeBarrier(
    landfall.processes.database,
    'UPDATE ON file_deliveries',
    `${ofFile(id)} AND NEW.delivered_at IS NOT NULL`,
  );

/** Before the name of the multipart upload or the temporary file is recorded. */
const atBegin = (id: string) =>
  closeBarrier(
    landfall.processes.database,
    'UPDATE ON file_deliveries',
    `${ofFile(id)} AND NEW.unfinished IS NOT NULL`,
  );

test('killed before, within and after each copy: every file is delivered once', async () => {
  const { processes, user, target, folder, far, s3 } = landfall;
  const small = randomBytes(1000);
  const large = randomBytes(20 * MIB);
  const send = async (to: string, content: Buffer) => ({ id: await landfall.send(content, to), to, content });
  const still = {
    copied: await send('same:{id}', small),
    sent: await send('far:{id}', small),
    sentInParts: await send('far:{id}', large),
    written: await send('disk:{id}', large),
    beginning: await send('disk:{id}', small),
  };
  const barriers: Barrier[] = await Promise.all([
    atRecord(still.copied.id),
    atRecord(still.sent.id),
    atRecord(still.sentInParts.id),
    atRecord(still.written.id),
    atBegin(still.beginning.id),
  ]);
  await processes.start('worker');
  await Promise.all(barriers.map((barrier) => barrier.reached()));

  // Requests have time limits, so these two come last. Ceph has copied, but the worker does not know.
  const copying = s3.pauseAt(
    ({ operation, key }) => operation === 'CopyObject' && !key.endsWith(still.copied.id),
    'after',
  );
  const isThirdPart = ({ query, key }: { query: URLSearchParams; key: string }) =>
    query.get('partNumber') === '3' && !key.endsWith(still.sentInParts.id);
  const letSend = far.rule(isThirdPart, { hold: 'before' });
  const files = {
    ...still,
    copying: await send('same:{id}', randomBytes(MIB)),
    sending: await send('far:{id}', Buffer.concat([large, small])),
  };
  await Promise.all([
    copying.reached,
    until('the third part to be sent', () => far.requests.some(isThirdPart)),
  ]);
  await processes.kill('worker');
  expect((await target.listMultipartUploads()).map(({ key }) => key)).toEqual([`far/${files.sending.id}`]);
  await Promise.all(barriers.map((barrier) => barrier.cut()));
  copying.open();
  letSend();

  await processes.start('worker');
  for (const { id, to, content } of Object.values(files)) {
    const file = await user.settled(id, TAKEOVER_SECONDS);
    expect({ to, status: file.status, error: file.error }).toEqual({ to, status: 'completed', error: null });
    const destination = to.split(':')[0] ?? '';
    const key = destination === 'disk' ? id : `${destination}/${id}`;
    expect(file.deliveries).toHaveLength(1);
    expect(await deliveredEvents(user, id)).toEqual([{ destination, key, size: content.length }]);
    const delivered = destination === 'disk' ? await readFile(join(folder, id)) : await target.read(key);
    expect(content.equals(delivered)).toBe(true);
    if (destination !== 'far') continue;
    const { TagSet } = await target.client.send(
      new GetObjectTaggingCommand({ Bucket: target.bucket, Key: key }),
    );
    expect(TagSet).toEqual([{ Key: 'a', Value: 'b' }]);
  }
  const keys = Object.values(files).map(({ id }) => id);
  expect((await target.listKeys()).map((key) => key.replace(/.*\//, '')).sort()).toEqual(
    keys.filter((id) => id !== files.written.id && id !== files.beginning.id).sort(),
  );
  expect(await target.listMultipartUploads()).toEqual([]);
  expect((await readdir(folder)).sort()).toEqual([files.written.id, files.beginning.id].sort());
  // The copies that were complete were recognised: nothing was copied or sent twice.
  const puts = [...s3.requests, ...far.requests].filter(({ operation }) =>
    ['CopyObject', 'PutObject', 'CompleteMultipartUpload'].includes(operation),
  );
  for (const { id } of [files.copied, files.sent, files.sentInParts, files.copying]) {
    expect(puts.filter(({ key }) => key.endsWith(id) && key.includes('/'))).toHaveLength(1);
  }
});
