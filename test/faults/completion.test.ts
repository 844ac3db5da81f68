import { randomBytes } from 'node:crypto';
import { expectCompletedOnce, findFile, findUpload } from '../support/aftermath.js';
import { letRetry } from '../support/deletions.js';
import { expectInOrder, type Installation, install } from '../support/installation.js';
import { beginUpload, MIB } from '../support/piecewise-upload.js';
import { until } from '../support/until.js';

/*
 * CompleteMultipartUpload goes wrong. Until it has succeeded, no client may be told that the upload is
 * complete: the client would delete its copy of the file.
 */

/** Two parts. */
const LENGTH = 9 * MIB;

let installation: Installation;

beforeEach(async () => {
  installation = await install({ parts: ['server'] });
});
afterEach(() => installation?.close());

/** Sends all bytes in one PATCH. @returns its status; undefined when it was not answered */
async function send(content: Buffer) {
  const upload = await beginUpload(installation.user, content, [LENGTH]);
  const answer = await installation.user
    .tus('PATCH', upload.path, { 'Upload-Offset': '0' }, content as BodyInit)
    .catch(() => undefined);
  return { upload, status: answer?.status };
}

/** Sends one HEAD. An offset in its answer must be below the length. @returns whether the answer was 423 */
async function isLocked(path: string): Promise<boolean> {
  const head = await installation.user.tus('HEAD', path);
  expect([200, 423]).toContain(head.status);
  if (head.status === 200) expect(Number(head.headers.get('Upload-Offset'))).toBeLessThan(LENGTH);
  return head.status === 423;
}

async function expectAllGood(id: string, content: Buffer): Promise<void> {
  const { processes, user } = installation;
  await expectCompletedOnce(processes, user, id, content);
  await expectInOrder(installation);
}

test('a completion that keeps failing is done by the reconciler once the store is healed', async () => {
  const { s3, processes } = installation;
  const heal = s3.rule('CompleteMultipartUpload', { fail: 500 });
  const content = randomBytes(LENGTH);
  const { upload, status } = await send(content);
  expect(status).toBe(503);
  expect(await isLocked(upload.path)).toBe(true);
  // Some clients send an empty PATCH at the end.
  const again = await installation.user.tus('PATCH', upload.path, { 'Upload-Offset': String(LENGTH) });
  expect(again.status).not.toBe(204);

  const before = s3.count('CompleteMultipartUpload');
  await processes.start('worker');
  await until('the reconciler to try it, too', () => s3.count('CompleteMultipartUpload') > before);
  expect(await isLocked(upload.path)).toBe(true);
  expect(await findFile(processes, upload.id)).toBeUndefined();
  await processes.stop('worker');

  heal();
  await letRetry(processes.database);
  await processes.start('worker');
  await until('the file', () => findFile(processes, upload.id));
  await expectAllGood(upload.id, content);
});

test('a completion refused in the body of a 200, as S3 does when it fails late, is done later', async () => {
  const { s3, processes } = installation;
  const heal = s3.rule('CompleteMultipartUpload', { fail: 200, code: 'InternalError' });
  const content = randomBytes(LENGTH);
  const { upload, status } = await send(content);
  expect(status).toBe(503);
  expect(await isLocked(upload.path)).toBe(true);
  heal();
  await processes.start('worker');
  await expectAllGood(upload.id, content);
});

test.each([
  ['is cut off', { cut: 'after' }],
  ['is cut off in the middle', { cut: 'answer' }],
  ['is 500 although the object was made', { fail: 500, at: 'after' }],
] as const)('the server recognises a completion whose answer %s', async (_, fault) => {
  const { s3, processes } = installation;
  s3.rule(({ operation }, index) => operation === 'CompleteMultipartUpload' && index === 0, fault);
  const content = randomBytes(LENGTH);
  const { upload, status } = await send(content);
  expect(status).toBe(204);
  await processes.start('worker');
  await expectAllGood(upload.id, content);
});

test('the next request recognises a completion whose answer never comes', async () => {
  const { s3, processes, user } = installation;
  const pause = s3.pauseAt('CompleteMultipartUpload', 'after');
  const content = randomBytes(LENGTH);
  const sending = send(content);
  await pause.reached;
  const { rows } = await processes.database.query('SELECT id FROM uploads');
  const path = `/uploads/${rows[0].id}`;
  // The HEAD asks the PATCH to let go, and finds the object.
  const head = await until('the offset', async () => {
    const answer = await user.tus('HEAD', path);
    return answer.status === 200 ? answer : undefined;
  });
  expect(head.headers.get('Upload-Offset')).toBe(String(LENGTH));
  expect(await findUpload(processes, rows[0].id)).toMatchObject({ status: 'finished' });
  expect((await sending).status).not.toBe(500);
  pause.open();
  await processes.start('worker');
  await expectAllGood(rows[0].id, content);
});
