import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import sharp from 'sharp';
import { languageOf } from '../core/media/documents/languages.js';
import { countLines } from '../core/media/documents/text.js';
import { registerUser, type TestUser } from './support/client.js';
import { makeXmlSvg } from './support/fixtures.js';
import { type DocumentParser, startDocumentParser } from './support/parser.js';
import { type Processes, startProcesses } from './support/processes.js';

const utf16le = (text: string) => Buffer.from(text, 'utf16le');

/** An SVG of 50 × 50 units around this. */
const svg = (inner: string, { size = 'width="50" height="50"', before = '' } = {}) =>
  Buffer.from(
    `${before}<svg xmlns="http://www.w3.org/2000/svg" xmlns:xi="http://www.w3.org/2001/XInclude" ${size}>${inner}</svg>`,
  );

const GREEN = '<rect width="100%" height="100%" fill="#00ff00"/>';

/** The colour in the middle of an image, with its opacity. */
async function middleOf(image: Uint8Array | undefined): Promise<number[]> {
  const { data, info } = await sharp(image).ensureAlpha().raw().toBuffer({ resolveWithObject: true });
  const at = ((info.height >> 1) * info.width + (info.width >> 1)) * 4;
  return [...data.subarray(at, at + 4)];
}

test.each([
  ['', 'utf-8', 0],
  ['a', 'utf-8', 1],
  ['a\n', 'utf-8', 1],
  ['a\nb', 'utf-8', 2],
  ['a\r\nb\r\n', 'utf-8', 2],
  ['a\rb\r', 'utf-8', 2],
  ['\n\n', 'utf-8', 2],
  ['a\nb\nc', 'utf-16le', 3],
  // Neither of these is a line end, although the bytes 0A are in them.
  ['\u0a0a\u0a41\u410a\n', 'utf-16le', 1],
])('lines of %j in %s', (text, charset, lines) => {
  if (charset === 'utf-8') {
    expect(countLines(Buffer.from(text), charset)).toBe(lines);
    return;
  }
  expect(countLines(utf16le(text), 'utf-16le')).toBe(lines);
  expect(countLines(utf16le(text).swap16(), 'utf-16be')).toBe(lines);
  const wide = Buffer.concat([...text].map((one) => Buffer.from([...utf16le(one), 0, 0])));
  expect(countLines(wide, 'utf-32le')).toBe(lines);
  expect(countLines(wide.swap32(), 'utf-32be')).toBe(lines);
});

test('languages', () => {
  const names = ['a.ts', 'b.PY', 'c.tar.rs', 'Makefile', 'd.unknown', '.json'];
  expect(names.map((name) => languageOf(name).language)).toEqual([
    'TypeScript',
    'Python',
    'Rust',
    undefined,
    undefined,
    undefined,
  ]);
});

describe('the parser of text', () => {
  let parser: DocumentParser;

  beforeAll(async () => {
    parser = await startDocumentParser();
  });

  afterAll(() => parser?.close());

  it.each([
    ['UTF-8', Buffer.from('Grüße\nWelt\n'), { charset: 'utf-8', lines: 2, excerpt: 'Grüße\nWelt' }],
    [
      'UTF-16 with a mark',
      Buffer.concat([Buffer.from([0xff, 0xfe]), utf16le('Grüße\r\nWelt')]),
      { charset: 'utf-16le', lines: 2, excerpt: 'Grüße\nWelt' },
    ],
    ['8 bits', Buffer.from('Grüße\n', 'latin1'), { charset: 'unknown-8bit', lines: 1, excerpt: 'Grüße' }],
    [
      'colours of a terminal',
      Buffer.from('\x1b[31mred\n'),
      { charset: 'utf-8', lines: 1, excerpt: '[31mred' },
    ],
  ])('reads %s', async (_name, content, facts) => {
    expect(await parser.describe('text', content)).toEqual({ facts, thumbnails: [], warnings: [] });
  });

  it('keeps the first lines, and counts all', async () => {
    const { facts } = await parser.describe('text', Buffer.from('line\n'.repeat(1_000_000)));
    expect(facts).toEqual({ charset: 'utf-8', lines: 1_000_000, excerpt: Array(20).fill('line').join('\n') });
    const wide = await parser.describe('text', Buffer.alloc(5_000_000, 'x'));
    expect(wide.facts).toMatchObject({ lines: 1, excerpt: 'x'.repeat(1000) });
  });

  it('counts no lines of a text of which it holds only the beginning', async () => {
    const { facts } = await parser.describe('text', Buffer.from('a\nb\n'), 2 ** 40);
    expect(facts).toEqual({ charset: 'utf-8', excerpt: 'a\nb' });
  });
});

