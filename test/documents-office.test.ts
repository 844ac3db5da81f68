import { randomBytes } from 'node:crypto';
import { toDate } from '../core/media/documents/package.js';
import { makeArchive } from './support/archives.js';
import { registerUser, type TestUser } from './support/client.js';
import { makeJpeg, makePng, makePngBomb } from './support/fixtures.js';
import { type DocumentParser, startDocumentParser } from './support/parser.js';
import { type Processes, startProcesses } from './support/processes.js';

const RELATIONSHIPS = 'http://schemas.openxmlformats.org/package/2006/relationships';
const OFFICE = 'http://schemas.openxmlformats.org/officeDocument/2006/relationships';

const CORE = `<?xml version="1.0" encoding="UTF-8" standalone="yes"?>
<cp:coreProperties xmlns:cp="http://schemas.openxmlformats.org/package/2006/metadata/core-properties"
 xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:dcterms="http://purl.org/dc/terms/"
 xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><dc:title>Über &amp; unter</dc:title><dc:creator>Ada</dc:creator>
<cp:lastModifiedBy>Bob</cp:lastModifiedBy><cp:keywords>a, b</cp:keywords>
<dcterms:created xsi:type="dcterms:W3CDTF">2024-05-06T07:08:09Z</dcterms:created>
<dcterms:modified xsi:type="dcterms:W3CDTF">yesterday</dcterms:modified></cp:coreProperties>`;

const extended = (inner: string) =>
  `<Properties xmlns="http://schemas.openxmlformats.org/officeDocument/2006/extended-properties">${inner}</Properties>`;

interface OfficeOptions {
  core?: string;
  app?: string;
  thumbnail?: { name: string; content: Buffer };
}

/** A document of Office Open XML. @param main the folder and the name of its main part, and its type */
function makeOffice(
  [part, type]: [string, string],
  { core = CORE, app = '', thumbnail }: OfficeOptions = {},
) {
  const related = [
    [`${RELATIONSHIPS}/metadata/core-properties`, 'docProps/core.xml'],
    [`${OFFICE}/extended-properties`, '/docProps/app.xml'],
    ...(thumbnail ? [[`${RELATIONSHIPS}/metadata/thumbnail`, thumbnail.name]] : []),
  ].map(([kind, target], index) => `<Relationship Id="r${index}" Type="${kind}" Target="${target}"/>`);
  const types = `<Types><Override PartName="/${part}" ContentType="application/vnd.openxmlformats-officedocument.${type}.main+xml"/></Types>`;
  return makeArchive([
    { name: '[Content_Types].xml', content: Buffer.from(types) },
    {
      name: '_rels/.rels',
      content: Buffer.from(`<Relationships xmlns="${RELATIONSHIPS}">${related.join('')}</Relationships>`),
    },
    { name: part, content: Buffer.from('<main/>') },
    { name: 'docProps/core.xml', content: Buffer.from(core) },
    { name: 'docProps/app.xml', content: Buffer.from(extended(app)) },
    ...(thumbnail ? [thumbnail] : []),
  ]);
}

const WORD: [string, string] = ['word/document.xml', 'wordprocessingml.document'];
const EXCEL: [string, string] = ['xl/workbook.xml', 'spreadsheetml.sheet'];
const POWERPOINT: [string, string] = ['ppt/presentation.xml', 'presentationml.presentation'];

const META = `<?xml version="1.0" encoding="UTF-8"?>
<office:document-meta xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0"
 xmlns:meta="urn:oasis:names:tc:opendocument:xmlns:meta:1.0" xmlns:dc="http://purl.org/dc/elements/1.1/"><office:meta>
<meta:generator>LibreOffice/24.8</meta:generator><dc:title>Brief</dc:title><meta:initial-creator>Ada</meta:initial-creator>
<dc:creator>Eve</dc:creator><meta:creation-date>2024-05-06T07:08:09.123456789</meta:creation-date>
<dc:date>2024-06-01T10:00:00</dc:date><meta:keyword>one</meta:keyword><meta:keyword>two</meta:keyword>
<meta:document-statistic meta:page-count="3" meta:word-count="512" meta:character-count="x"/></office:meta></office:document-meta>`;

