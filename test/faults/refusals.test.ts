import { randomBytes } from 'node:crypto';
import { expectBlobsInOrder, expectCompletedOnce, findFile, findUpload } from '../support/aftermath.js';
import { expectBooksRight, usageOf } from '../support/books.js';
import { useAccount } from '../support/client.js';
import { letRetry, purge, terminate } from '../support/deletions.js';
import { expectInOrder, type Installation, install } from '../support/installation.js';
import { storageKeyOf } from '../support/objects.js';
import { beginUpload, MIB } from '../support/piecewise-upload.js';
import { post, sha256 } from '../support/plain-client.js';
import { until } from '../support/until.js';
import { makeDue } from '../support/uploads.js';

/*
 * The store is away, does not answer, or denies a request while an upload or file is to end. The state in the
 * database holds, and everything goes on by itself once the store, or the permission, is back.
 */

let installation: Installation;

beforeEach(async () => {
  installation = await install({ parts: ['server'] });
});
afterEach(() => installation?.close());

/** An upload of 9 MiB of which a part and a segment are stored. Returns its id. */
async function makeUnfinished(user = installation.user): Promise<string> {
  const content = randomBytes(9 * MIB);
  const path = await user.create(content.length);
  for (const [from, to] of [
    [0, 8 * MIB],
    [8 * MIB, 8.5 * MIB],
  ] as const) {
    const body = content.subarray(from, to) as BodyInit;
    expect((await user.tus('PATCH', path, { 'Upload-Offset': String(from) }, body)).status).toBe(204);
  }
  return path.replace('/uploads/', '');
}

const makeFile = () => installation.user.upload(randomBytes(1000));

/** Sends an upload in one PATCH. Returns it with the status of that PATCH. */
async function sendWhole(content: Buffer) {
  const { user } = installation;
  const upload = await beginUpload(user, content, [content.length]);
  const { status } = await user.tus('PATCH', upload.path, { 'Upload-Offset': '0' }, content as BodyInit);
  return { ...upload, status };
}

async function invite() {
  const { user, processes } = installation;
  const answer = await user.fetch('/api/upload-tokens', {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: '{}',
  });
  const { id, token } = await answer.json();
  const revoke = async () => (await user.fetch(`/api/upload-tokens/${id}`, { method: 'DELETE' })).status;
  return { guest: useAccount(user, token, () => processes.url), revoke };
}

async function expectGone(ids: string[]): Promise<void> {
  const { user, processes } = installation;
  for (const id of ids) {
    expect((await user.tus('HEAD', `/uploads/${id}`)).status).toBe(410);
    expect((await user.fetch(`/api/files/${id}`)).status).toBe(404);
  }
  await expectBooksRight(processes.database);
}

async function expectEmpty(): Promise<void> {
  const { processes, bucket } = installation;
  await until('all to be gone', async () => (await bucket.listKeys()).length === 0, 90);
  await expectBlobsInOrder(processes, bucket);
  expect(await bucket.listMultipartUploads()).toEqual([]);
}

const isDeletion = ({ operation }: { operation: string }) => /Abort|Delete/.test(operation);

test('while S3 is away deletions take effect, and the bytes are removed when it is back', async () => {
  const { user, s3, processes } = installation;
  const { guest, revoke } = await invite();
  const [unfinished, file, purged] = [await makeUnfinished(), await makeFile(), await makeFile()];
  const ofGuest = await makeUnfinished(guest);
  await s3.away();
  const answers = [terminate(user, unfinished), terminate(user, file), purge(user, purged), revoke()];
  expect(await Promise.all(answers)).toEqual([204, 204, 204, 204]);
  await expectGone([unfinished, file, purged, ofGuest]);
  expect(await usageOf(user)).toEqual({ bytes: 0, files: 0 });
  await s3.back();
  await processes.start('worker');
  await expectEmpty();
});

