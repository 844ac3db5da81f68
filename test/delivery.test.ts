import { randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { GetObjectTaggingCommand, HeadObjectCommand, PutObjectCommand } from '@aws-sdk/client-s3';
import { encodeMetadata, type FileJson } from './support/client.js';
import { beginConcatenation } from './support/concatenated-upload.js';
import { type Delivering, deliveredEvents, installDelivering } from './support/delivering.js';
import { eicar, makeJpeg, makePdf } from './support/fixtures.js';
import { until } from './support/until.js';

/* Clean files arrive where other systems expect them: in buckets and folders. */

const MIB = 1024 ** 2;

let landfall: Delivering;
/** Of pictures. */
let folder: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'landfall-inbox-'));
  landfall = await installDelivering(undefined, (bucket) => ({
    DELIVER_TO: [
      'application/pdf=disk:pdf/{yyyy}/{id}.{ext}',
      `text/plain=s3://${bucket}/texts/{owner}/{id}`,
      `image/*=${folder}/{type}/{filename}`,
    ].join(','),
    // An outage in a test lasts as long as a busy machine needs.
    JOB_ATTEMPTS: '40',
  }));
});
afterAll(async () => {
  await landfall?.close();
  await rm(folder, { recursive: true, force: true });
});

/** Sends a file and waits for its end. */
async function deliver(content: Uint8Array, to: string, metadata: Record<string, string> = {}) {
  return landfall.user.settled(await landfall.send(content, to, metadata));
}

async function expectDelivered(file: FileJson, destination: string, key: string, content: Buffer) {
  const { target, user } = landfall;
  expect({ status: file.status, error: file.error }).toEqual({ status: 'completed', error: null });
  expect(file.deliveries).toEqual([
    { destination, address: `s3://${target.bucket}/${key}`, at: expect.any(String) },
  ]);
  expect(await deliveredEvents(user, file.id)).toEqual([{ destination, key, size: content.length }]);
  expect(content.equals(await target.read(key))).toBe(true);
}

const head = (Key: string) =>
  landfall.target.client.send(new HeadObjectCommand({ Bucket: landfall.target.bucket, Key }));

const asked = (key: string) => landfall.s3.requests.filter((request) => request.key === key);

describe('in the store of the installation', () => {
  test('the store copies the object, and nothing is sent', async () => {
    const content = randomBytes(3 * MIB);
    const file = await deliver(content, 'same:{owner}/{yyyy}/{id}/{filename}', { filename: 'a.bin' });
    const key = `same/${landfall.user.id}/${file.createdAt.slice(0, 4)}/${file.id}/a.bin`;
    await expectDelivered(file, 'same', key, content);
    expect(asked(key).map(({ operation }) => operation)).toEqual(['HeadObject', 'CopyObject']);
    expect((await head(key)).Metadata).toEqual({ 'landfall-id': file.id, 'landfall-sha256': file.sha256 });
    expect(file.steps.deliver).toMatchObject({ state: 'done' });
  });

  test.each(['same', 'far'])(
    'a name with any characters is the name at the destination (%s)',
    async (name) => {
      const content = randomBytes(100);
      const filename = `naïve 世界 +&%25 "q" (1)'*!~=;:@,$#?.txt`;
      const file = await deliver(content, `${name}:{id}/{filename}`, { filename });
      await expectDelivered(file, name, `${name}/${file.id}/${filename}`, content);
    },
  );

  test.each(['same', 'far'])('an empty file (%s)', async (name) => {
    const file = await deliver(Buffer.alloc(0), `${name}:{id}`);
    await expectDelivered(file, name, `${name}/${file.id}`, Buffer.alloc(0));
  });

  test('headers, metadata, tags and storage class are set', async () => {
    const content = randomBytes(100);
    const metadata = { filename: 'naïve.bin', project: 'Blau & Grün' };
    const file = await deliver(content, 'rich:{id}', metadata);
    const key = `rich/${file.id}`;
    await expectDelivered(file, 'rich', key, content);
    expect(await head(key)).toMatchObject({
      ContentType: 'application/octet-stream',
      CacheControl: 'max-age=60',
      ContentDisposition: `attachment; filename="na?ve.bin"; filename*=UTF-8''na%C3%AFve.bin`,
      Metadata: {
        'landfall-id': file.id,
        'landfall-sha256': file.sha256,
        owner: landfall.user.id,
        project: 'Blau & Gr%C3%BCn',
      },
    });
    const { TagSet } = await landfall.target.client.send(
      new GetObjectTaggingCommand({ Bucket: landfall.target.bucket, Key: key }),
    );
    expect(TagSet).toEqual(
      expect.arrayContaining([
        { Key: 'project', Value: 'Blau _ Grün' },
        { Key: 'type', Value: 'application/octet-stream' },
      ]),
    );
    const copy = asked(key).find(({ operation }) => operation === 'CopyObject');
    expect(copy?.headers).toMatchObject({ 'x-amz-storage-class': 'STANDARD' });
  });

  test('a file of several objects is put together of copies, and of what is too small for them', async () => {
    const content = randomBytes(30 * MIB);
    const sizes = [6 * MIB, 1 * MIB, 15 * MIB, 8 * MIB];
    const to = 'same:{id}/{filename}';
    const upload = await beginConcatenation(
      landfall.user,
      content,
      sizes.map((size) => [size]),
      { headers: { 'Upload-Metadata': encodeMetadata({ filename: 'joined.bin', to }) } },
    );
    await upload.finish();
    const file = await landfall.user.settled(upload.id);
    const key = `same/${file.id}/joined.bin`;
    await expectDelivered(file, 'same', key, content);
    const operations = asked(key).map(({ operation }) => operation);
    expect(operations.filter((one) => one === 'UploadPartCopy')).toHaveLength(3);
    expect(operations.filter((one) => one === 'UploadPart')).toHaveLength(1);
  });

  test('if the store does not copy, the bytes are sent', async () => {
    const content = randomBytes(9 * MIB);
    const remove = landfall.s3.rule('CopyObject', { fail: 403 });
    try {
      const file = await deliver(content, 'same:{id}');
      await expectDelivered(file, 'same', `same/${file.id}`, content);
      expect(asked(`same/${file.id}`).map(({ operation }) => operation)).toContain('UploadPart');
    } finally {
      remove();
    }
  });
});