async function makeOpenDocument(type: string): Promise<Buffer> {
  return makeArchive([
    { name: 'mimetype', content: Buffer.from(`application/vnd.oasis.opendocument.${type}`), isStored: true },
    { name: 'meta.xml', content: Buffer.from(META) },
    { name: 'Thumbnails/thumbnail.png', content: await makePng({ width: 181, height: 256 }) },
  ]);
}

async function makeBook(cover: 'properties' | 'meta'): Promise<Buffer> {
  const [meta, item] =
    cover === 'meta' ? ['<meta name="cover" content="c"/>', ''] : ['', 'properties="cover-image"'];
  const book = `<package xmlns="http://www.idpf.org/2007/opf" version="3.0"><metadata
 xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>Der Turm</dc:title><dc:creator>Ada</dc:creator><dc:creator>Bob</dc:creator>
<dc:language>de</dc:language><dc:date>2023-04-05</dc:date>${meta}</metadata><manifest><item id="a" href="a.xhtml"/>
<item id="c" href="../images/cover.jpg" ${item}/></manifest></package>`;
  const container =
    '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles><rootfile full-path="text/book.opf"/></rootfiles></container>';
  return makeArchive([
    { name: 'mimetype', content: Buffer.from('application/epub+zip'), isStored: true },
    { name: 'META-INF/container.xml', content: Buffer.from(container) },
    { name: 'text/book.opf', content: Buffer.from(book) },
    { name: 'images/cover.jpg', content: await makeJpeg({ width: 300, height: 400 }) },
  ]);
}

