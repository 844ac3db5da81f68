import { deflateSync } from 'node:zlib';
import sharp from 'sharp';
import { readPdfDate } from '../core/media/documents/pdf-date.js';
import { registerUser, type TestUser } from './support/client.js';
import { type DocumentParser, startDocumentParser } from './support/parser.js';
import { makePdfDocument } from './support/pdf.js';
import { type Processes, startProcesses } from './support/processes.js';

const INFO = {
  Title: 'Über die Größe',
  Author: 'Ada',
  CreationDate: "D:20240506070809+02'00'",
  ModDate: 'D:20240230',
};

const REPORT = makePdfDocument({ pages: ['Hello first', 'Second page', 'Third page'], info: INFO });

/** A page whose content is this, repeated until it has this many MiB, and compressed. */
function makePdfBomb(text: string, mib: number): Buffer {
  const bytes = deflateSync(Buffer.alloc(mib * 1024 ** 2, text));
  return makePdfDocument({ pages: [''], content: { bytes, filter: '/FlateDecode' } });
}

describe('the parser of PDF', () => {
  let parser: DocumentParser;

  beforeAll(async () => {
    parser = await startDocumentParser();
  });

  afterAll(() => parser?.close());

  it('reads the facts, the text, and draws the first page', async () => {
    const { facts, thumbnails, warnings } = await parser.describe('pdf', REPORT);
    expect(warnings).toEqual([]);
    expect(facts).toEqual({
      pages: 3,
      encrypted: false,
      version: '1.4',
      title: 'Über die Größe',
      author: 'Ada',
      createdAt: '2024-05-06T07:08:09+02:00',
      pageWidth: 300,
      pageHeight: 400,
      excerpt: 'Hello first Second page Third page',
    });
    expect(thumbnails.map(({ name, width, height }) => [name, width, height])).toEqual([
      ['large', 900, 1200],
      ['medium', 450, 600],
      ['small', 150, 200],
    ]);
    const { data, info } = await sharp(thumbnails[2]?.bytes).raw().toBuffer({ resolveWithObject: true });
    const pixel = (x: number, y: number) => data[(y * info.width + x) * info.channels] ?? 0;
    expect(pixel(20, 20)).toBeLessThan(50);
    expect(pixel(100, 20)).toBeGreaterThan(200);
  });

  it('bounds what it keeps of long texts', async () => {
    const long = makePdfDocument({
      pages: Array(30).fill('words '.repeat(500)),
      info: { Title: 'x'.repeat(9000) },
    });
    const { facts } = await parser.describe('pdf', long);
    expect(facts.pages).toBe(30);
    expect(String(facts.excerpt)).toHaveLength(1000);
    expect(String(facts.title).length).toBeLessThanOrEqual(2000);
  });

  it('says that a PDF needs a password', async () => {
    const locked = makePdfDocument({ pages: ['secret'], info: INFO, password: 'sesame' });
    expect(await parser.describe('pdf', locked)).toEqual({
      facts: { encrypted: true },
      thumbnails: [],
      warnings: [{ code: 'encrypted', detail: expect.stringMatching(/password/) }],
    });
  });

  it('reads a PDF that is encrypted and opens without a password', async () => {
    const open = makePdfDocument({ pages: ['for all'], info: INFO, password: '' });
    const { facts, thumbnails } = await parser.describe('pdf', open);
    expect(facts).toMatchObject({ encrypted: true, title: 'Über die Größe', excerpt: 'for all' });
    expect(thumbnails).toHaveLength(3);
  });

  it('reads a PDF whose table is missing as far as possible', async () => {
    const text = REPORT.toString('latin1').replace(/xref\n[\s\S]*?trailer/, 'trailer');
    const { facts, thumbnails, warnings } = await parser.describe('pdf', Buffer.from(text, 'latin1'));
    expect(facts).toMatchObject({ pages: 3, title: 'Über die Größe' });
    expect(thumbnails).toHaveLength(3);
    expect(warnings).toEqual([{ code: 'damaged', detail: expect.any(String) }]);
  });

  it.each([
    ['cut off', REPORT.subarray(0, 800)],
    ['nothing but a header', Buffer.from('%PDF-1.7\n')],
    ['noise behind a header', Buffer.concat([Buffer.from('%PDF-1.7\n'), Buffer.alloc(5000, 'x obj <<')])],
    ['without a page', makePdfDocument({ pages: [] })],
  ])('refuses a PDF that is %s', async (_name, content) => {
    await expect(parser.describe('pdf', content)).rejects.toMatchObject({ code: 'unreadable' });
  });

  it('reads a page of absurd size', async () => {
    const { thumbnails } = await parser.describe(
      'pdf',
      makePdfDocument({ pages: [''], width: 14_400, height: 1 }),
    );
    expect(thumbnails[0]).toMatchObject({ width: 1200, height: 1 });
  });

  it('keeps the facts of a PDF that takes too much memory, and none of that memory', async () => {
    const bombs = [makePdfBomb('0 0 m 9 9 l S ', 40), makePdfBomb('q ', 40), makePdfBomb(' ', 300)];
    for (const bomb of bombs) {
      expect(await parser.describe('pdf', bomb)).toEqual({
        facts: expect.objectContaining({ pages: 1, version: '1.4' }),
        thumbnails: [],
        warnings: [{ code: 'too_much_memory', detail: expect.any(String) }],
      });
      expect((await parser.describe('pdf', REPORT)).thumbnails).toHaveLength(3);
    }
  });

  it('is stopped when it takes too long', async () => {
    const hasty = await startDocumentParser({ timeoutSeconds: 0.001 });
    await expect(hasty.describe('pdf', REPORT)).rejects.toMatchObject({ code: 'took_too_long' });
    hasty.close();
  });

  it('does not read a PDF of which it can hold only a part', async () => {
    await expect(parser.describe('pdf', REPORT, 2 ** 40)).rejects.toMatchObject({ code: 'too_much_memory' });
  });
});

