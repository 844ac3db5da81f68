import { randomBytes } from 'node:crypto';
import { expectCompletedOnce, findUpload, timeline } from './support/aftermath.js';
import { usageOf } from './support/books.js';
import { registerUser, type TestUser } from './support/client.js';
import { makeJpeg, makePhotograph } from './support/fixtures.js';
import { FORMS, type Form } from './support/forms.js';
import { storageKeyOf } from './support/objects.js';
import {
  begin,
  expectProblem,
  FORM_TYPE,
  filePart,
  filesOf,
  form,
  MIB,
  post,
  sha256,
  streamOf,
} from './support/plain-client.js';
import { type Processes, startProcesses } from './support/processes.js';
import { until } from './support/until.js';
import { setRoom } from './support/users.js';

const MAX = 24 * MIB;

async function latestUpload({ database }: Processes, user: TestUser): Promise<string> {
  const { rows } = await database.query(
    'SELECT id FROM uploads WHERE owner_id = $1 ORDER BY id DESC LIMIT 1',
    [user.id],
  );
  return rows[0]?.id;
}

describe.each(FORMS)('POST /api/files on %s', (_name, openForm) => {
  let storage: Form;
  let processes: Processes;
  let user: TestUser;

  beforeAll(async () => {
    storage = await openForm();
    processes = await startProcesses({ ...storage.env, MAX_UPLOAD_SIZE: String(MAX) });
    user = await registerUser(() => processes.url);
  });
  afterAll(async () => {
    await processes?.close();
    await storage?.close();
  });

  test('a raw body becomes a file, with its SHA-256 in the answer', async () => {
    const photograph = await makePhotograph();
    const headers = { 'Content-Type': 'image/jpeg' };
    const [file] = await filesOf(await post(user, photograph, headers, '?filename=phare.jpg'));
    expect(file).toMatchObject({
      filename: 'phare.jpg',
      size: photograph.length,
      declaredType: 'image/jpeg',
      sha256: sha256(photograph),
      status: 'pending',
      links: { content: null, image: null, thumbnails: null },
    });
    const done = await expectCompletedOnce(processes, user, file?.id ?? '', photograph);
    expect(done).toMatchObject({ filename: 'phare.jpg', detectedType: 'image/jpeg', warnings: [] });
    const content = await user.fetch(`/api/files/${file?.id}/content`);
    expect(sha256(new Uint8Array(await content.arrayBuffer()))).toBe(sha256(photograph));
  });

  test.each([0, 1, 65_536, 9 * MIB + 1])('%d bytes arrive in every way there is', async (size) => {
    const content = randomBytes(size);
    const answers = [
      await post(user, content, {}, '?filename=known.bin'),
      await post(user, streamOf(content), {}, '?filename=chunked.bin'),
      await post(user, streamOf(form(filePart('form.bin', content))), { 'Content-Type': FORM_TYPE }),
    ];
    for (const answer of answers) {
      const [file] = await filesOf(answer);
      expect(file).toMatchObject({ size, sha256: sha256(content) });
      await expectCompletedOnce(processes, user, file?.id ?? '', content);
    }
  });

  test('a form brings many files, in their order, each whole', async () => {
    const contents = [
      await makeJpeg({ width: 300, height: 200 }),
      randomBytes(6 * MIB),
      Buffer.alloc(0),
      Buffer.from('plain words'),
      ...Array.from({ length: 20 }, (_, i) => randomBytes(i * 1000)),
    ];
    const data = new FormData();
    data.append('note', 'not a file');
    contents.forEach((content, i) => {
      data.append(
        'files',
        new Blob([new Uint8Array(content)], { type: i === 0 ? 'image/jpeg' : '' }),
        `${i}.bin`,
      );
    });
    const files = await filesOf(await post(user, data));
    expect(files.map(({ filename }) => filename)).toEqual(contents.map((_, i) => `${i}.bin`));
    expect(files.map((file) => file.sha256)).toEqual(contents.map(sha256));
    expect(files[0]?.declaredType).toBe('image/jpeg');
    expect(files[1]?.declaredType).toBeNull();
    await Promise.all(
      files.map(({ id }, i) => expectCompletedOnce(processes, user, id, contents[i] ?? Buffer.alloc(0))),
    );
  });

  test('of a form that cannot be finished the files before stay, and the error names them', async () => {
    const before = await usageOf(user);
    const body = form(
      filePart('a.txt', 'first'),
      filePart('b.txt', 'second'),
      filePart('c.bin', randomBytes(MAX + 1)),
    );
    const detail = await expectProblem(
      await post(user, body, { 'Content-Type': FORM_TYPE }),
      413,
      'too_large',
    );
    expect(detail).toMatch(/^File 3 of the form: /);
    const ids = detail.match(/[0-9a-f-]{36}/g) ?? [];
    expect(ids).toHaveLength(2);
    const done = await Promise.all(ids.map((id) => user.settled(id)));
    expect(done.map(({ filename, sha256 }) => [filename, sha256])).toEqual([
      ['a.txt', sha256('first')],
      ['b.txt', sha256('second')],
    ]);
    expect(await usageOf(user)).toEqual({ bytes: before.bytes + 11, files: before.files + 2 });
  });

  test.each(['known', 'chunked', 'form'])(
    'a connection that breaks (%s) leaves nothing behind',
    async (kind) => {
      const before = await usageOf(user);
      const headers: Record<string, string> =
        kind === 'known' ? { 'Content-Length': String(10 * MIB) } : { 'Content-Type': FORM_TYPE };
      if (kind === 'chunked') headers['Content-Type'] = 'image/png';
      const outgoing = begin(processes.url, user, headers);
      if (kind === 'form') outgoing.write(filePart('broken.bin').subarray(0, -2));
      outgoing.write(randomBytes(7 * MIB));
      const id = await until('the upload to be begun', async () => {
        const { rows } = await processes.database.query(
          `SELECT id FROM uploads WHERE owner_id = $1 AND status = 'uploading'`,
          [user.id],
        );
        return rows[0]?.id;
      });
      outgoing.destroy();
      await until('the upload to be ended', async () => (await findUpload(processes, id)).discarded_at);
      expect(await timeline(processes, id)).toEqual(['upload.created', 'upload.terminated']);
      expect(await usageOf(user)).toEqual(before);
      const key = await storageKeyOf(processes, id);
      expect((await storage.listStored(processes)).filter((stored) => stored.startsWith(key))).toEqual([]);
    },
  );

  test('a body whose SHA-256 is not the announced one is refused at once and not kept', async () => {
    const before = await usageOf(user);
    const content = randomBytes(1000);
    for (const body of [content, streamOf(content)]) {
      const detail = await expectProblem(
        await post(user, body, {}, `?sha256=${sha256('other')}`),
        422,
        'checksum_mismatch',
      );
      expect(detail).toContain(sha256(content));
      expect(await timeline(processes, await latestUpload(processes, user))).toEqual([
        'upload.created',
        'upload.terminated',
      ]);
    }
    expect(await usageOf(user)).toEqual(before);
    const [file] = await filesOf(await post(user, content, {}, `?sha256=${sha256(content).toUpperCase()}`));
    await expectCompletedOnce(processes, user, file?.id ?? '', content);
  });

  test('a quota that is used up on the way refuses with 413 and takes nothing', async () => {
    const small = await registerUser(() => processes.url);
    await setRoom(processes.database, small.id, { bytes: 3_000_000 });
    const content = randomBytes(3_000_001);
    for (const answer of [
      await post(small, content),
      await post(small, streamOf(content)),
      await post(small, form(filePart('x', content)), { 'Content-Type': FORM_TYPE }),
    ]) {
      await expectProblem(answer, 413, 'quota_exceeded');
    }
    expect(await usageOf(small)).toEqual({ bytes: 0, files: 0 });
    await filesOf(await post(small, streamOf(content.subarray(1))));
    expect(await usageOf(small)).toEqual({ bytes: 3_000_000, files: 1 });
  });
});