describe('the parser of Office', () => {
  let parser: DocumentParser;

  beforeAll(async () => {
    parser = await startDocumentParser();
  });

  afterAll(() => parser?.close());

  it('reads the properties of a text, and its picture', async () => {
    const document = makeOffice(WORD, {
      app: '<Application>Word</Application><Pages>2</Pages><Words>77</Words><Characters>400</Characters>',
      thumbnail: { name: 'docProps/thumbnail.jpeg', content: await makeJpeg({ width: 300, height: 400 }) },
    });
    const { facts, thumbnails, warnings } = await parser.describe('office', document);
    expect(warnings).toEqual([]);
    expect(facts).toEqual({
      title: 'Über & unter',
      author: 'Ada',
      lastAuthor: 'Bob',
      keywords: 'a, b',
      createdAt: '2024-05-06T07:08:09Z',
      application: 'Word',
      pages: 2,
      words: 77,
      characters: 400,
    });
    expect(thumbnails.map(({ name, width, height }) => [name, width, height])).toEqual([
      ['large', 300, 400],
      ['medium', 300, 400],
      ['small', 150, 200],
    ]);
  });

  it('reads slides, and a sheet without a picture', async () => {
    const slides = await parser.describe('office', makeOffice(POWERPOINT, { app: '<Slides>12</Slides>' }));
    expect(slides).toMatchObject({
      facts: { title: 'Über & unter', slides: 12 },
      thumbnails: [],
      warnings: [],
    });
    expect(await parser.describe('office', makeOffice(EXCEL))).toMatchObject({
      facts: { author: 'Ada' },
      warnings: [],
    });
  });

  it('reads the properties of OpenDocument, and its picture', async () => {
    const { facts, thumbnails, warnings } = await parser.describe('office', await makeOpenDocument('text'));
    expect(warnings).toEqual([]);
    expect(facts).toEqual({
      title: 'Brief',
      author: 'Ada',
      lastAuthor: 'Eve',
      keywords: 'one, two',
      createdAt: '2024-05-06T07:08:09',
      modifiedAt: '2024-06-01T10:00:00',
      application: 'LibreOffice/24.8',
      pages: 3,
      words: 512,
    });
    expect(thumbnails[2]).toMatchObject({ name: 'small', height: 200 });
  });

  it.each(['properties', 'meta'] as const)('reads a book whose cover is named by %s', async (cover) => {
    const { facts, thumbnails, warnings } = await parser.describe('epub', await makeBook(cover));
    expect(warnings).toEqual([]);
    expect(facts).toEqual({
      version: '3.0',
      title: 'Der Turm',
      author: 'Ada',
      language: 'de',
      publishedAt: '2023-04-05',
    });
    expect(thumbnails[2]).toMatchObject({ width: 150, height: 200 });
  });

  it.each([
    ['with entities', CORE.replace('?>', '?><!DOCTYPE x [<!ENTITY a "aaaa">]>')],
    ['that is no XML', '<cp:coreProperties'],
    ['that is a bomb', `<a>${' '.repeat(40 * 1024 ** 2)}</a>`],
  ])('warns of a part %s', async (_name, core) => {
    const document = makeOffice(WORD, { core, app: '<Pages>2</Pages>' });
    expect(await parser.describe('office', document)).toEqual({
      facts: { pages: 2 },
      thumbnails: [],
      warnings: [{ code: 'damaged', detail: expect.stringContaining('docProps/core.xml') }],
    });
  });

  it('warns of a picture that is a bomb, and of one that is noise', async () => {
    for (const [content, code] of [
      [makePngBomb(), 'too_many_pixels'],
      [randomBytes(1000), 'unreadable'],
    ] as const) {
      const thumbnail = { name: 'docProps/thumbnail.png', content };
      const { facts, thumbnails, warnings } = await parser.describe(
        'office',
        makeOffice(WORD, { thumbnail }),
      );
      expect(facts).toMatchObject({ title: 'Über & unter' });
      expect([thumbnails, warnings]).toEqual([[], [{ code, detail: expect.any(String) }]]);
    }
  });

  it('takes no picture that cannot be drawn here for a damage', async () => {
    const thumbnail = { name: 'docProps/thumbnail.emf', content: randomBytes(100) };
    expect(await parser.describe('office', makeOffice(WORD, { thumbnail }))).toMatchObject({
      thumbnails: [],
      warnings: [],
    });
  });

  it('refuses a document that is cut off', async () => {
    await expect(parser.describe('office', makeOffice(WORD).subarray(0, 500))).rejects.toMatchObject({
      code: 'unreadable',
    });
  });
});

test('dates of XML', () => {
  expect(
    [
      '2024-05-06T07:08:09Z',
      '2024-05-06T07:08:09.5+02:00',
      '2024-05-06',
      '2024',
      '2024-13-01',
      'May 2024',
      undefined,
    ].map(toDate),
  ).toEqual([
    '2024-05-06T07:08:09Z',
    '2024-05-06T07:08:09+02:00',
    '2024-05-06',
    '2024',
    ...Array(3).fill(undefined),
  ]);
});

describe('an uploaded document', () => {
  let processes: Processes;
  let user: TestUser;

  beforeAll(async () => {
    processes = await startProcesses();
    user = await registerUser(() => processes.url);
  });

  afterAll(() => processes?.close());

  it.each([
    ['a.docx', () => makeOffice(WORD), 'office', 'Über & unter'],
    ['a.xlsx', () => makeOffice(EXCEL), 'office', 'Über & unter'],
    ['a.pptx', () => makeOffice(POWERPOINT), 'office', 'Über & unter'],
    ['a.odt', () => makeOpenDocument('text'), 'office', 'Brief'],
    ['a.odm', () => makeOpenDocument('text-master'), 'office', 'Brief'],
    ['a.epub', () => makeBook('properties'), 'epub', 'Der Turm'],
  ])('shows the properties of %s', async (filename, make, key, title) => {
    const file = await user.settled(await user.upload(await make(), { filename }));
    expect(file).toMatchObject({ status: 'completed', warnings: [], metadata: { [key]: { title } } });
    expect(file.links.thumbnails !== null).toBe(key === 'epub' || filename.includes('.od'));
  });
});