test('dates of PDF', () => {
  expect(
    [
      "D:20240506070809+02'00'",
      "D:20240506070809-05'30",
      'D:20240506070809Z',
      "D:20240506070809Z00'00'",
      'D:20240506070809',
      'D:202405',
      '2024',
      'D:20240230',
      'D:20241301',
      'yesterday',
      '',
    ].map(readPdfDate),
  ).toEqual([
    '2024-05-06T07:08:09+02:00',
    '2024-05-06T07:08:09-05:30',
    '2024-05-06T07:08:09Z',
    '2024-05-06T07:08:09Z',
    '2024-05-06T07:08:09',
    '2024-05-01T00:00:00',
    '2024-01-01T00:00:00',
    ...Array(4).fill(undefined),
  ]);
});

describe('an uploaded PDF', () => {
  let processes: Processes;
  let user: TestUser;

  beforeAll(async () => {
    processes = await startProcesses({ PARSER_MEMORY: '400 MiB' });
    user = await registerUser(() => processes.url);
  });

  afterAll(() => processes?.close());

  it('shows its facts and has thumbnails', async () => {
    const file = await user.settled(await user.upload(REPORT, { filename: 'report.pdf' }));
    expect(file).toMatchObject({
      status: 'completed',
      detectedType: 'application/pdf',
      warnings: [],
      metadata: {
        pdf: { pages: 3, title: 'Über die Größe', excerpt: expect.stringContaining('Hello first') },
      },
      steps: { document: { state: 'done' }, thumbnails: { state: 'skipped' } },
    });
    const answer = await user.fetch(file.links.thumbnails?.small ?? '');
    expect(answer.headers.get('Content-Type')).toBe('image/webp');
    const image = await sharp(Buffer.from(await answer.arrayBuffer())).metadata();
    expect([image.width, image.height]).toEqual([150, 200]);
  });

  it('completes with a warning when it is broken', async () => {
    const file = await user.settled(await user.upload(REPORT.subarray(0, 800), { filename: 'cut.pdf' }));
    expect(file).toMatchObject({
      status: 'completed',
      attempts: 1,
      warnings: [{ step: 'document', code: 'unreadable', detail: 'The PDF is broken and cannot be read' }],
      steps: { document: { state: 'failed' } },
    });
  });
});