describe('in another store', () => {
  test.each([
    [100, ['PutObject']],
    [20 * MIB, ['UploadPart', 'UploadPart', 'UploadPart']],
  ])('%d bytes are sent, with their description', async (size, operations) => {
    const content = randomBytes(size);
    const file = await deliver(content, 'far:{id}');
    const key = `far/${file.id}`;
    await expectDelivered(file, 'far', key, content);
    const sent = landfall.far.requests.filter((one) => one.key === key);
    expect(
      sent.map(({ operation }) => operation).filter((one) => /^(PutObject|UploadPart)$/.test(one)),
    ).toEqual(operations);
    expect(await head(key)).toMatchObject({
      ContentDisposition: `inline; filename="${file.id}"`,
      CacheControl: 'no-cache',
      // This file has no project.
      Metadata: { 'landfall-id': file.id, 'landfall-sha256': file.sha256 },
    });
    const { TagSet } = await landfall.target.client.send(
      new GetObjectTaggingCommand({ Bucket: landfall.target.bucket, Key: key }),
    );
    expect(TagSet).toEqual([{ Key: 'a', Value: 'b' }]);
  });

  test('that is away, the file waits, and is delivered when the store is back', async () => {
    const content = randomBytes(100);
    await landfall.far.away();
    const id = await landfall.send(content, 'far:{id}');
    const waiting = await until('a second attempt', async () => {
      const file: FileJson = await landfall.user.get(`/api/files/${id}`);
      return file.attempts >= 2 && file.error ? file : undefined;
    });
    expect(waiting).toMatchObject({
      status: 'processing',
      step: 'deliver',
      deliveries: [],
      error: { step: 'deliver', code: 'unavailable', detail: expect.stringContaining('far') },
    });
    await landfall.far.back();
    await expectDelivered(await landfall.user.settled(id), 'far', `far/${id}`, content);
  });

  test.each([
    ['wrong', /403/],
    ['missing', /NoSuchBucket/],
  ])(
    'that refuses (%s), the file fails at once, stays readable, and can be tried again',
    async (name, why) => {
      const content = randomBytes(100);
      const file = await deliver(content, `${name}:{id}`);
      expect(file).toMatchObject({
        status: 'failed',
        attempts: 1,
        deliveries: [],
        error: { step: 'deliver', code: 'delivery_refused', detail: expect.stringMatching(why) },
      });
      expect(await deliveredEvents(landfall.user, file.id)).toEqual([]);
      const answer = await landfall.user.fetch(`/api/files/${file.id}/content`);
      expect(content.equals(Buffer.from(await answer.arrayBuffer()))).toBe(true);
      const retried = await landfall.user.fetch(`/api/files/${file.id}/retry`, { method: 'POST' });
      expect(retried.status).toBe(200);
      await until('the second failure', async () => {
        const { items } = await landfall.user.get(`/api/files/${file.id}/events`);
        return items.filter(({ type }: { type: string }) => type === 'file.failed').length === 2;
      });
      // Only the failed step ran again.
      const { items } = await landfall.user.get(`/api/files/${file.id}/events`);
      const steps = items.filter(({ type }: { type: string }) => type === 'file.step');
      expect(new Set(steps.map(({ data }: { data: { step: string } }) => data.step)).size).toBe(steps.length);
    },
  );
});

