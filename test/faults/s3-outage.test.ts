import { randomBytes } from 'node:crypto';
import { setTimeout as pause } from 'node:timers/promises';
import { expectCompletedOnce, findUpload } from '../support/aftermath.js';
import { expectInOrder, type Installation, install } from '../support/installation.js';
import { storageKeyOf } from '../support/objects.js';
import { beginUpload, MIB } from '../support/piecewise-upload.js';
import { until } from '../support/until.js';

/* Uploads while S3 is away, refuses requests, or never answers. */

const AWAY_MS = 20_000;

let installation: Installation;

beforeEach(async () => {
  installation = await install();
});
afterEach(() => installation?.close());

test('uploads are completed after an outage of 20 s in their middle, and no offset goes back', async () => {
  const { user, s3, processes } = installation;
  // Slow parts keep all uploads under way until S3 goes away.
  const slow = s3.rule('UploadPart', { delay: 300 });
  const contents = [randomBytes(20 * MIB), randomBytes(40 * MIB), randomBytes(18 * MIB)];
  const chunkSizes = [2 * MIB, 12 * MIB, Number.POSITIVE_INFINITY];
  const offsets: number[][] = contents.map(() => []);
  const uploads = contents.map((content, index) =>
    user.tusUpload(content, {
      chunkSize: chunkSizes[index] ?? MIB,
      retryDelays: Array(100).fill(500),
      onAfterResponse(_, response) {
        const offset = response.getHeader('Upload-Offset');
        if (offset && response.getStatus() < 300) offsets[index]?.push(Number(offset));
      },
    }),
  );
  await until('parts of the uploads to be there', () => s3.count('UploadPart') >= 4);
  await s3.away();
  await pause(AWAY_MS);
  await s3.back();
  slow();
  for (const [index, id] of (await Promise.all(uploads)).entries()) {
    await expectCompletedOnce(processes, user, id, contents[index] ?? Buffer.alloc(0));
    expect(offsets[index]).toEqual([...(offsets[index] ?? [])].sort((a, b) => a - b));
  }
  await expectInOrder(installation);
});

test('the offset never passes a part that S3 refuses, also when later parts are stored', async () => {
  const { user, s3, processes } = installation;
  const content = randomBytes(40 * MIB);
  const upload = await beginUpload(user, content, [content.length]);
  const heal = s3.rule(
    ({ operation, query }) => operation === 'UploadPart' && query.get('partNumber') === '2',
    { fail: 500 },
  );
  const sending = user
    .tus('PATCH', upload.path, { 'Upload-Offset': '0' }, content as BodyInit)
    .then((answer) => answer.status)
    .catch(() => undefined);
  await until('later parts to be there', () => {
    const landed = s3.requests.filter(
      ({ operation, status }) => operation === 'UploadPart' && status === 200,
    );
    return landed.some(({ query }) => Number(query.get('partNumber')) > 2);
  });
  const head = await until('the offset', async () => {
    const answer = await user.tus('HEAD', upload.path);
    return answer.status === 200 ? answer : undefined;
  });
  expect(Number(head.headers.get('Upload-Offset'))).toBeLessThanOrEqual(8 * MIB);
  expect(await sending).not.toBe(204);
  expect((await findUpload(processes, upload.id)).offset).toBeLessThanOrEqual(8 * MIB);

  heal();
  await upload.finish();
  await expectCompletedOnce(processes, user, upload.id, content);
  await expectInOrder(installation);
});

const SILENT = [
  { name: 'a part', length: 20 * MIB, operation: 'UploadPart' },
  { name: 'a segment', length: 20 * MIB, patch: 2 * MIB, operation: 'PutObject' },
  { name: 'a whole object', length: MIB, operation: 'PutObject' },
  { name: 'the beginning of parts', length: 20 * MIB, operation: 'CreateMultipartUpload' },
  { name: 'reading back a tail', length: 20 * MIB, before: MIB, operation: 'GetObject' },
];

test('a HEAD is answered while a call of the PATCH gets no answer, and the upload goes on', async () => {
  const { user, s3, processes } = installation;
  await Promise.all(
    SILENT.map(async ({ name, length, before = 0, patch = length, operation }) => {
      const content = randomBytes(length);
      const upload = await beginUpload(user, content, [before, length]);
      if (before) {
        const body = content.subarray(0, before) as BodyInit;
        expect((await user.tus('PATCH', upload.path, { 'Upload-Offset': '0' }, body)).status).toBe(204);
      }
      const key = await storageKeyOf(processes, upload.id);
      let held = 0;
      const release = s3.rule(
        (request) => {
          const holds = request.operation === operation && request.key.startsWith(key);
          if (holds) held++;
          return holds;
        },
        { hold: 'before' },
      );
      const body = content.subarray(before, patch) as BodyInit;
      const sending = user
        .tus('PATCH', upload.path, { 'Upload-Offset': String(before) }, body)
        .then((answer) => answer.status)
        .catch(() => undefined);
      await until(`${name} to be held`, () => held > 0);
      const head = await user.tus('HEAD', upload.path);
      expect([name, head.status]).toEqual([name, 200]);
      expect(Number(head.headers.get('Upload-Offset'))).toBe(before);
      expect(await sending).not.toBe(204);
      release();
      await upload.finish();
      await expectCompletedOnce(processes, user, upload.id, content);
    }),
  );
  await expectInOrder(installation);
});
