import { createHash, randomBytes } from 'node:crypto';
import sharp from 'sharp';
import { expectBlobsInOrder, expectCompletedOnce } from './support/aftermath.js';
import { type FileJson, registerUser, type TestUser } from './support/client.js';
import { eicar, makePdf, makePhotograph, makeTruncatedJpeg } from './support/fixtures.js';
import { FORMS, type Form } from './support/forms.js';
import { listBlobs } from './support/objects.js';
import { type Processes, startProcesses } from './support/processes.js';
import { until } from './support/until.js';

/*
 * The main job of the product, from the first byte to the last deletion, on every kind of store and queue.
 * The details of each step are in suites of their own.
 */

const MIB = 1024 ** 2;

const sha256 = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex');

describe.each(FORMS)('over %s', (_name, openForm) => {
  let form: Form;
  let processes: Processes;
  let user: TestUser;

  beforeAll(async () => {
    form = await openForm();
    processes = await startProcesses(form.env);
    user = await registerUser(() => processes.url);
  });

  afterAll(async () => {
    await processes?.close();
    await form?.close();
  });

  /** Uploads by tus-js-client and waits for the end. */
  async function send(content: Buffer, filename: string, more: Record<string, string> = {}) {
    return user.settled(await user.tusUpload(content, { metadata: { filename, ...more } }));
  }

  const bytesOf = async (answer: Response) => Buffer.from(await answer.arrayBuffer());

  async function timeline(id: string): Promise<string[]> {
    const { items } = await user.get(`/api/files/${id}/events`);
    return items.map((event: { type: string }) => event.type);
  }

  async function expectContent(file: FileJson, content: Buffer): Promise<void> {
    const answer = await user.fetch(`/api/files/${file.id}/content`);
    expect(answer.status).toBe(200);
    expect(content.equals(await bytesOf(answer))).toBe(true);
  }

  describe.each([
    // The chunk is smaller than the smallest part of S3, and no divisor of a part.
    ['chunks', { chunkSize: 1_300_000 }],
    ['one piece', {}],
  ])('a photograph that comes in %s', (_how, options) => {
    let photograph: Buffer;
    let file: FileJson;

    beforeAll(async () => {
      // Decoders ignore the bytes after the image, which make the file large enough for several parts.
      photograph = Buffer.concat([await makePhotograph(), randomBytes(11 * MIB)]);
      const id = await user.tusUpload(photograph, {
        ...options,
        metadata: { filename: 'phare.jpg', filetype: 'image/jpeg', sha256: sha256(photograph) },
      });
      file = await expectCompletedOnce(processes, user, id, photograph);
    });

    it('is completed, and described as it is shown', () => {
      expect(file).toMatchObject({
        status: 'completed',
        progress: 100,
        attempts: 1,
        detectedType: 'image/jpeg',
        size: photograph.length,
        sha256: sha256(photograph),
        warnings: [],
        error: null,
      });
      expect(file.metadata).toMatchObject({
        ifd0: { Make: 'Landfall', Model: 'Test 1' },
        image: { format: 'jpeg', width: 1000, height: 1600, orientation: 6 },
      });
      expect(file.metadata.gps.latitude).toBeCloseTo(48.858333, 5);
      expect(file.metadata.gps.longitude).toBeCloseTo(-2.294444, 5);
    });

    it('has upright thumbnails, which its links show to every holder', async () => {
      for (const [size, width, height] of [
        ['small', 125, 200],
        ['medium', 375, 600],
        ['large', 750, 1200],
      ] as const) {
        const answer = await fetch(`${processes.url}${file.links.thumbnails?.[size]}`);
        expect([answer.status, answer.headers.get('Content-Type')]).toEqual([200, 'image/webp']);
        expect(await sharp(await bytesOf(answer)).metadata()).toMatchObject({
          format: 'webp',
          width,
          height,
        });
      }
      expect((await fetch(`${processes.url}/api/files/${file.id}/thumbnails/small`)).status).toBe(401);
    });

    it('is served as it was sent, whole and in ranges', async () => {
      await expectContent(file, photograph);
      // Across the borders of the parts that were sent and stored.
      for (const [start, end] of [
        [0, 10],
        [5 * MIB - 3, 8 * MIB + 3],
        [photograph.length - 7, photograph.length],
      ] as const) {
        const part = await fetch(`${processes.url}${file.links.content}`, {
          headers: { Range: `bytes=${start}-${end - 1}` },
        });
        expect([part.status, part.headers.get('Content-Range')]).toEqual([
          206,
          `bytes ${start}-${end - 1}/${photograph.length}`,
        ]);
        expect(photograph.subarray(start, end).equals(await bytesOf(part))).toBe(true);
      }
    });
  });

  it.each([
    ['a text', Buffer.from('Hello, naïve 世界\n'), 'a.txt', 'text/plain'],
    ['nothing at all', Buffer.alloc(0), 'empty', null],
    ['bytes of no known kind', Buffer.alloc(6 * MIB, '\x00\xff\x01'), 'a.bin', null],
  ])('%s is completed without thumbnails or warnings', async (_what, content, filename, detectedType) => {
    const file = await send(content, filename);
    expect(file).toMatchObject({
      status: 'completed',
      size: content.length,
      sha256: sha256(content),
      detectedType,
      warnings: [],
      steps: { thumbnails: { state: 'skipped' } },
    });
    expect(file.links.thumbnails).toBeNull();
    await expectContent(file, content);
  });

  it('a PDF is described, and has thumbnails of its first page', async () => {
    const content = makePdf();
    const file = await send(content, 'a.pdf');
    expect(file).toMatchObject({
      status: 'completed',
      detectedType: 'application/pdf',
      warnings: [],
      metadata: { pdf: { pages: 1, encrypted: false } },
      links: { thumbnails: { small: expect.any(String) } },
    });
    await expectContent(file, content);
  });

  it('half an image is completed, with a warning that names the damage', async () => {
    const content = await makeTruncatedJpeg();
    const file = await send(content, 'half.jpg');
    expect(file).toMatchObject({ status: 'completed', attempts: 1, detectedType: 'image/jpeg' });
    expect(file.warnings).toEqual([
      { step: 'thumbnails', code: 'damaged', detail: expect.stringMatching(/premature end/i) },
    ]);
    await expectContent(file, content);
  });

  it('a file whose SHA-256 is not the announced one fails and is not served', async () => {
    const file = await send(randomBytes(2 * MIB), 'a.bin', { sha256: sha256(randomBytes(1)) });
    expect(file).toMatchObject({
      status: 'failed',
      attempts: 1,
      error: { step: 'verify', code: 'checksum_mismatch' },
      links: { content: null, image: null, thumbnails: null },
    });
    expect((await user.fetch(`/api/files/${file.id}/content`)).status).toBe(409);
    expect((await timeline(file.id)).at(-1)).toBe('file.failed');
  });

  it('an infected file is found out and never served', async () => {
    const file = await send(Buffer.concat([randomBytes(6 * MIB), eicar()]), 'a.jpg');
    expect(file).toMatchObject({
      status: 'infected',
      error: { step: 'scan', code: 'infected' },
      links: { content: null, image: null, thumbnails: null },
    });
    expect((await user.fetch(`/api/files/${file.id}/content`)).status).toBe(403);
    expect((await timeline(file.id)).at(-1)).toBe('file.infected');
  });

  // This test comes last, because it deletes the files of the others.
  it('nothing is left of files and uploads that are deleted for good', async () => {
    const path = await user.create(20 * MIB);
    for (let offset = 0; offset < 12 * MIB; offset += 4 * MIB) {
      const answer = await user.tus('PATCH', path, { 'Upload-Offset': String(offset) }, randomBytes(4 * MIB));
      expect(answer.status).toBe(204);
    }
    await expectBlobsInOrder(processes, form.bucket);
    const { items } = await user.get('/api/files?limit=200');
    expect(items.length).toBeGreaterThan(5);
    const answers = await Promise.all([
      user.tus('DELETE', path),
      ...items.map(({ id }: FileJson) => user.fetch(`/api/files/${id}?permanent=1`, { method: 'DELETE' })),
    ]);
    for (const answer of answers) expect(answer.status).toBe(204);
    await until('the last object to go', async () => (await form.listStored(processes)).length === 0);
    expect(await listBlobs(processes)).toEqual([]);
    for (const { id } of items) expect((await user.fetch(`/api/files/${id}`)).status).toBe(404);
  });
});