describe('nothing is overwritten', () => {
  test.each(['same', 'far'])('two files with one key are both delivered (%s)', async (name) => {
    const key = `${name}:twice-${randomBytes(4).toString('hex')}/{filename}`;
    const contents = [randomBytes(100), randomBytes(100)] as const;
    const first = await deliver(contents[0], key, { filename: 'a.txt' });
    const second = await deliver(contents[1], key, { filename: 'a.txt' });
    const folder = key.slice(name.length + 1).replace('/{filename}', '');
    await expectDelivered(first, name, `${name}/${folder}/a.txt`, contents[0]);
    await expectDelivered(second, name, `${name}/${folder}/a-${second.id}.txt`, contents[1]);
  });

  test('an object that somebody else has put there stays', async () => {
    const { target } = landfall;
    const Key = `same/theirs/${randomBytes(4).toString('hex')}.txt`;
    await target.client.send(new PutObjectCommand({ Bucket: target.bucket, Key, Body: 'theirs' }));
    const content = randomBytes(6);
    const file = await deliver(content, `same:${Key.slice(5)}`);
    await expectDelivered(file, 'same', Key.replace('.txt', `-${file.id}.txt`), content);
    expect((await target.read(Key)).toString()).toBe('theirs');
  });

  test('a file that is processed again is not delivered again', async () => {
    const content = randomBytes(100);
    const file = await deliver(content, 'same:{id}');
    const before = asked(`same/${file.id}`).length;
    const answer = await landfall.user.fetch(`/api/files/${file.id}/process`, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: '{}',
    });
    expect(answer.status).toBe(200);
    const again = await until('the second run', async () => {
      const next: FileJson = await landfall.user.get(`/api/files/${file.id}`);
      return next.steps.deliver?.state === 'skipped' && next.status === 'completed' ? next : undefined;
    });
    expect(again.steps.deliver).toMatchObject({ reason: 'delivered earlier' });
    await expectDelivered(again, 'same', `same/${file.id}`, content);
    expect(asked(`same/${file.id}`)).toHaveLength(before);
  });
});

describe('in a folder', () => {
  const pathOf = (key: string) => join(landfall.folder, key);

  test('the file lies under its name, and nothing beside it', async () => {
    const content = randomBytes(5 * MIB);
    const file = await deliver(content, 'disk:{owner}/{id}/{filename}', { filename: '..\u0041 ünï.bin' });
    const key = `${landfall.user.id}/${file.id}/_A ünï.bin`;
    expect(file.deliveries).toEqual([{ destination: 'disk', address: key, at: expect.any(String) }]);
    expect(await deliveredEvents(landfall.user, file.id)).toEqual([
      { destination: 'disk', key, size: content.length },
    ]);
    expect(content.equals(await readFile(pathOf(key)))).toBe(true);
    expect(await readdir(join(pathOf(key), '..'))).toEqual(['_A ünï.bin']);
  });

  test('a file that somebody else has put there stays', async () => {
    const name = randomBytes(4).toString('hex');
    await writeFile(pathOf(`${name}.txt`), 'theirs');
    const content = randomBytes(6);
    const file = await deliver(content, `disk:${name}.txt`);
    const key = `${name}-${file.id}.txt`;
    expect(file.deliveries).toMatchObject([{ address: key }]);
    expect(content.equals(await readFile(pathOf(key)))).toBe(true);
    expect(await readFile(pathOf(`${name}.txt`), 'utf8')).toBe('theirs');
  });

  test('that is missing, the file waits until the folder is there', async () => {
    const id = await landfall.send(randomBytes(3), 'gone:{id}');
    await until('a second attempt', async () => (await landfall.user.get(`/api/files/${id}`)).attempts >= 2);
    await mkdir(landfall.gone);
    expect(await landfall.user.settled(id)).toMatchObject({
      status: 'completed',
      deliveries: [{ destination: 'gone', address: id }],
    });
    expect(await readdir(landfall.gone)).toEqual([id]);
  });

  test('that cannot be written to, the file fails', async () => {
    await writeFile(pathOf('a-file'), '');
    const file = await deliver(randomBytes(3), 'disk:a-file/{id}');
    expect(file).toMatchObject({
      status: 'failed',
      error: { code: 'delivery_refused', detail: expect.stringContaining('ENOTDIR') },
    });
    // No path of the machine is shown.
    expect(file.error?.detail).not.toContain(landfall.folder);
  });
});

