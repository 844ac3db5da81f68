import { randomBytes } from 'node:crypto';
import { expectBlobsInOrder } from './support/aftermath.js';
import { closeBarrier, waitingForLocks } from './support/barrier.js';
import { idOf, registerUser, type TestUser } from './support/client.js';
import { purge } from './support/deletions.js';
import { listBlobs } from './support/objects.js';
import { runPasses } from './support/passes.js';
import { type Processes, startProcesses } from './support/processes.js';

/* A file is deleted, or measured by another worker, while its bytes are about to be shared. */

let processes: Processes;
let user: TestUser;

beforeAll(async () => {
  processes = await startProcesses({}, ['server', 'worker', 'worker-2']);
});
beforeEach(async () => {
  user = await registerUser(() => processes.url);
});
afterAll(() => processes?.close());

/** The bytes are right, no others are stored, and all counts are right. */
async function expectOnly(ids: string[], content: Buffer, saved: number): Promise<void> {
  for (const id of ids) {
    const answer = await user.fetch(`/api/files/${id}/content`);
    expect(Buffer.from(await answer.arrayBuffer()).equals(content)).toBe(true);
  }
  const stored = Math.sign(ids.length);
  await runPasses(processes, async () => (await listBlobs(processes)).length === stored);
  await expectBlobsInOrder(processes);
  expect((await user.get('/api/stats')).savedBytes).toBe(saved);
}

/** Deletes all that a test has left. */
async function tidy(ids: string[], content: Buffer): Promise<void> {
  for (const id of ids) expect(await purge(user, id)).toBe(204);
  await expectOnly([], content, 0);
}

async function makeFile(content: Buffer): Promise<string> {
  const { id, status } = await user.settled(await user.upload(content));
  expect(status).toBe('completed');
  return id;
}

test('a purge that has marked the bytes is committed first: the duplicate keeps its own', async () => {
  const content = randomBytes(10_000);
  const original = await makeFile(content);
  const barrier = await closeBarrier(processes.database, 'UPDATE ON blobs', 'NEW.doomed_at IS NOT NULL');
  const purged = purge(user, original);
  await barrier.reached();
  const duplicate = await user.upload(content);
  // The worker waits for the row that the purge has locked.
  await waitingForLocks(processes.database, 2);
  await barrier.open();
  expect(await purged).toBe(204);
  expect(await user.settled(duplicate)).toMatchObject({ status: 'completed', duplicateOf: null });
  await expectOnly([duplicate], content, 0);
  await tidy([duplicate], content);
});

test('a purge comes while a duplicate is being linked: the bytes stay for the duplicate', async () => {
  const content = randomBytes(10_000);
  const original = await makeFile(content);
  const when = 'OLD.duplicate_of IS NULL AND NEW.duplicate_of IS NOT NULL';
  const barrier = await closeBarrier(processes.database, 'UPDATE ON files', when);
  const duplicate = await user.upload(content);
  await barrier.reached();
  const purged = purge(user, original);
  await waitingForLocks(processes.database, 2);
  await barrier.open();
  expect(await purged).toBe(204);
  expect(await user.settled(duplicate)).toMatchObject({ status: 'completed', duplicateOf: original });
  await expectOnly([duplicate], content, 0);
  await tidy([duplicate], content);
});

test('a duplicate is purged while it is being linked: the original keeps its bytes', async () => {
  const content = randomBytes(10_000);
  const original = await makeFile(content);
  const when = 'OLD.duplicate_of IS NULL AND NEW.duplicate_of IS NOT NULL';
  const barrier = await closeBarrier(processes.database, 'UPDATE ON files', when);
  const duplicate = await user.upload(content);
  await barrier.reached();
  const purged = purge(user, duplicate);
  await waitingForLocks(processes.database, 2);
  await barrier.open();
  expect(await purged).toBe(204);
  await expectOnly([original], content, 0);
  await tidy([original], content);
});

test('original and duplicate are purged at the same moment: nothing is left', async () => {
  for (let round = 0; round < 5; round++) {
    const content = randomBytes(1000);
    const ids = [await makeFile(content), await makeFile(content), await makeFile(content)];
    expect(await Promise.all(ids.map((id) => purge(user, id)))).toEqual([204, 204, 204]);
  }
  await expectOnly([], Buffer.alloc(0), 0);
});

test('files that several workers measure at the same moment get one blob', async () => {
  const content = randomBytes(10_000);
  const when = 'OLD.sha256 IS NULL AND NEW.sha256 IS NOT NULL';
  const barrier = await closeBarrier(processes.database, 'UPDATE ON files', when);
  const ids = await Promise.all([1, 2, 3, 4].map(() => user.upload(content)));
  await barrier.reached(4);
  await barrier.open();
  const files = await Promise.all(ids.map((id) => user.settled(id)));
  expect(files.map(({ status }) => status)).toEqual(Array(4).fill('completed'));
  expect(files.filter(({ duplicateOf }) => duplicateOf === null)).toHaveLength(1);
  await expectOnly(ids, content, 30_000);
  await tidy(ids, content);
});

test('a file whose final upload and partial upload are deleted meanwhile is shared as a whole', async () => {
  const content = randomBytes(10_000);
  const original = await makeFile(content);
  const partial = await user.create(content.length, { 'Upload-Concat': 'partial' });
  const sent = await user.tus('PATCH', partial, { 'Upload-Offset': '0' }, content as BodyInit);
  expect(sent.status).toBe(204);
  const when = 'OLD.duplicate_of IS NULL AND NEW.duplicate_of IS NOT NULL';
  const barrier = await closeBarrier(processes.database, 'UPDATE ON files', when);
  const joined = await user.tus('POST', '/uploads', { 'Upload-Concat': `final;${partial}` });
  const duplicate = idOf(joined.headers.get('Location') ?? '');
  await barrier.reached();
  expect((await user.tus('DELETE', partial)).status).toBe(204);
  await barrier.open();
  expect(await user.settled(duplicate)).toMatchObject({ status: 'completed', duplicateOf: original });
  expect(await purge(user, original)).toBe(204);
  await expectOnly([duplicate], content, 0);
  await tidy([duplicate], content);
});
