import { createHash, randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { rename } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { gzipSync } from 'node:zlib';
import sharp from 'sharp';
import { simulatedScanner } from '../core/scanning/simulated.js';
import { createScanStep } from '../worker/steps/scan.js';
import type { KnownFile, StreamObserver } from '../worker/steps/step.js';
import { makeArchive } from './support/archives.js';
import { type FileJson, registerUser, type TestUser } from './support/client.js';
import {
  eicar,
  makeAvif,
  makeGif,
  makeHeic,
  makeHtml,
  makeHungryPng,
  makeJpeg,
  makePdf,
  makePhotograph,
  makePng,
  makePngBomb,
  makeSlowPng,
  makeSvg,
  makeTiff,
  makeTruncatedJpeg,
  makeWebp,
  makeXmlSvg,
  makeZip,
} from './support/fixtures.js';
import { filePathOf } from './support/objects.js';
import { childrenOf, type Processes, startProcesses } from './support/processes.js';
import { until } from './support/until.js';

const MIB = 1024 ** 2;
const SMALL = { width: 300, height: 200 };

const sha256 = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex');

/** Uploads with the name and the type that a browser would send, and waits for the end. */
async function process(user: TestUser, content: Buffer, filename: string, filetype = '', sum = '') {
  const metadata = { filename, ...(filetype ? { filetype } : {}), ...(sum ? { sha256: sum } : {}) };
  return user.settled(await user.upload(content, metadata));
}

/** Nothing that is answered about a file may tell where the server keeps things. */
async function expectNoPaths(user: TestUser, { dataDir }: Processes, id: string) {
  for (const path of ['', '/status', '/events', '/content', '/thumbnails/small']) {
    const answer = await user.fetch(`/api/files/${id}${path}`);
    if (answer.headers.get('Content-Type')?.includes('json')) {
      const text = await answer.text();
      for (const part of [dataDir, '/tmp', '/blobs', 'node_modules', '/dist/'])
        expect(text).not.toContain(part);
    } else {
      await answer.body?.cancel();
    }
  }
}

/** Types of a file's events; of its steps the names. */
async function timeline(user: TestUser, id: string): Promise<string[]> {
  const { items } = await user.get(`/api/files/${id}/events`);
  return items.map(({ type, data }: { type: string; data: { step: string } }) =>
    type === 'file.step' ? data.step : type,
  );
}

const WHOLE_TIMELINE = [
  'upload.created',
  'file.created',
  'file.processing',
  'verify',
  'sniff',
  'scan',
  'metadata',
  'thumbnails',
  'document',
  'optimize',
  'media',
  'preview',
  'file.completed',
];

function kill(pid: number): void {
  try {
    globalThis.process.kill(pid, 'SIGKILL');
  } catch {
    // It has ended meanwhile.
  }
}

/** Most resident memory that a process has ever had, in bytes. */
function peakMemory(pid: number): number {
  const [, kib] = /VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? [];
  return Number(kib) * 1024;
}

async function thumbnail(user: TestUser, id: string, size: string) {
  const answer = await user.fetch(`/api/files/${id}/thumbnails/${size}`);
  expect(answer.status).toBe(200);
  expect(answer.headers.get('Content-Type')).toBe('image/webp');
  return Buffer.from(await answer.arrayBuffer());
}

describe('the simulated scan', () => {
  const begin = () =>
    createScanStep({ scanner: simulatedScanner, oversize: 'fail' }).begin(
      {} as KnownFile,
      new AbortController().signal,
    );
  const threatIn = async (observer: StreamObserver) => {
    const ended = await observer.end();
    return ended.outcome === 'done' ? ended.facts.threat : 'not done';
  };
  const finds = async (...chunks: Buffer[]) => {
    const observer = begin();
    for (const chunk of chunks) observer.push(chunk);
    return (await threatIn(observer)) !== undefined;
  };
  const bytes = Buffer.concat([randomBytes(100), eicar(), randomBytes(100)]);

  it('finds the test string across every border of two chunks', async () => {
    for (let at = 0; at <= bytes.length; at++) {
      expect(await finds(bytes.subarray(0, at), bytes.subarray(at))).toBe(true);
    }
  });

  it('finds it in chunks of any size', async () => {
    for (let size = 1; size <= bytes.length; size++) {
      const chunks: Buffer[] = [];
      for (let at = 0; at < bytes.length; at += size) chunks.push(bytes.subarray(at, at + size));
      expect(await finds(...chunks)).toBe(true);
    }
  });

  it('finds it when the reader uses the memory of its chunks again', async () => {
    const memory = Buffer.alloc(bytes.length);
    const observer = begin();
    for (let at = 0; at < bytes.length; at += 7) {
      observer.push(memory.subarray(0, bytes.copy(memory, 0, at, at + 7)));
    }
    expect(await threatIn(observer)).toBe('EICAR test string');
  });

  it('finds nothing in halves, in an almost equal string or in nothing', async () => {
    const half = eicar().subarray(0, 34);
    expect(await finds(half, Buffer.from(' '), eicar().subarray(34))).toBe(false);
    expect(await finds(eicar().subarray(1))).toBe(false);
    expect(await finds(half, half, half)).toBe(false);
    expect(await finds()).toBe(false);
  });
});

describe('processing', () => {
  let processes: Processes;
  let user: TestUser;

  beforeAll(async () => {
    // A time zone far from UTC must not move the times that cameras write.
    processes = await startProcesses({
      TZ: 'America/New_York',
      PARSER_MEMORY: '300 MiB',
      WORKER_CONCURRENCY: '12',
    });
    user = await registerUser(() => processes.url);
  });

  afterAll(() => processes?.close());

  describe('of a photograph', () => {
    let file: FileJson;
    let photograph: Buffer;

    beforeAll(async () => {
      photograph = await makePhotograph();
      file = await process(user, photograph, 'phare.jpg', 'image/jpeg', sha256(photograph));
    });

    it('completes with every step done', async () => {
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
      expect(Object.entries(file.steps).map(([name, { state }]) => [name, state])).toEqual(
        expect.arrayContaining(['verify', 'sniff', 'scan', 'metadata', 'thumbnails'].map((n) => [n, 'done'])),
      );
      expect(file.completedAt && Date.parse(file.completedAt)).toBeGreaterThan(Date.parse(file.createdAt));
      expect(await timeline(user, file.id)).toEqual(WHOLE_TIMELINE);
    });

    it('reads EXIF, the place, IPTC and XMP', () => {
      expect(file.metadata.ifd0).toMatchObject({ Make: 'Landfall', Model: 'Test 1' });
      expect(file.metadata.exif.DateTimeOriginal).toBe('2024-05-06T07:08:09');
      expect(file.metadata.gps.latitude).toBeCloseTo(48.858333, 5);
      expect(file.metadata.gps.longitude).toBeCloseTo(-2.294444, 5);
      expect(file.metadata.gps.altitude).toBe(-35);
      expect(file.metadata.iptc).toMatchObject({ ObjectName: 'Landing', Byline: 'Ada' });
      expect(file.metadata.xmp.xmp.Rating).toBe(4);
      expect(file.metadata.xmp.dc.title.value).toBe('Le phare');
    });

    it('describes the image as it is shown, whatever its XMP pretends', () => {
      expect(file.metadata.image).toMatchObject({
        format: 'jpeg',
        width: 1000,
        height: 1600,
        orientation: 6,
        colorSpace: 'srgb',
        channels: 3,
        hasAlpha: false,
      });
    });

    it.each([
      ['small', 125, 200],
      ['medium', 375, 600],
      ['large', 750, 1200],
    ])('makes an upright %s thumbnail', async (size, width, height) => {
      const bytes = await thumbnail(user, file.id, size);
      expect(await sharp(bytes).metadata()).toMatchObject({ format: 'webp', width, height });
      const { data, info } = await sharp(bytes).raw().toBuffer({ resolveWithObject: true });
      const pixel = (x: number, y: number) =>
        [...data.subarray((y * info.width + x) * info.channels)].slice(0, 3);
      // Stored, red is left; turned by a quarter to the right, it is at the top.
      const [red = 0, , blue = 0] = pixel(width >> 1, height >> 3);
      expect(red).toBeGreaterThan(blue + 100);
      const [lowRed = 0, , lowBlue = 0] = pixel(width >> 1, height - (height >> 3));
      expect(lowBlue).toBeGreaterThan(lowRed + 100);
    });

    it('has a placeholder of its colour, in lists too', async () => {
      const { thumbhash, color } = file.placeholder ?? {};
      expect(thumbhash).toMatch(/^[A-Za-z0-9+/]{24,40}=*$/);
      // Its halves are red and blue.
      const [red = 0, green = 0, blue = 0] = Buffer.from(color?.slice(1) ?? '', 'hex');
      expect(Math.max(red, blue) - Math.min(red, blue)).toBeGreaterThan(150);
      expect(green).toBeLessThan(60);
      const { items } = await user.get('/api/files');
      expect(items.find(({ id }: FileJson) => id === file.id).placeholder).toEqual(file.placeholder);
    });

    it('serves the original as it was sent', async () => {
      const answer = await user.fetch(`/api/files/${file.id}/content`);
      expect(sha256(Buffer.from(await answer.arrayBuffer()))).toBe(sha256(photograph));
    });
  });

  describe.each([
    ['PNG', makePng, 'a.png', 'image/png', 'png'],
    ['WebP', makeWebp, 'a.webp', 'image/webp', 'webp'],
    ['GIF', makeGif, 'a.gif', 'image/gif', 'gif'],
    ['TIFF', makeTiff, 'a.tiff', 'image/tiff', 'tiff'],
    ['AVIF', makeAvif, 'a.avif', 'image/avif', 'heif'],
  ] as const)('of a %s image', (_name, make, filename, type, format) => {
    let file: FileJson;

    beforeAll(async () => {
      file = await process(user, await make(SMALL), filename, type);
    });

    it('completes without a warning and with thumbnails that are not larger than the image', async () => {
      expect(file).toMatchObject({ status: 'completed', detectedType: type, warnings: [] });
      expect(file.metadata.image).toMatchObject({ format, ...SMALL });
      expect(await sharp(await thumbnail(user, file.id, 'small')).metadata()).toMatchObject({
        width: 200,
        height: 133,
      });
      expect(await sharp(await thumbnail(user, file.id, 'large')).metadata()).toMatchObject(SMALL);
    });

    if (make === makeWebp || make === makeAvif) {
      it('reads its EXIF and the place', () => {
        expect(file.metadata.ifd0).toMatchObject({ Make: 'Landfall', Model: 'Test 1' });
        expect(file.metadata.gps.latitude).toBeCloseTo(48.858333, 5);
        expect(file.metadata.errors).toBeUndefined();
      });
    }

    if (make === makeWebp) {
      it('reads its XMP', () => expect(file.metadata.xmp.dc.title.value).toBe('Le phare'));
    }
  });

  it('reads the EXIF of a HEIC image without pixels and says why it has no thumbnails', async () => {
    const file = await process(user, await makeHeic(), 'IMG_0001.HEIC', 'image/heic');
    expect(file).toMatchObject({ status: 'completed', detectedType: 'image/heic' });
    expect(file.metadata.image).toMatchObject({ width: 4032, height: 3024 });
    expect(file.metadata.ifd0.Make).toBe('Landfall');
    expect(file.metadata.gps.latitude).toBeCloseTo(48.858333, 5);
    expect(file.steps.thumbnails?.state).toBe('failed');
    expect(file.warnings).toEqual([
      {
        step: 'thumbnails',
        code: 'unreadable',
        detail: expect.stringMatching(/^The image cannot be decoded: /),
      },
    ]);
    expect(file.links.thumbnails).toBeNull();
  });

  it.each([
    ['text', Buffer.from('Hello, naïve 世界\n'), 'a.txt', 'text/plain', 'text/plain'],
    ['PDF', makePdf(), 'a.pdf', 'application/pdf', 'application/pdf'],
    ['zip', makeZip(), 'a.zip', 'application/zip', 'application/zip'],
    ['SVG', makeSvg(), 'a.svg', 'image/svg+xml', 'text/plain'],
    ['HTML', makeHtml(), 'a.html', 'text/html', 'text/plain'],
    ['SVG with an XML declaration', makeXmlSvg(), 'a.svg', 'image/svg+xml', 'application/xml'],
    ['unknown', Buffer.from([0, 1, 2, 3, 255]), 'a.bin', 'application/octet-stream', null],
  ])(
    'skips the steps that only images need for %s',
    async (_name, content, filename, declared, detectedType) => {
      const file = await process(user, content, filename, declared);
      expect(file).toMatchObject({ status: 'completed', detectedType, warnings: [] });
      expect(file.metadata).not.toHaveProperty('image');
      expect(file.steps).toMatchObject({
        metadata: { state: 'skipped', reason: 'not an image' },
        thumbnails: { state: 'skipped', reason: 'not an image' },
      });
      expect(file.placeholder).toBeNull();
    },
  );

  const table = Buffer.from('\uFEFFName;City\r\nJürgen;Köln\r\n', 'utf16le');
  const WORD = 'application/vnd.openxmlformats-officedocument.wordprocessingml.document';
  const pictureFirst = makeArchive([
    { name: 'word/media/image1.png', content: randomBytes(200_000) },
    { name: 'word/document.xml', content: Buffer.from('<w:document/>') },
    { name: '[Content_Types].xml', content: Buffer.from('<Types/>') },
  ]);
  it.each([
    ['a table of Excel', table, 'a.csv', 'text/csv', 'text/plain', 'text/plain; charset=utf-16le'],
    ['Latin-1', Buffer.from('Jürgen, Köln', 'latin1'), 'a.txt', 'text/plain', 'text/plain', 'text/plain'],
    [
      'words',
      Buffer.from('BMW: oil, tyres'),
      'a.txt',
      'text/plain',
      'text/plain',
      'text/plain; charset=utf-8',
    ],
    [
      'a late PDF',
      Buffer.concat([Buffer.from('\r\n'), makePdf()]),
      'a.pdf',
      'application/pdf',
      'application/pdf',
      'application/pdf',
    ],
    ['a document with its picture first', pictureFirst, 'a.docx', WORD, WORD, WORD],
  ])('finds the type of %s', async (_name, content, filename, declared, detectedType, served) => {
    const file = await process(user, content, filename, declared);
    expect(file).toMatchObject({ status: 'completed', detectedType, warnings: [] });
    const answer = await user.fetch(`/api/files/${file.id}/content`);
    expect(answer.headers.get('Content-Type')).toBe(served);
    expect(Buffer.from(await answer.arrayBuffer())).toEqual(content);
  });

  it('takes an AVIF image whose major brand says only how it is built for one', async () => {
    const content = await makeAvif(SMALL);
    content.write('mif1', 8);
    const file = await process(user, content, 'a.avif', 'image/avif');
    expect(file).toMatchObject({ status: 'completed', detectedType: 'image/avif', warnings: [] });
    expect(file.steps.thumbnails?.state).toBe('done');
  });

  it('completes an empty file', async () => {
    const file = await process(user, Buffer.alloc(0), 'empty.txt', 'text/plain');
    expect(file).toMatchObject({ status: 'completed', size: 0, detectedType: null, warnings: [] });
    expect(file.sha256).toBe(sha256(Buffer.alloc(0)));
    const answer = await user.fetch(`/api/files/${file.id}/content`);
    expect(answer.status).toBe(200);
    expect(await answer.text()).toBe('');
  });

  it('warns when name or declared type are wrong, and goes by the content', async () => {
    const file = await process(user, makePdf(), 'holiday.png', 'image/png');
    expect(file).toMatchObject({ status: 'completed', detectedType: 'application/pdf' });
    expect(file.warnings.map(({ step, code }) => [step, code])).toEqual([
      ['sniff', 'type_mismatch'],
      ['sniff', 'extension_mismatch'],
    ]);
    expect(file.steps.thumbnails?.state).toBe('skipped');
  });

  it('does not warn about other names of the same type', async () => {
    const jpeg = await makeJpeg(SMALL);
    const gzip = gzipSync('text');
    for (const [content, filename, type] of [
      [jpeg, 'a.JPEG', 'image/jpg'],
      [jpeg, 'a', 'application/octet-stream'],
      [jpeg, 'a.jfif', 'image/pjpeg; charset=binary'],
      [gzip, 'a.tar.gz', 'application/x-gzip'],
      [gzip, 'a.tgz', 'application/gzip'],
      [makeXmlSvg(), 'feed.rss', 'application/rss+xml'],
      // The files of Word, Excel and PowerPoint all began with these bytes until 2007.
      [Buffer.from('d0cf11e0a1b11ae1'.padEnd(1024, '0'), 'hex'), 'a.doc', 'application/msword'],
    ] as const) {
      const file = await process(user, content, filename, type);
      expect(file).toMatchObject({ filename, status: 'completed', warnings: [] });
    }
  });

  it('fails a file whose SHA-256 is not the announced one', async () => {
    const content = randomBytes(1000);
    const file = await process(user, content, 'a.bin', '', sha256(randomBytes(1)));
    expect(file).toMatchObject({
      status: 'failed',
      attempts: 1,
      error: { step: 'verify', code: 'checksum_mismatch', detail: expect.stringContaining(sha256(content)) },
    });
    expect(file.links.content).toBeNull();
    const answer = await user.fetch(`/api/files/${file.id}/content`);
    expect(answer.status).toBe(409);
    expect(await timeline(user, file.id)).toEqual([
      'upload.created',
      'file.created',
      'file.processing',
      'file.failed',
    ]);
  });

  it.each([
    ['at the start', () => Buffer.concat([eicar(), randomBytes(1000)])],
    ['alone', eicar],
    ['at the very end of 5 MiB', () => Buffer.concat([randomBytes(5 * MIB - eicar().length), eicar()])],
    [
      'across the border of two chunks',
      () => Buffer.concat([randomBytes(256 * 1024 - 30), eicar(), randomBytes(MIB)]),
    ],
    ['behind an image', async () => Buffer.concat([await makeJpeg(SMALL), eicar()])],
  ])('finds EICAR %s and never serves or parses the file', async (_where, make) => {
    const file = await process(user, await make(), 'a.jpg', '');
    expect(file).toMatchObject({
      status: 'infected',
      metadata: {},
      error: { step: 'scan', code: 'infected', detail: 'Found: EICAR test string' },
      links: { content: null, image: null, thumbnails: null },
    });
    expect(Object.keys(file.steps).sort()).toEqual(['scan', 'sniff', 'verify']);
    for (const path of ['content', 'content?download=1', 'thumbnails/small']) {
      const answer = await user.fetch(`/api/files/${file.id}/${path}`);
      expect(answer.status).toBe(403);
      expect((await answer.json()).code).toBe('infected');
    }
    expect(await timeline(user, file.id)).toEqual([
      'upload.created',
      'file.created',
      'file.processing',
      'verify',
      'sniff',
      'file.infected',
    ]);
  });

  it('warns why a broken image or a bomb has no thumbnails, and is not held up by them', async () => {
    const ids = [];
    for (const content of [makePngBomb(), (await makeAvif(SMALL)).subarray(0, 200)]) {
      ids.push(await user.upload(content, { filename: 'broken' }));
    }
    const good = await process(user, Buffer.concat([await makePng(SMALL), randomBytes(8)]), 'good.png');
    expect(good).toMatchObject({
      status: 'completed',
      warnings: [],
      steps: { thumbnails: { state: 'done' } },
    });
    expect(await timeline(user, good.id)).toEqual(WHOLE_TIMELINE);

    const [bomb, broken] = await Promise.all(ids.map((id) => user.settled(id)));
    expect(bomb).toMatchObject({ status: 'completed', attempts: 1, detectedType: 'image/png' });
    expect(bomb?.metadata.image).toMatchObject({ width: 50_000, height: 50_000 });
    expect(bomb?.warnings).toEqual([
      { step: 'thumbnails', code: 'too_many_pixels', detail: expect.stringContaining('50000 × 50000') },
    ]);
    expect(broken).toMatchObject({ status: 'completed', attempts: 1, detectedType: 'image/avif' });
    expect(broken?.warnings.map(({ step, code }) => [step, code])).toEqual([
      ['metadata', 'unreadable'],
      ['thumbnails', 'unreadable'],
    ]);
    for (const file of [bomb, broken]) {
      expect(file?.steps.thumbnails).toMatchObject({
        state: 'failed',
        reason: file?.warnings.at(-1)?.detail,
      });
      await expectNoPaths(user, processes, file?.id ?? '');
      expect((await user.fetch(`/api/files/${file?.id}/content`, { method: 'HEAD' })).status).toBe(200);
      expect((await user.fetch(`/api/files/${file?.id}/thumbnails/small`)).status).toBe(404);
    }
  });

  it('makes thumbnails of the existing part of a photograph that is cut off, and warns', async () => {
    const file = await process(user, await makeTruncatedJpeg(), 'cut-off.jpg');
    expect(file).toMatchObject({
      status: 'completed',
      metadata: { image: { width: 800, height: 600 } },
      steps: { metadata: { state: 'done' }, thumbnails: { state: 'done' } },
      warnings: [{ step: 'thumbnails', code: 'damaged', detail: expect.stringMatching(/premature end/i) }],
    });
    expect(await sharp(await thumbnail(user, file.id, 'small')).metadata()).toMatchObject({
      width: 200,
      height: 150,
    });
    await expectNoPaths(user, processes, file.id);
  });

  it('ends a parser that takes too much memory', async () => {
    const hungry = await user.upload(await makeHungryPng(), { filename: 'hungry.png' });
    const file = await user.settled(hungry);
    expect(file).toMatchObject({
      status: 'completed',
      attempts: 1,
      steps: { thumbnails: { state: 'failed' } },
    });
    expect(file.warnings).toEqual([
      { step: 'thumbnails', code: 'too_much_memory', detail: 'More than 300 MiB' },
    ]);
    expect(await process(user, await makePng(SMALL), 'good.png')).toMatchObject({
      status: 'completed',
      warnings: [],
    });
  });

  it('tries again when a parser dies, and repeats no step that is done', async () => {
    const id = await user.upload(await makeSlowPng(), { filename: 'slow.png' });
    // A parser that dies before it has a task is replaced, and costs no attempt.
    await until('an attempt to fail', async () => {
      const { step, attempts } = await user.get(`/api/files/${id}/status`);
      if (attempts > 1) return true;
      if (step !== 'thumbnails') return false;
      for (const pid of childrenOf(processes.pid('worker'))) kill(pid);
      return false;
    });
    const file = await user.settled(id);
    expect(file).toMatchObject({ status: 'completed', warnings: [], error: null });
    expect(file.steps.thumbnails?.state).toBe('done');
    expect(await timeline(user, id)).toEqual(WHOLE_TIMELINE);
  });

  it('reads 300 MiB in little memory and shows how far it is', async () => {
    const content = Buffer.alloc(300 * MIB, randomBytes(MIB));
    // Three files run at a time, so that each takes long enough to be watched.
    const names = ['one.bin', 'two.bin', 'three.bin'];
    const ids = await Promise.all(
      names.map((filename) => user.tusUpload(content, { metadata: { filename } })),
    );
    const seen = new Set<string>();
    let least = 100;
    const end = async () => {
      const states = await Promise.all(ids.map((id) => user.get(`/api/files/${id}/status`)));
      for (const { step, progress } of states.filter(({ status }) => status === 'processing')) {
        seen.add(step);
        if (progress > 0) least = Math.min(least, progress);
      }
      return states.every(({ status }) => status === 'completed');
    };
    await until('the end', end, 180);
    expect(least).toBeLessThan(100);
    expect([...seen]).toContain('verify');
    const whole = { status: 'completed', attempts: 1, size: content.length, sha256: sha256(content) };
    for (const id of ids) expect(await user.settled(id)).toMatchObject(whole);
    expect(peakMemory(processes.pid('worker'))).toBeLessThan(200 * MIB);
  });

  it('stops in time while more images wait than parsers are free, and loses none of them', async () => {
    const slow = await makeSlowPng();
    const ids: string[] = [];
    for (let i = 0; i < 12; i++) {
      ids.push(await user.upload(Buffer.concat([slow, randomBytes(8)]), { filename: `${i}.png` }));
    }
    const scanned = async () => {
      const files: FileJson[] = await Promise.all(ids.map((id) => user.get(`/api/files/${id}`)));
      return files.every(({ steps }) => steps.scan);
    };
    await until('all to be scanned', scanned);
    expect(await processes.stop('worker')).toBe(0);
    // More images than parsers: memory that a parser used for one image must not count against the next.
    const kept = ids.splice(0, availableParallelism() + 1);
    for (const id of ids) await user.fetch(`/api/files/${id}?permanent=1`, { method: 'DELETE' });
    await processes.start('worker');
    for (const id of kept) {
      const file = await user.settled(id);
      expect(file).toMatchObject({ status: 'completed', warnings: [] });
      expect(await timeline(user, id)).toEqual(WHOLE_TIMELINE);
    }
  });
});

describe('when storage or time fails', () => {
  let processes: Processes;
  let user: TestUser;

  /** The test starts the worker once the state that it should find is there. */
  async function start(env: Record<string, string>): Promise<void> {
    processes = await startProcesses(env, ['server']);
    user = await registerUser(() => processes.url);
  }

  /** A minute at least until the last attempt. */
  const PATIENCE = { JOB_ATTEMPTS: '12', JOB_BACKOFF_MS: '60' };

  afterEach(() => processes?.close());

  it('fails a file whose bytes stay away, after all attempts and with a clear reason', async () => {
    const attempts = 6;
    await start({ JOB_ATTEMPTS: String(attempts), JOB_BACKOFF_MS: '20' });
    const id = await user.upload(Buffer.from('away'), { filename: 'away.txt' });
    const object = await filePathOf(processes, id);
    await rename(object, `${object}.away`);
    await processes.start('worker');
    const file = await user.settled(id);
    expect(file).toMatchObject({
      status: 'failed',
      attempts,
      error: { step: 'verify', code: 'unavailable' },
    });
    expect(await timeline(user, id)).toEqual([
      'upload.created',
      'file.created',
      'file.processing',
      'file.failed',
    ]);
    await expectNoPaths(user, processes, id);
  });

  it('goes on when the bytes come back', async () => {
    await start(PATIENCE);
    const id = await user.upload(Buffer.from('back'), { filename: 'back.txt' });
    const object = await filePathOf(processes, id);
    await rename(object, `${object}.away`);
    await processes.start('worker');
    await until('a failed attempt', async () => {
      const { status, error } = await user.get(`/api/files/${id}/status`);
      return status === 'processing' && error?.code === 'unavailable';
    });
    await expectNoPaths(user, processes, id);
    await rename(`${object}.away`, object);
    const file = await user.settled(id);
    expect(file).toMatchObject({ status: 'completed', error: null, sha256: sha256(Buffer.from('back')) });
    expect(file.attempts).toBeGreaterThan(1);
    expect(await timeline(user, id)).toEqual(WHOLE_TIMELINE);
  });

  it('does not take bytes that are away for an image that cannot be read', async () => {
    await start(PATIENCE);
    const id = await user.upload(await makeJpeg(SMALL), { filename: 'a.jpg' });
    const object = await filePathOf(processes, id);
    // This is the state that a worker leaves when it dies after the scan.
    await processes.database.query(
      `UPDATE files SET clean = true, detected_type = 'image/jpeg', sha256 = '', steps =
         '{"verify": {"state": "done", "ms": 1}, "sniff": {"state": "done", "ms": 1}, "scan": {"state": "done", "ms": 1}}'
       WHERE id = $1`,
      [id],
    );
    await rename(object, `${object}.away`);
    await processes.start('worker');
    await until('a failed attempt', async () => (await user.get(`/api/files/${id}/status`)).attempts > 1);
    await rename(`${object}.away`, object);
    const file = await user.settled(id);
    expect(file).toMatchObject({
      status: 'completed',
      warnings: [],
      steps: { thumbnails: { state: 'done' } },
    });
    await expectNoPaths(user, processes, id);
  });

  it('ends a parser that takes too long', async () => {
    await start({ PARSER_TIMEOUT_SECONDS: '1' });
    await processes.start('worker');
    // A parser may take longer than the limit to start. The parser that was used last is used next.
    await until('a parser to be up', async () => {
      const { steps } = await process(user, await makePng(SMALL), 'small.png');
      return steps.thumbnails?.state === 'done' && steps.metadata?.state === 'done';
    });
    const file = await process(user, await makeSlowPng(), 'slow.png');
    expect(file).toMatchObject({
      status: 'completed',
      attempts: 1,
      steps: { thumbnails: { state: 'failed' } },
    });
    // On a busy machine the metadata may take as long.
    expect(file.warnings.filter(({ step }) => step === 'thumbnails')).toEqual([
      { step: 'thumbnails', code: 'took_too_long', detail: 'More than 1 s' },
    ]);
  });
});