describe('which target a file gets', () => {
  test('that of its type, unless the hook has chosen one', async () => {
    const { user } = landfall;
    const pdf = await user.settled(await user.upload(makePdf(), { filename: 'a.pdf' }));
    const address = `pdf/${pdf.createdAt.slice(0, 4)}/${pdf.id}.pdf`;
    expect(pdf.deliveries).toMatchObject([{ destination: 'disk', address }]);
    const text = await user.settled(await user.upload(Buffer.from(`Text ${randomBytes(4).toString('hex')}`)));
    const key = `texts/${user.id}/${text.id}`;
    await expectDelivered(text, `s3://${landfall.target.bucket}`, key, await landfall.target.read(key));
    const picture = await makeJpeg({ width: 20, height: 10 });
    const image = await user.settled(await user.upload(picture, { filename: 'a.jpg' }));
    expect(image.deliveries).toMatchObject([{ destination: 'folder', address: 'image-jpeg/a.jpg' }]);
    expect(picture.equals(await readFile(join(folder, 'image-jpeg/a.jpg')))).toBe(true);
    const other = await user.settled(await user.upload(randomBytes(100)));
    expect(other).toMatchObject({
      status: 'completed',
      deliveries: [],
      steps: { deliver: { state: 'skipped' } },
    });
    const kept = await deliver(makePdf(), 'none');
    expect(kept).toMatchObject({
      status: 'completed',
      deliveries: [],
      steps: { deliver: { state: 'skipped' } },
    });
    const chosen = await deliver(makePdf(), 'same:{id}');
    expect(chosen.deliveries).toMatchObject([{ destination: 'same' }]);
  });

  test.each(['nowhere:{id}', '/etc/{id}', 's3://bucket/{id}', 'disk:../{id}', 'disk:{owned}'])(
    'the hook cannot choose %s',
    async (to) => {
      const answer = await landfall.user.tus('POST', '/uploads', {
        'Upload-Length': '3',
        'Upload-Metadata': encodeMetadata({ to }),
      });
      expect(answer.status).toBe(502);
    },
  );

  test('an infected file is not delivered', async () => {
    const file = await deliver(eicar(), 'disk:infected/{id}');
    expect(file).toMatchObject({ status: 'infected', deliveries: [] });
    expect(await readdir(landfall.folder)).not.toContain('infected');
  });
});

test('a copy stays when its file is deleted for good, and its key is taken then', async () => {
  const content = randomBytes(100);
  const to = `same:kept-${randomBytes(4).toString('hex')}.bin`;
  const file = await deliver(content, to);
  const key = `same/${to.slice(5)}`;
  const gone = await landfall.user.fetch(`/api/files/${file.id}?permanent=1`, { method: 'DELETE' });
  expect(gone.status).toBe(204);
  expect(content.equals(await landfall.target.read(key))).toBe(true);
  const next = randomBytes(100);
  const later = await deliver(next, to);
  await expectDelivered(later, 'same', key.replace('.bin', `-${later.id}.bin`), next);
});

test('the bucket holds no unfinished uploads', async () => {
  expect(await landfall.target.listMultipartUploads()).toEqual([]);
});