test('deletions that S3 does not answer are acknowledged, and uploads go on meanwhile', async () => {
  const { user, s3, processes } = installation;
  const ids: string[] = [];
  // There are more deletions than the server has connections to the database.
  for (let i = 0; i < 12; i++) ids.push(await makeFile());
  const release = s3.rule(isDeletion, { hold: 'before' });
  const deletions = Promise.all(ids.map((id) => purge(user, id)));
  await until('deletions to be held', () => s3.requests.filter(isDeletion).length >= 12);
  const content = randomBytes(1000);
  const id = await user.upload(content);
  const refused = await post(user, 'x', {}, `?filename=a&sha256=${sha256('y')}`);
  expect(refused.status).toBe(422);
  expect(await deletions).toEqual(ids.map(() => 204));
  await expectGone(ids);
  release();
  await processes.start('worker');
  await expectCompletedOnce(processes, user, id, content);
  await expectInOrder(installation);
});

test('deletions that S3 denies do not hold up others, and follow when they are allowed', async () => {
  const { user, s3, processes } = installation;
  const ids = [await makeUnfinished(), await makeFile(), await makeFile()];
  const keys = await Promise.all(ids.map((id) => storageKeyOf(processes, id)));
  const allow = s3.rule((request) => isDeletion(request) && keys.some((key) => request.key.startsWith(key)), {
    fail: 403,
  });
  const [unfinished = '', file = '', purged = ''] = ids;
  expect([await terminate(user, unfinished), await terminate(user, file), await purge(user, purged)]).toEqual(
    [204, 204, 204],
  );
  await expectGone(ids);
  const other = await makeUnfinished();
  await makeDue(processes.database, other);
  await processes.start('worker');
  await until('the other one to be gone', async () => (await findUpload(processes, other)).discarded_at);
  const { rows } = await processes.database.query(
    `SELECT (SELECT count(*)::integer FROM blobs WHERE failures > 0 AND retry_at > now()) AS blobs,
            (SELECT count(*)::integer FROM uploads WHERE failures > 0 AND retry_at > now()) AS uploads`,
  );
  expect(rows).toEqual([{ blobs: 2, uploads: 1 }]);

  allow();
  await letRetry(processes.database);
  await processes.stop('worker');
  await processes.start('worker');
  await expectEmpty();
});

test('uploads whose completion S3 denies show an error, and finish later or expire', async () => {
  const { user, s3, processes } = installation;
  const denied = new Set<string>();
  s3.rule(({ operation, key }) => operation === 'CompleteMultipartUpload' && denied.has(key), { fail: 403 });
  const content = randomBytes(9 * MIB);
  const stuck = [await user.create(content.length), await user.create(content.length)];
  const [first = '', second = ''] = stuck.map((path) => path.replace('/uploads/', ''));
  for (const id of [first, second]) denied.add(await storageKeyOf(processes, id));
  for (const path of stuck) {
    const patch = await user.tus('PATCH', path, { 'Upload-Offset': '0' }, content as BodyInit);
    expect(patch.status).toBe(503);
    const { status, offset, length, error } = await user.get(`/api${path}`);
    expect({ status, offset, length }).toEqual({
      status: 'uploading',
      offset: length,
      length: content.length,
    });
    expect(error).toMatchObject({ code: 'unavailable', detail: expect.stringMatching(/storage refuses/) });
    expect(error.detail).not.toMatch(/AccessDenied|http|bucket/i);
  }

  await processes.start('worker');
  await until('the reconciler to put them off', async () => {
    const { rows } = await processes.database.query(
      `SELECT FROM uploads WHERE failures = 1 AND retry_at > now()`,
    );
    return rows.length === 2;
  });
  const other = randomBytes(9 * MIB);
  const sent = await sendWhole(other);
  expect(sent.status).toBe(204);
  await expectCompletedOnce(processes, user, sent.id, other);
  expect(await findFile(processes, first)).toBeUndefined();

  denied.delete(await storageKeyOf(processes, first));
  await letRetry(processes.database);
  await processes.stop('worker');
  await processes.start('worker');
  await expectCompletedOnce(processes, user, first, content);
  expect((await user.get(`/api/uploads/${first}`)).error).toBeNull();

  await until('another try of the second', async () => (await findUpload(processes, second)).failures === 2);
  await makeDue(processes.database, second);
  await processes.stop('worker');
  await processes.start('worker');
  await until('it to expire', async () => (await findUpload(processes, second)).discarded_at);
  await expectGone([second]);
  expect(await usageOf(user)).toEqual({ bytes: 18 * MIB, files: 2 });
  expect(await user.get(`/api/uploads/${second}`)).toMatchObject({
    status: 'expired',
    error: { code: 'unavailable' },
  });
  await expectInOrder(installation);
});
