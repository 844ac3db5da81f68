import { randomBytes } from 'node:crypto';
import { rm, writeFile } from 'node:fs/promises';
import { expectBlobsInOrder, timeline } from './support/aftermath.js';
import { usageOf } from './support/books.js';
import { type FileJson, registerUser, type TestUser, useAccount } from './support/client.js';
import { concatenate } from './support/concatenated-upload.js';
import { purge, restore, trash } from './support/deletions.js';
import { eicar, makeJpeg } from './support/fixtures.js';
import { filePathOf, listBlobs } from './support/objects.js';
import { runPasses } from './support/passes.js';
import { FORM_TYPE, filePart, filesOf, form, post, sha256 } from './support/plain-client.js';
import { type Processes, startProcesses } from './support/processes.js';
import { send } from './support/sign-in.js';
import { until } from './support/until.js';

/* The same bytes of one owner are stored once. */

describe('the same bytes again', () => {
  let processes: Processes;
  /** A user without any files. */
  let user: TestUser;

  beforeAll(async () => {
    processes = await startProcesses({ RATE_LIMIT_PROCESSING: '0' }, ['server', 'worker', 'worker-2']);
  });
  beforeEach(async () => {
    user = await registerUser(() => processes.url);
  });
  // After each test: nothing is stored besides the bytes of the files that are left.
  afterEach(() => expectTidy());
  afterAll(() => processes?.close());

  /** Lets the worker delete what nobody refers to any more. */
  async function expectTidy(): Promise<void> {
    await runPasses(processes, async () => (await listBlobs(processes)).every(({ refs }) => refs > 0));
    await expectBlobsInOrder(processes);
  }

  /** How many blobs hold the bytes of this user's files. */
  async function countBlobs(owner = user): Promise<number> {
    const { rows } = await processes.database.query(
      'SELECT count(DISTINCT blob_id)::int AS count FROM files WHERE owner_id = $1',
      [owner.id],
    );
    return rows[0].count;
  }

  const upload = async (content: Buffer, owner = user) => owner.settled(await owner.upload(content));
  const contentOf = async (id: string) => {
    const answer = await user.fetch(`/api/files/${id}/content`);
    expect(answer.status).toBe(200);
    return Buffer.from(await answer.arrayBuffer());
  };
  const savedBytes = async (owner = user): Promise<number> => (await owner.get('/api/stats')).savedBytes;

  it('are stored once; the answer names the file that had them, and the event log says so', async () => {
    const content = Buffer.concat([await makeJpeg({ width: 1400, height: 900 }), randomBytes(100_000)]);
    const first = await upload(content);
    const second = await upload(content);
    const third = await upload(content);
    expect([first, second, third].map(({ status, duplicateOf }) => [status, duplicateOf])).toEqual([
      ['completed', null],
      ['completed', first.id],
      ['completed', first.id],
    ]);
    expect(await countBlobs()).toBe(1);
    for (const { id, sha256: told, links } of [first, second, third]) {
      expect([told, sha256(await contentOf(id))]).toEqual([sha256(content), sha256(content)]);
      const thumbnail = await fetch(`${processes.url}${links.thumbnails?.small}`);
      expect([thumbnail.status, thumbnail.headers.get('content-type')]).toEqual([200, 'image/webp']);
    }
    expect(await timeline(processes, first.id)).not.toContain('file.deduplicated');
    const { items } = await user.get(`/api/files/${second.id}/events`);
    expect(items.filter(({ type }: { type: string }) => type === 'file.deduplicated')).toMatchObject([
      { subjectId: second.id, data: { duplicateOf: first.id } },
    ]);
  });

  it('count in full against the quota, and the statistics tell what was saved', async () => {
    const content = randomBytes(50_000);
    const files = [await upload(content), await upload(content), await upload(content)];
    expect(await usageOf(user)).toEqual(expect.objectContaining({ bytes: 150_000, files: 3 }));
    expect(await user.get('/api/stats')).toMatchObject({ files: 3, bytes: 150_000, savedBytes: 100_000 });
    // The trash is stored too.
    expect(await trash(user, files[0]?.id ?? '')).toBe(204);
    expect(await user.get('/api/stats')).toMatchObject({ bytes: 100_000, savedBytes: 100_000 });
    expect(await usageOf(user)).toEqual(expect.objectContaining({ bytes: 100_000, files: 2 }));
    expect(await purge(user, files[0]?.id ?? '')).toBe(204);
    expect(await savedBytes()).toBe(50_000);
    expect(await purge(user, files[1]?.id ?? '')).toBe(204);
    expect(await savedBytes()).toBe(0);
  });

  it('stay until the last file that has them is deleted for good, in whatever order', async () => {
    for (const order of [
      [0, 1, 2],
      [2, 1, 0],
      [1, 0, 2],
    ]) {
      const content = randomBytes(20_000);
      const files: FileJson[] = [];
      for (let n = 0; n < 3; n++) files.push(await upload(content));
      const [a = '', b = '', c = ''] = order.map((n) => files[n]?.id);
      expect(await trash(user, a)).toBe(204);
      // A file in the trash has its bytes too.
      const again = await upload(content);
      expect(again.duplicateOf).toBe(files[0]?.id);
      expect([await purge(user, b), await purge(user, again.id)]).toEqual([204, 204]);
      expect(await restore(user, a)).toBe(200);
      expect((await contentOf(a)).equals(content)).toBe(true);
      expect(await purge(user, a)).toBe(204);
      expect((await contentOf(c)).equals(content)).toBe(true);
      expect(await purge(user, c)).toBe(204);
    }
    expect(await countBlobs()).toBe(0);
  });

  it('of another owner are stored anew, and no answer tells of them', async () => {
    const stranger = await registerUser(() => processes.url);
    const content = randomBytes(10_000);
    const theirs = await upload(content, stranger);
    const [mine] = await filesOf(await post(user, content));
    expect(mine?.duplicateOf).toBeNull();
    expect(await user.settled(mine?.id ?? '')).toMatchObject({ status: 'completed', duplicateOf: null });
    expect([await savedBytes(), await savedBytes(stranger)]).toEqual([0, 0]);
    await purge(stranger, theirs.id);
    expect((await contentOf(mine?.id ?? '')).equals(content)).toBe(true);
  });

  it('are named in the answer to a POST, but not to a sender who may not read', async () => {
    const content = randomBytes(10_000);
    const first = await upload(content);
    const [second] = await filesOf(await post(user, content));
    expect(second).toMatchObject({ duplicateOf: first.id, sha256: sha256(content) });
    const made = await send(user, 'POST', '/api/keys', { name: 'camera', scopes: ['upload'] });
    const camera = useAccount(user, (await made.json()).key, () => processes.url);
    const [third] = await filesOf(await post(camera, content));
    expect(third).not.toHaveProperty('duplicateOf');
    for (const { id } of [second, third] as FileJson[]) {
      expect(await user.settled(id)).toMatchObject({ status: 'completed', duplicateOf: first.id });
    }
  });

  it('that arrive many at a time are stored once', async () => {
    const contents = [randomBytes(30_000), Buffer.alloc(0), randomBytes(1)];
    const ids = await Promise.all(
      Array.from({ length: 30 }, (_, n) => user.upload(contents[n % 3] as Buffer)),
    );
    const files = await Promise.all(ids.map((id) => user.settled(id)));
    expect(files.map(({ status }) => status)).toEqual(Array(30).fill('completed'));
    expect(await countBlobs()).toBe(3);
    expect(files.filter(({ duplicateOf }) => duplicateOf === null)).toHaveLength(3);
    for (const [n, { id }] of files.entries()) {
      expect((await contentOf(id)).equals(contents[n % 3] as Buffer)).toBe(true);
    }
  });

  it('are found although one file came in parts, in one form, or in partial uploads', async () => {
    const content = randomBytes(40_000);
    const halves = await Promise.all(
      [content.subarray(0, 15_000), content.subarray(15_000)].map(async (half) => {
        const path = await user.create(half.length, { 'Upload-Concat': 'partial' });
        expect((await user.tus('PATCH', path, { 'Upload-Offset': '0' }, half as BodyInit)).status).toBe(204);
        return path;
      }),
    );
    const joined = await user.settled(await concatenate(user, halves));
    const twins = await filesOf(
      await post(user, form(filePart('a', content), filePart('b', content)), { 'Content-Type': FORM_TYPE }),
    );
    for (const { id } of twins) {
      expect(await user.settled(id)).toMatchObject({ status: 'completed', duplicateOf: joined.id });
    }
    expect(await countBlobs()).toBe(1);
    for (const half of halves) expect((await user.tus('DELETE', half)).status).toBe(204);
    await purge(user, joined.id);
    await expectTidy();
    expect((await contentOf(twins[0]?.id ?? '')).equals(content)).toBe(true);
  });

  it('are not shared if they are infected, and stay locked', async () => {
    const content = Buffer.concat([randomBytes(1000), eicar()]);
    const [first, second] = [await upload(content), await upload(content)];
    expect([first.status, second.status, second.duplicateOf]).toEqual(['infected', 'infected', null]);
    expect((await user.fetch(`/api/files/${second.id}/content`)).status).toBe(403);
  });

  it('that are processed again stay where they are', async () => {
    const content = randomBytes(10_000);
    const [first, second] = [await upload(content), await upload(content)];
    for (const { id, duplicateOf } of [first, second]) {
      expect((await user.fetch(`/api/files/${id}/process`, { method: 'POST' })).status).toBe(200);
      expect(await user.settled(id)).toMatchObject({ status: 'completed', duplicateOf });
    }
    expect([await countBlobs(), await savedBytes()]).toEqual([1, 10_000]);
  });

  it('are kept if those of the older file are lost or have changed', async () => {
    for (const damage of [
      (path: string) => rm(path),
      (path: string) => writeFile(path, Buffer.alloc(10_000)),
    ]) {
      const owner = await registerUser(() => processes.url);
      const content = randomBytes(10_000);
      const broken = await upload(content, owner);
      const path = await filePathOf(processes, broken.id);
      await damage(path);
      const good = await upload(content, owner);
      expect(good).toMatchObject({ status: 'completed', duplicateOf: null });
      // A third one shares the good bytes.
      const third = await upload(content, owner);
      expect([third.duplicateOf, await countBlobs(owner)]).toEqual([good.id, 2]);
      const answer = await owner.fetch(`/api/files/${third.id}/content`);
      expect(sha256(Buffer.from(await answer.arrayBuffer()))).toBe(sha256(content));
      // So that the books are right again.
      await writeFile(path, content);
    }
  });

  it('do not disturb a download of the older file, nor change its entity tag', async () => {
    const content = randomBytes(3 * 1024 ** 2);
    const first = await upload(content);
    const begun = await user.fetch(`/api/files/${first.id}/content`);
    const etag = begun.headers.get('ETag') ?? '';
    const second = await upload(content);
    expect(second.duplicateOf).toBe(first.id);
    expect(Buffer.from(await begun.arrayBuffer()).equals(content)).toBe(true);
    for (const { id } of [first, second]) {
      const rest = await user.fetch(`/api/files/${id}/content`, {
        headers: { Range: 'bytes=1000000-', 'If-Range': etag },
      });
      expect(rest.status).toBe(206);
      expect(Buffer.from(await rest.arrayBuffer()).equals(content.subarray(1_000_000))).toBe(true);
    }
  });

  it('share nothing before they were measured: a file that is paused keeps its own', async () => {
    const content = randomBytes(10_000);
    await processes.stop('worker');
    await processes.stop('worker-2');
    const paused = await user.upload(content);
    expect((await user.fetch(`/api/files/${paused}/pause`, { method: 'POST' })).status).toBe(200);
    await processes.start('worker');
    await processes.start('worker-2');
    const other = await upload(content);
    expect([other.duplicateOf, await countBlobs()]).toEqual([null, 2]);
    expect((await user.fetch(`/api/files/${paused}/resume`, { method: 'POST' })).status).toBe(200);
    // It came earlier, but the other one was the first whose bytes were known.
    expect(await user.settled(paused)).toMatchObject({ status: 'completed', duplicateOf: other.id });
    await until('one blob', async () => (await countBlobs()) === 1);
  });
});