describe('the parser of SVG', () => {
  let parser: DocumentParser;

  beforeAll(async () => {
    parser = await startDocumentParser();
  });

  afterAll(() => parser?.close());

  it('draws a small one large', async () => {
    const { thumbnails, warnings } = await parser.describe(
      'text',
      svg(GREEN, { size: 'viewBox="0 0 40 20"' }),
    );
    expect(warnings).toEqual([]);
    expect(thumbnails.map(({ width, height }) => [width, height])).toEqual([
      [1200, 600],
      [600, 300],
      [200, 100],
    ]);
    const [red = 0, green = 0] = await middleOf(thumbnails[2]?.bytes);
    expect(green).toBeGreaterThan(red + 100);
  });

  it('draws text', async () => {
    const { thumbnails, warnings } = await parser.describe('text', svg('<text y="30">Words</text>'));
    expect([thumbnails.length, warnings]).toEqual([3, []]);
  });

  it('draws one of a million pixels each way at the size of the thumbnails', async () => {
    const huge = svg(GREEN, { size: 'width="1000000" height="1000000"' });
    expect((await parser.describe('text', huge)).thumbnails[0]).toMatchObject({ width: 1200, height: 1200 });
  });

  it('loads nothing from elsewhere', async () => {
    let requests = 0;
    const site = createServer((_req, res) => {
      requests++;
      res.setHeader('Content-Type', 'image/svg+xml').end(svg(GREEN));
    });
    await new Promise<void>((resolve) => site.listen(0, '127.0.0.1', resolve));
    const { port } = site.address() as AddressInfo;
    try {
      for (const address of [
        `http://127.0.0.1:${port}/green.svg`,
        `file://${process.cwd()}/test/fixtures/green.svg`,
      ]) {
        for (const inner of [
          `<image width="50" height="50" href="${address}"/>`,
          `<use href="${address}#green"/>`,
          `<xi:include href="${address}"/>`,
          `<style>@import url("${address}");</style>`,
          `<foreignObject width="50" height="50"><iframe xmlns="http://www.w3.org/1999/xhtml" src="${address}"/></foreignObject>`,
        ]) {
          const { thumbnails } = await parser.describe('text', svg(inner));
          expect((await middleOf(thumbnails[0]?.bytes))[3]).toBe(0);
        }
        const before = `<!DOCTYPE svg [<!ENTITY outside SYSTEM "${address}">]>`;
        const { thumbnails, warnings } = await parser.describe('text', svg('&outside;', { before }));
        expect(thumbnails).toEqual([]);
        expect(warnings).toEqual([{ code: 'unreadable', detail: expect.any(String) }]);
      }
      expect(requests).toBe(0);
    } finally {
      site.close();
    }
  });

  it.each([
    ['broken', svg('<rect')],
    [
      'full of entities',
      svg('&l9;', {
        before: `<!DOCTYPE svg [<!ENTITY l0 "lol">${Array.from(
          { length: 9 },
          (_, index) => `<!ENTITY l${index + 1} "${`&l${index};`.repeat(10)}">`,
        ).join('')}]>`,
      }),
    ],
    ['as flat as a line', svg(GREEN, { size: 'width="1000000" height="1"' })],
  ])('takes one that is %s for text', async (_name, content) => {
    const { facts, thumbnails, warnings } = await parser.describe('text', content);
    expect(facts).toMatchObject({ charset: 'utf-8', lines: 1 });
    expect(thumbnails).toEqual([]);
    expect(warnings).toEqual([{ code: 'unreadable', detail: expect.any(String) }]);
  });

  it('ends with one whose references multiply', async () => {
    const groups = Array.from({ length: 11 }, (_, index) => {
      return `<g id="g${index + 1}">${`<use href="#g${index}"/>`.repeat(10)}</g>`;
    });
    const bomb = svg(`<defs><g id="g0">${GREEN}</g>${groups.join('')}</defs><use href="#g11"/>`);
    const hasty = await startDocumentParser({ timeoutSeconds: 2 });
    await expect(hasty.describe('text', bomb)).rejects.toMatchObject({ code: 'took_too_long' });
    hasty.close();
  });
});

describe('an uploaded text', () => {
  let processes: Processes;
  let user: TestUser;

  beforeAll(async () => {
    processes = await startProcesses();
    user = await registerUser(() => processes.url);
  });

  afterAll(() => processes?.close());

  it('shows its encoding, its lines and its language', async () => {
    const content = Buffer.from('// Grüße\nexport const answer = 42;\n', 'latin1');
    const file = await user.settled(await user.upload(content, { filename: 'answer.ts' }));
    expect(file).toMatchObject({ status: 'completed', detectedType: 'text/plain', warnings: [] });
    expect(file.metadata.text).toEqual({
      charset: 'unknown-8bit',
      lines: 2,
      excerpt: '// Grüße\nexport const answer = 42;',
      language: 'TypeScript',
    });
  });

  it('has thumbnails when it is an SVG, and is served as it was', async () => {
    const file = await user.settled(await user.upload(makeXmlSvg(), { filename: 'a.svg' }));
    expect(file).toMatchObject({ status: 'completed', detectedType: 'application/xml', warnings: [] });
    const answer = await user.fetch(file.links.thumbnails?.large ?? '');
    expect(answer.headers.get('Content-Type')).toBe('image/webp');
    const content = await user.fetch(`/api/files/${file.id}/content`);
    expect(content.headers.get('Content-Disposition')).toMatch(/^attachment/);
  });
});
