import { randomBytes } from 'node:crypto';
import { brotliCompressSync, deflateRawSync, deflateSync, gzipSync } from 'node:zlib';
import sharp from 'sharp';
import { isAllowed } from '../core/media/allowed.js';
import { detectType } from '../core/media/detect.js';
import { createSample } from '../core/media/sample.js';
import { makeArchive } from './support/archives.js';
import {
  makeAvif,
  makeGif,
  makeHeic,
  makeHtml,
  makeJpeg,
  makePdf,
  makePng,
  makeSvg,
  makeTiff,
  makeWebp,
  makeXmlSvg,
} from './support/fixtures.js';

/*
 * The detection of types, from both sides: text is never taken for another type, whatever letters it begins
 * with and whatever its encoding; and other types are recognised.
 */

/** The type that the worker finds, with the bytes in chunks of an odd size. */
async function detect(content: Uint8Array) {
  const sample = createSample();
  for (let at = 0; at < content.length; at += 9973) sample.push(content.subarray(at, at + 9973));
  return detectType({ bytes: sample.bytes(), size: sample.size() });
}

const mimeOf = async (content: Uint8Array) => (await detect(content))?.mime ?? null;
const latin1 = (text: string) => Buffer.from(text, 'latin1');
const hex = (text: string) => Buffer.from(text.replaceAll(' ', ''), 'hex');
const utf16le = (text: string) => Buffer.from(text, 'utf16le');
const utf16be = (text: string) => utf16le(text).swap16();
const utf32 = (text: string, isLittle: boolean) =>
  Buffer.concat(
    [...text].map((character) => {
      const bytes = Buffer.alloc(4);
      if (isLittle) bytes.writeUInt32LE(character.codePointAt(0) ?? 0);
      else bytes.writeUInt32BE(character.codePointAt(0) ?? 0);
      return bytes;
    }),
  );

/** Encodes a text with a table of all one- and two-byte sequences that the decoder knows. */
function encode(charset: string, text: string): Buffer {
  const decoder = new TextDecoder(charset, { fatal: true });
  const bytesOf = new Map<string, number[]>();
  const note = (...bytes: number[]) => {
    try {
      const character = decoder.decode(new Uint8Array(bytes));
      if ([...character].length === 1 && !bytesOf.has(character)) bytesOf.set(character, bytes);
    } catch {
      // The decoder knows no character for these bytes.
    }
  };
  for (let byte = 0; byte < 256; byte++) note(byte);
  for (let lead = 0x81; lead < 0xff; lead++) for (let trail = 0x30; trail < 0xff; trail++) note(lead, trail);
  return Buffer.from(
    [...text].flatMap((character) => {
      const bytes = bytesOf.get(character);
      if (!bytes) throw new Error(`no ${character} in ${charset}`);
      return bytes;
    }),
  );
}

const RUSSIAN = 'являться на работу: Москва, улица Тверская, дом 5\r\nвторая строка\r\n';
const GERMAN = 'Jürgen;Köln;7,00\r\nGroße Straße, Übergrößenträger\r\n';
const JAPANESE = '本日の会議は三時から始まります。\r\n場所：東京都千代田区、資料あり\r\n';
const CHINESE = '码头的看守人说：今天没有船。\r\n明天也许会有，我们等着瞧！\r\n';
const KOREAN = '오늘 회의는 세 시에 시작합니다.\r\n장소: 서울 강남구\r\n';
const GREEK = 'Καλημέρα κόσμε, τι κάνεις;\r\nΔεύτερη γραμμή\r\n';
const ARABIC = 'مرحبا بالعالم، كيف حالك؟\r\nالسطر الثاني\r\n';
const HEBREW = 'שלום עולם, מה שלומך?\r\nשורה שנייה\r\n';
const THAI = 'สวัสดีชาวโลก\r\nบรรทัดที่สอง\r\n';

const EXCEL = 'Name;City;Amount\r\nAnna;Lyon;12,50\r\nJürgen;Köln;7,00\r\n';

const LANGUAGES = { RUSSIAN, GERMAN, JAPANESE, CHINESE, KOREAN, GREEK, ARABIC, HEBREW, THAI, EXCEL };

describe('text is text', () => {
  test.each<[string, Buffer, charset: string]>([
    [
      'UTF-16 LE with a mark, as Excel writes "Unicode Text"',
      Buffer.concat([hex('fffe'), utf16le(EXCEL)]),
      'utf-16le',
    ],
    ['UTF-16 BE with a mark', Buffer.concat([hex('feff'), utf16be(EXCEL)]), 'utf-16be'],
    ['UTF-8 with a mark', Buffer.concat([hex('efbbbf'), Buffer.from(EXCEL)]), 'utf-8'],
    ['UTF-32 LE with a mark', Buffer.concat([hex('fffe0000'), utf32(EXCEL, true)]), 'utf-32le'],
    ['UTF-32 BE with a mark', Buffer.concat([hex('0000feff'), utf32(EXCEL, false)]), 'utf-32be'],
    ['a mark and nothing else', hex('fffe'), 'utf-16le'],
    [
      'a mark and a letter that an MPEG header might hold',
      Buffer.concat([hex('fffe'), utf16le('Ab')]),
      'utf-16le',
    ],
    [
      'UTF-16 with a mark, cut in the middle of a character',
      Buffer.concat([hex('fffe'), utf16le(EXCEL).subarray(0, 21)]),
      'utf-16le',
    ],
    ['UTF-8', Buffer.from('Hello, naïve 世界\n'), 'utf-8'],
    ['Latin-1', encode('windows-1252', GERMAN), 'unknown-8bit'],
    ['Windows-1251, which begins as an MPEG frame', encode('windows-1251', RUSSIAN), 'unknown-8bit'],
    ['KOI8-R', encode('koi8-r', RUSSIAN), 'unknown-8bit'],
    ['Windows-1253', encode('windows-1253', GREEK), 'unknown-8bit'],
    ['Windows-1255', encode('windows-1255', HEBREW), 'unknown-8bit'],
    ['Windows-1256', encode('windows-1256', ARABIC), 'unknown-8bit'],
    ['Windows-874', encode('windows-874', THAI), 'unknown-8bit'],
    ['Macintosh', encode('macintosh', GERMAN), 'unknown-8bit'],
    ['Shift_JIS', encode('shift_jis', JAPANESE), 'unknown-8bit'],
    ['EUC-JP', encode('euc-jp', JAPANESE), 'unknown-8bit'],
    ['EUC-KR', encode('euc-kr', KOREAN), 'unknown-8bit'],
    ['GB18030', encode('gb18030', CHINESE), 'unknown-8bit'],
    ['GB18030 that begins as an EPS file', encode('gb18030', '判忧之后，一切都好。'), 'unknown-8bit'],
    ['Big5', encode('big5', '今天沒有船，明天也許會有。'), 'unknown-8bit'],
    ['ISO-2022-JP', latin1('\x1b$B%F%9%H\x1b(B test\r\n'), 'utf-8'],
    ['ISO-2022-KR', latin1('\x1b$)C\x0e0!3*4Y\x0f test\r\n'), 'utf-8'],
    ['a listing with colours', latin1('\x1b[31mred\x1b[0m\n'), 'utf-8'],
    ['a text of DOS', latin1('C:\\>dir\r\n\x1a'), 'utf-8'],
    ['one letter', latin1('a'), 'utf-8'],
  ])('%s', async (_name, content, charset) => {
    expect(await detect(content)).toEqual({ mime: 'text/plain', ext: 'txt', charset });
  });

  describe.each(Object.entries(LANGUAGES))('without a mark: %s', (_name, text) => {
    test.each<[string, (text: string) => Buffer]>([
      ['utf-16le', utf16le],
      ['utf-16be', utf16be],
      ['utf-32le', (text) => utf32(text, true)],
      ['utf-32be', (text) => utf32(text, false)],
    ])('%s', async (charset, encodeIt) => {
      expect(await detect(encodeIt(text))).toEqual({ mime: 'text/plain', ext: 'txt', charset });
    });
  });

  test('that is longer than the part that is read, which ends in the middle of a character', async () => {
    for (const content of [Buffer.from(`${'世'.repeat(50_000)}`), Buffer.from(`a${'世'.repeat(50_000)}`)]) {
      expect(await detect(content)).toMatchObject({ mime: 'text/plain', charset: 'utf-8' });
    }
    expect(await detect(utf16be(CHINESE.repeat(3000)))).toMatchObject({ charset: 'utf-16be' });
  });

  /** Sentences that begin like more than twenty formats, or hold their signature at its place. */
  test.each([
    'BMW service list 2024\nrow 1: oil\nrow 2: tyres\n',
    'BM <script>alert(1)</script>',
    'MZ is the code of Mozambique',
    'PKW, gebraucht',
    'ID3 tags are described here, at length',
    'IDs of users',
    'FORM 27B/6',
    'FLVs and other videos',
    'FLIF is free',
    'GIF or JPEG?',
    'GIF89a is the newer one of the two versions of this format',
    'MP+ and MPCK are Musepack',
    'MPCK is Musepack',
    'FWS is the Fish and Wildlife Service; CWS is another thing',
    'CWS',
    '8BPS is what Photoshop writes',
    'icns of apples',
    'OggS begins a page of Ogg, of which there may be many in one file',
    'MThd begins a MIDI file',
    'wOFF and then OTTO',
    'wOFFOTTO',
    'DSD sound',
    'LZIP is a compressor',
    'fLaC is free',
    'wvpk',
    'MAC addresses of the machines in the lab',
    'SQLite format 3 is what a database begins with',
    'Cr24',
    'MSCF',
    'ISc(',
    '!BDN',
    'PAR1: parts of the machine',
    'PARE the apples',
    'ttcf',
    'regfile',
    '$FL2 and $FL3',
    '#!AMR',
    'IMPMed',
    'a -lh5- archive',
    'ITSForum',
    '.RMF',
    'DRACO, the ship',
    'AC1015 is AutoCAD',
    '070707 was a Saturday',
    'BLENDER, mixer and toaster',
    '!<arch> is old',
    'gimp xcf files',
    'solid ground under our feet\nis what we need\n',
    'RIFF is a container; WEBP',
    'RIFFxxxxWEBPVP8 is how it begins',
    'RIFFxxxxAVI LIST',
    'xxxxftypmif1 and so on',
    'xxxxmoov and xxxxmdat and xxxxfree and xxxxwide',
    'BZh91AY&SY',
    'Rar! archives',
    'FUJIFILMCCD-RAW 0201',
    'Extended Module: a song',
    'Creative Voice File',
    'Kaydara FBX Binary',
    '%!TEX root = main.tex\n\\section{One}\n',
    '%! a comment of Matlab',
    '`\xeatre, ou ne pas \xeatre`',
    'G'.padEnd(188, ' the mail ').concat('Grand'.padEnd(188, '.'), 'Grand'),
    `${'a'.repeat(36)}acsp`,
    `${'a'.repeat(44)}SCRM`,
    `${'a'.repeat(60)}BOOKMOBI`,
    `${'a'.repeat(128)}DICM`,
    `${'a'.repeat(257)}ustar 00`,
    `${'a'.repeat(7)}**ACE****`,
    '<svg xmlns="http://www.w3.org/2000/svg"/>',
    '{"name": "value"}',
    '#!/bin/sh\necho hello\n',
    'II*, a poem',
    'The header of a PDF is %PDF-1.7, and it stands\n%PDF-1.7\nlike this.',
    'q.\xc7q etc.',
  ])('%j', async (text) => {
    expect(await mimeOf(latin1(text))).toBe('text/plain');
    // One odd byte after the beginning does not make the text a picture.
    expect(await mimeOf(latin1(`${text}${'x'.repeat(300)}\0`))).toBeNull();
  });

  test('that holds a NUL near letters that begin a picture, a sound or a film is none of these', async () => {
    for (const text of ['BM', 'BMW list', 'ID3 tags', 'G\0oo']) {
      expect(await mimeOf(latin1(`${text}\0 and more of that${' '.repeat(400)}`))).toBeNull();
    }
  });

  test('HTML and SVG are text, with the name of their first element', async () => {
    expect(await detect(makeSvg())).toMatchObject({ mime: 'text/plain', root: 'svg' });
    expect(await detect(makeHtml())).toMatchObject({ mime: 'text/plain', root: 'html' });
    const long =
      '<?xml version="1.0"?>\n<!-- one --><!-- two -->\n<!DOCTYPE svg [ <!ENTITY a "b"> ]>\n<s:svg xmlns:s="x">';
    expect(await detect(Buffer.from(long))).toMatchObject({ mime: 'application/xml', root: 'svg' });
    expect(await detect(Buffer.from('<'.repeat(60_000)))).toEqual({
      mime: 'text/plain',
      ext: 'txt',
      charset: 'utf-8',
    });
    expect(await detect(Buffer.from('<!-- -->'.repeat(8_000)))).not.toHaveProperty('root');
  });
});

describe('formats that are written in text are told', () => {
  test.each<[string, Buffer]>([
    ['application/xml', makeXmlSvg()],
    ['application/xml', Buffer.concat([hex('efbbbf'), makeXmlSvg()])],
    ['application/xml', Buffer.concat([hex('fffe'), utf16le('<?xml version="1.0" encoding="UTF-16"?><a/>')])],
    ['application/xml', utf16be('<?xml version="1.0" encoding="UTF-16"?><a/>')],
    ['application/xml', encode('windows-1252', '<?xml version="1.0" encoding="ISO-8859-1"?><a>é</a>')],
    ['application/rtf', Buffer.from('{\\rtf1\\ansi{\\fonttbl\\f0 Arial;}Hello\\par}')],
    [
      'application/rtf',
      Buffer.concat([Buffer.from('{\\rtf1{\\pict\\bin4 '), hex('00010203'), Buffer.from('}}')]),
    ],
    ['application/postscript', Buffer.from('%!PS-Adobe-3.0\n%%Title: a\n')],
    [
      'application/postscript',
      Buffer.concat([Buffer.from('%!PS-Adobe-3.0\n'.padEnd(400, ' ')), hex('00ff00ff')]),
    ],
    ['application/eps', Buffer.from('%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n')],
    ['text/vcard', Buffer.from('BEGIN:VCARD\r\nVERSION:3.0\r\nFN:Ada\r\nEND:VCARD\r\n')],
    ['text/calendar', Buffer.from('BEGIN:VCALENDAR\r\nVERSION:2.0\r\nEND:VCALENDAR\r\n')],
    ['text/vtt', Buffer.from('WEBVTT\n\n00:01.000 --> 00:02.000\nHello\n')],
    ['text/vtt', Buffer.concat([hex('efbbbf'), Buffer.from('WEBVTT')])],
    ['application/x-ms-regedit', Buffer.from('REGEDIT4\r\n\r\n[HKEY_CURRENT_USER]\r\n')],
    [
      'application/x-ms-regedit',
      Buffer.concat([hex('fffe'), utf16le('Windows Registry Editor Version 5.00\r\n\r\n')]),
    ],
    ['application/pgp-encrypted', Buffer.from('-----BEGIN PGP MESSAGE-----\n\nhQEMA\n')],
    ['model/stl', Buffer.from('solid cube\n  facet normal 0 0 1\n    outer loop\n')],
    ['application/pdf', makePdf()],
  ])('%s %#', async (mime, content) => {
    expect(await mimeOf(content)).toBe(mime);
  });
});

describe('a PDF is told wherever its header stands within the first 1,024 bytes', () => {
  const binary = Buffer.concat([
    Buffer.from('%PDF-1.4\n%'),
    hex('e2e3cfd3'),
    Buffer.from('\n1 0 obj<</Type/Catalog>>endobj\n'),
    hex('0001'),
  ]);
  test.each<[string, Buffer]>([
    ['at the start', binary],
    ['behind a line break', Buffer.concat([Buffer.from('\r\n'), binary])],
    ['behind blanks, all of it text', Buffer.concat([Buffer.from('\n \t\n'), makePdf()])],
    ['behind a byte order mark', Buffer.concat([hex('efbbbf'), makePdf()])],
    ['behind the header of a MacBinary file', Buffer.concat([Buffer.alloc(128), binary])],
    [
      'behind commands for a printer',
      Buffer.concat([latin1('\x1b%-12345X@PJL ENTER LANGUAGE=PDF\r\n'), makePdf()]),
    ],
    [
      'behind headers of HTTP',
      Buffer.concat([Buffer.from('Content-Type: application/pdf\r\n\r\n'), makePdf()]),
    ],
    ['at the last place', Buffer.concat([Buffer.alloc(1016), binary])],
  ])('%s', async (_name, content) => {
    expect(await mimeOf(content)).toBe('application/pdf');
  });

  test('and not behind them', async () => {
    expect(await mimeOf(Buffer.concat([Buffer.alloc(1024), binary]))).not.toBe('application/pdf');
    const jpeg = await makeJpeg({ width: 20, height: 20 });
    const comment = Buffer.concat([hex('fffe 000b'), Buffer.from('%PDF-1.4\n')]);
    expect(await mimeOf(Buffer.concat([jpeg.subarray(0, 2), comment, jpeg.subarray(2)]))).toBe('image/jpeg');
  });
});

/** A box of ISO/IEC 14496-12. */
function box(type: string, ...parts: (Buffer | string)[]): Buffer {
  const body = Buffer.concat(parts.map((part) => (typeof part === 'string' ? latin1(part) : part)));
  const head = Buffer.alloc(8);
  head.writeUInt32BE(body.length + 8);
  head.write(type, 4, 'latin1');
  return Buffer.concat([head, body]);
}
const brands = (major: string, ...compatible: string[]) =>
  Buffer.concat([box('ftyp', major, '\0\0\0\0', ...compatible), box('meta', Buffer.alloc(60))]);
const movie = (major: string, ...kinds: string[]) =>
  Buffer.concat([
    box('ftyp', major, '\0\0\x02\0', 'isomiso2mp41'),
    box('free', ''),
    box(
      'moov',
      box('mvhd', Buffer.alloc(100)),
      ...kinds.map((kind) =>
        box('trak', box('mdia', box('hdlr', '\0\0\0\0\0\0\0\0', kind, Buffer.alloc(13)))),
      ),
    ),
    box('mdat', randomBytes(100)),
  ]);

describe('the compatible brands of ISO media files count', () => {
  test.each<[string, Buffer]>([
    ['image/avif', brands('avif', 'avif', 'mif1', 'miaf')],
    ['image/avif', brands('mif1', 'mif1', 'avif', 'miaf')],
    ['image/avif', brands('msf1', 'msf1', 'avis', 'miaf')],
    ['image/avif', brands('miaf', 'mif1', 'miaf', 'avif')],
    ['image/avif', brands('isom', 'mif1', 'avif')],
    ['image/heic', brands('mif1', 'mif1', 'heic')],
    ['image/heic', brands('heic', 'mif1', 'heic')],
    ['image/heic', brands('MiHB', 'mif1', 'MiHB', 'heix')],
    ['image/heic-sequence', brands('msf1', 'msf1', 'hevc')],
    ['image/heif', brands('mif1', 'mif1')],
    ['image/heif-sequence', brands('msf1', 'msf1', 'iso8')],
    ['video/mp4', movie('isom', 'vide', 'soun')],
    ['video/mp4', movie('mp42', 'soun', 'vide')],
    ['audio/mp4', movie('iso5', 'soun')],
    ['audio/x-m4a', movie('M4A ', 'soun')],
    ['video/quicktime', movie('qt  ', 'vide')],
    ['video/3gpp', movie('3gp4', 'vide')],
    ['image/x-canon-cr3', brands('crx ', 'crx ', 'isom')],
  ])('%s %#', async (mime, content) => {
    expect(await mimeOf(content)).toBe(mime);
  });
});

/** An element of EBML, with a length of eight bytes; without content: of unknown length. */
function element(id: string, ...parts: Buffer[]): Buffer {
  const length = Buffer.alloc(8);
  length.writeBigUInt64BE(BigInt(Buffer.concat(parts).length) | (1n << 56n));
  return Buffer.concat([hex(id), length, ...parts]);
}
function recording(docType: string, kinds: number[], isLive = false): Buffer {
  const tracks = element(
    '1654ae6b',
    ...kinds.map((kind) => element('ae', element('d7', hex('01')), element('83', Buffer.from([kind])))),
  );
  const content = Buffer.concat([element('1549a966', element('4d80', Buffer.from('test'))), tracks]);
  const segment = isLive
    ? Buffer.concat([hex('18538067 01ffffffffffffff'), content])
    : element('18538067', content);
  return Buffer.concat([
    element('1a45dfa3', element('4286', hex('01')), element('4282', Buffer.from(docType))),
    segment,
  ]);
}

describe('Matroska and WebM are sound if all their tracks are', () => {
  test.each<[string, Buffer]>([
    ['video/webm', recording('webm', [1, 2])],
    ['audio/webm', recording('webm', [2])],
    ['audio/webm', recording('webm', [2], true)],
    ['video/webm', recording('webm', [1], true)],
    ['video/webm', recording('webm', [])],
    ['video/matroska', recording('matroska', [1, 2, 17])],
    ['audio/matroska', recording('matroska', [2, 2])],
  ])('%s %#', async (mime, content) => {
    expect(await mimeOf(content)).toBe(mime);
  });
});

describe('archives are read as far as needed', () => {
  const picture = { name: 'word/media/image1.png', content: randomBytes(200_000) };
  const types = (type: string) => ({
    name: '[Content_Types].xml',
    content: Buffer.from(
      `<?xml version="1.0"?><Types><Override PartName="/word/document.xml" ContentType="${type}.main+xml"/></Types>`,
    ),
  });
  const WORD = 'application/vnd.openxmlformats-officedocument.wordprocessingml';
  const document = { name: 'word/document.xml', content: Buffer.from('<w:document/>') };
  const far = Array.from({ length: 20 }, (_, i) => ({
    name: `word/media/${i}.bin`,
    content: randomBytes(100_000),
  }));
  const many = Array.from({ length: 20_000 }, (_, i) => ({
    name: `assets/a-long-name-of-some-asset-${i}.txt`,
    content: Buffer.alloc(0),
  }));

  test.each<[string, string, Buffer]>([
    [
      'a document with its types first',
      `${WORD}.document`,
      makeArchive([types(`${WORD}.document`), document]),
    ],
    [
      'one with its picture first',
      `${WORD}.document`,
      makeArchive([picture, document, types(`${WORD}.document`)]),
    ],
    ['a template', `${WORD}.template`, makeArchive([picture, types(`${WORD}.template`), document])],
    [
      'one with macros',
      'application/vnd.ms-word.document.macroenabled.12',
      makeArchive([picture, document, types('application/vnd.ms-word.document.macroEnabled')]),
    ],
    [
      'one whose types stand where nothing is kept',
      `${WORD}.document`,
      makeArchive([...far.slice(0, 5), types(`${WORD}.document`), document, ...far]),
    ],
    [
      'the same with macros',
      'application/vnd.ms-word.document.macroenabled.12',
      makeArchive([
        ...far.slice(0, 5),
        types('application/vnd.ms-word.document.macroEnabled'),
        { name: 'word/vbaProject.bin', content: randomBytes(50) },
        ...far,
      ]),
    ],
    [
      'a table',
      'application/vnd.openxmlformats-officedocument.spreadsheetml.sheet',
      makeArchive([
        { ...picture, name: 'xl/media/image1.png' },
        { ...document, name: 'xl/workbook.xml' },
        types('application/vnd.openxmlformats-officedocument.spreadsheetml.sheet'),
      ]),
    ],
    [
      'a book',
      'application/epub+zip',
      makeArchive([
        { name: 'mimetype', content: Buffer.from('application/epub+zip'), isStored: true },
        document,
      ]),
    ],
    [
      'a book whose type comes last',
      'application/epub+zip',
      makeArchive([picture, { name: 'mimetype', content: Buffer.from('application/epub+zip\n') }]),
    ],
    [
      'an OpenDocument text',
      'application/vnd.oasis.opendocument.text',
      makeArchive([
        picture,
        { name: 'mimetype', content: Buffer.from('application/vnd.oasis.opendocument.text') },
      ]),
    ],
    [
      'an app',
      'application/vnd.android.package-archive',
      makeArchive([
        { name: 'META-INF/MANIFEST.MF', content: Buffer.from('a') },
        picture,
        { name: 'classes.dex', content: randomBytes(9) },
      ]),
    ],
    [
      'a Java archive',
      'application/java-archive',
      makeArchive([picture, { name: 'META-INF/MANIFEST.MF', content: Buffer.from('a') }]),
    ],
    [
      'a Java archive whose directory is longer than what is kept',
      'application/java-archive',
      makeArchive([...many, { name: 'META-INF/MANIFEST.MF', content: Buffer.from('a') }]),
    ],
    [
      'with a comment at its end',
      `${WORD}.document`,
      makeArchive([picture, document, types(`${WORD}.document`)], { comment: 'PK and words' }),
    ],
    [
      'pictures',
      'application/zip',
      makeArchive([picture, { name: 'notes.txt', content: Buffer.from('word') }]),
    ],
    ['pictures in a folder named word', 'application/zip', makeArchive([picture, document])],
    [
      'types that are too large when they are unpacked',
      `${WORD}.document`,
      makeArchive([{ name: '[Content_Types].xml', content: Buffer.alloc(5_000_000) }, document]),
    ],
    [
      'cut off',
      'application/zip',
      makeArchive([picture, document, types(`${WORD}.document`)]).subarray(0, 150_000),
    ],
    ['an empty one', 'application/zip', makeArchive([])],
    [
      'one that names itself oddly',
      'application/zip',
      makeArchive([{ name: 'mimetype', content: Buffer.from('constructor') }]),
    ],
  ])('%s: %s', async (_name, mime, content) => {
    expect(await mimeOf(content)).toBe(mime);
  });
});

/** A frame of MPEG-1 layer 3 with 128 kbit/s and 44.1 kHz has 417 bytes. */
const mp3 = (frames: number) =>
  Buffer.concat(Array.from({ length: frames }, () => Buffer.concat([hex('fffb9064'), Buffer.alloc(413)])));
const aac = Buffer.concat(
  Array.from({ length: 5 }, () => Buffer.concat([hex('fff15080020000'), Buffer.alloc(9, 0x11)])),
);
const mp1 = Buffer.concat(
  Array.from({ length: 5 }, () => Buffer.concat([hex('fffe4000'), Buffer.alloc(132, 0x11)])),
);
const id3 = (size: number) =>
  Buffer.concat([latin1('ID3\x04\0\0\0\0'), Buffer.from([size >> 7, size & 0x7f]), Buffer.alloc(size)]);
const bitmap = Buffer.concat([
  latin1('BM'),
  hex('3a000000 00000000 36000000 28000000 01000000 01000000 0100 1800'),
  Buffer.alloc(28),
]);
const tar = Buffer.alloc(1024);
tar.write('a.txt');
tar.write('0000644\0', 100);
tar.write('ustar\0', 257);

describe('binary formats are told', () => {
  const filled = (start: Buffer, length = 300) => Buffer.concat([start, Buffer.alloc(length)]);
  const SIZE = { width: 40, height: 30 };
  test.each<[string, () => Promise<Buffer> | Buffer]>([
    ['image/jpeg', () => makeJpeg(SIZE)],
    ['image/png', () => makePng(SIZE)],
    ['image/gif', () => makeGif(SIZE)],
    [
      'image/gif',
      () =>
        sharp({ create: { ...SIZE, channels: 4, background: '#0000' } })
          .gif()
          .toBuffer(),
    ],
    ['image/webp', () => makeWebp(SIZE)],
    ['image/tiff', () => makeTiff(SIZE)],
    ['image/tiff', () => filled(hex('49492a00 00ffff00'))],
    ['image/tiff', () => filled(hex('4d4d002a 00ffff00'))],
    ['image/avif', () => makeAvif(SIZE)],
    ['image/heic', () => makeHeic()],
    ['image/bmp', () => bitmap],
    ['image/x-icon', () => filled(hex('00000100 0100 10100000 0100 2000 68040000 16000000'))],
    ['image/vnd.adobe.photoshop', () => filled(latin1('8BPS\0\x01\0\0\0\0\0\0\0\x03'))],
    ['image/jxl', () => filled(hex('0000000c 4a584c20 0d0a870a'))],
    ['image/jp2', () => filled(hex('0000000c 6a502020 0d0a870a 00000014 66747970 6a703220'))],
    ['image/icns', () => filled(hex('69636e73 00001000'))],
    ['audio/mpeg', () => mp3(6)],
    ['audio/mpeg', () => mp3(1)],
    ['audio/mpeg', () => filled(mp3(1), 1000)],
    ['audio/mpeg', () => Buffer.concat([id3(300), mp3(3)])],
    ['audio/mpeg', () => Buffer.concat([id3(300), Buffer.alloc(1000), mp3(3)])],
    ['audio/mpeg', () => mp1],
    ['audio/aac', () => aac],
    ['audio/flac', () => filled(hex('664c6143 00000022 10001000'))],
    ['audio/flac', () => Buffer.concat([id3(50), filled(hex('664c6143 00000022 10001000'))])],
    ['audio/wav', () => filled(latin1('RIFF\x24\x10\0\0WAVEfmt \x10\0\0\0\x01\0'))],
    ['video/vnd.avi', () => filled(latin1('RIFF\x24\x10\0\0AVI LIST'))],
    ['audio/aiff', () => filled(latin1('FORM\0\0\x10\0AIFF'))],
    [
      'audio/ogg',
      () => filled(Buffer.concat([latin1('OggS\0\x02'), Buffer.alloc(22), latin1('\x01vorbis')])),
    ],
    [
      'audio/ogg; codecs=opus',
      () => filled(Buffer.concat([latin1('OggS\0\x02'), Buffer.alloc(22), latin1('OpusHead')])),
    ],
    [
      'video/ogg',
      () => filled(Buffer.concat([latin1('OggS\0\x02'), Buffer.alloc(22), latin1('\x80theora')])),
    ],
    ['audio/midi', () => filled(latin1('MThd\0\0\0\x06\0\x01'))],
    ['audio/amr', () => filled(latin1('#!AMR\n\x04'))],
    ['audio/ape', () => filled(latin1('MAC \x96\x0f'))],
    ['video/x-flv', () => filled(latin1('FLV\x01\x05\0\0\0\x09'))],
    ['video/mpeg', () => filled(hex('000001b3 01e01800'))],
    ['video/mp2t', () => Buffer.concat(Array.from({ length: 6 }, () => filled(hex('47400010'), 184)))],
    [
      'video/mp2t',
      () => Buffer.concat(Array.from({ length: 6 }, () => filled(hex('00000000 47400010'), 184))),
    ],
    ['application/gzip', () => gzipSync('some text, compressed')],
    [
      'application/x-bzip2',
      () => Buffer.concat([latin1('BZh91AY&SY'), hex('1234567800112233'), randomBytes(300)]),
    ],
    ['application/x-xz', () => filled(hex('fd377a585a00 0004'))],
    ['application/zstd', () => Buffer.concat([hex('28b52ffd 2400'), randomBytes(300)])],
    ['application/x-7z-compressed', () => filled(hex('377abcaf271c 0004'))],
    ['application/x-rar-compressed', () => filled(latin1('Rar!\x1a\x07\x01\0'))],
    ['application/x-tar', () => tar],
    [
      'application/x-deb',
      () =>
        Buffer.concat([
          latin1(
            '!<arch>\ndebian-binary   1410122664  0     0     100644  4         `\n2.0\ncontrol.tar.gz/ 1410122664  0     0     100644  1000      `\n',
          ),
          gzipSync(randomBytes(900)),
        ]),
    ],
    ['application/x-elf', () => filled(hex('7f454c46 02010100'))],
    ['application/x-msdownload', () => filled(latin1('MZ\x90\0\x03\0\0\0\x04'))],
    ['application/x-mach-binary', () => filled(hex('cffaedfe 07000001'))],
    ['application/java-vm', () => filled(hex('cafebabe 00000034'))],
    ['application/wasm', () => filled(hex('0061736d 01000000'))],
    ['application/x-sqlite3', () => filled(latin1('SQLite format 3\0\x10\0'))],
    ['application/x-cfb', () => filled(hex('d0cf11e0a1b11ae1'))],
    ['application/vnd.apache.parquet', () => filled(latin1('PAR1\x15\x04\x15'))],
    ['application/vnd.ms-cab-compressed', () => filled(latin1('MSCF\0\0\0\0'))],
    ['application/x-shockwave-flash', () => filled(latin1('CWS\x0a\x10\0\0\0'))],
    ['font/woff2', () => filled(latin1('wOF2\0\x01\0\0'))],
    ['font/woff', () => filled(latin1('wOFFOTTO\0\0'))],
    ['font/otf', () => filled(latin1('OTTO\0\x0b'))],
    ['font/ttf', () => filled(hex('0001000000 0f'))],
    [
      'application/vnd.sketchup.skp',
      () => filled(Buffer.concat([hex('fffeff0e'), utf16le('SketchUp Model')])),
    ],
    ['application/pdf', () => Buffer.concat([Buffer.from('%PDF-1.7\n'.padEnd(400, ' ')), hex('00')])],
  ])('%s %#', async (mime, make) => {
    expect(await mimeOf(await make())).toBe(mime);
  });

  test('noise, compressed bytes and pieces of a file are not taken for a format', async () => {
    for (let i = 0; i < 200; i++) {
      // Noise may happen to begin with a signature of two bytes, so it begins with fixed bytes here.
      expect(await mimeOf(Buffer.concat([hex('00fe'), randomBytes(100 + i * 50)]))).toBeNull();
    }
    const words = Buffer.from(GERMAN.repeat(50));
    for (const content of [
      brotliCompressSync(words),
      deflateRawSync(words),
      deflateSync(words, { level: 6 }),
    ]) {
      expect([null, 'text/plain']).toContain(await mimeOf(content));
    }
    expect(await mimeOf(hex('00010203ff'))).toBeNull();
    expect(await mimeOf(Buffer.alloc(2000))).toBeNull();
    expect(await mimeOf(Buffer.concat([hex('fffb'), Buffer.alloc(500, 1)]))).toBeNull();
  });
});

describe('an upload token for certain types', () => {
  const words = Buffer.from('words');
  const text = { mime: 'text/plain', ext: 'txt', charset: 'utf-8' };
  test.each<[boolean, string, string[], string | null, Parameters<typeof isAllowed>[2]]>([
    [true, 'a JPEG', ['image/*'], null, { mime: 'image/jpeg', ext: 'jpg' }],
    [true, 'a JPEG by its other name', ['image/jpg'], 'image/jpg', { mime: 'image/jpeg', ext: 'jpg' }],
    [true, 'a PDF', ['application/pdf'], null, { mime: 'application/pdf', ext: 'pdf' }],
    [true, 'a table', ['text/csv'], 'text/csv; charset=utf-16', { ...text, charset: 'utf-16le' }],
    [true, 'a playlist that is named', ['audio/x-mpegurl'], 'audio/x-mpegurl', text],
    [true, 'an SVG', ['image/*'], 'image/svg+xml', { ...text, root: 'svg' }],
    [true, 'an SVG that says nothing', ['image/svg+xml'], null, { ...text, root: 'svg' }],
    [
      true,
      'an SVG with a declaration',
      ['image/*'],
      'image/svg+xml',
      { mime: 'application/xml', ext: 'xml', root: 'svg' },
    ],
    [
      true,
      'a feed',
      ['application/rss+xml'],
      'application/rss+xml',
      { mime: 'application/xml', ext: 'xml', root: 'rss' },
    ],
    [
      true,
      'a document in an archive',
      ['application/epub+zip'],
      'application/epub+zip',
      { mime: 'application/zip', ext: 'zip' },
    ],
    [true, 'a format that nobody knows', ['application/x-own'], 'application/x-own', null],
    [false, 'text as a picture that nobody knows', ['image/*'], 'image/x-own', text],
    [false, 'text as sound', ['audio/*'], 'audio/x-mpegurl', text],
    [false, 'text as an SVG', ['image/*'], 'image/svg+xml', text],
    [false, 'HTML as an SVG', ['image/*'], 'image/svg+xml', { ...text, root: 'html' }],
    [
      false,
      'XML as an SVG',
      ['image/svg+xml'],
      'image/svg+xml',
      { mime: 'application/xml', ext: 'xml', root: 'html' },
    ],
    [
      false,
      'XML that says nothing',
      ['image/svg+xml'],
      null,
      { mime: 'application/xml', ext: 'xml', root: 'a' },
    ],
    [false, 'text as XML', ['application/xml'], 'application/xml', text],
    [false, 'what says it is nonsense', ['image/*'], 'constructor', null],
    [false, 'noise as an SVG', ['image/*'], 'image/svg+xml', null],
    [false, 'noise as a JPEG', ['image/*'], 'image/jpeg', null],
    [false, 'noise as a recording', ['audio/*'], 'audio/webm', null],
    [false, 'a film as sound', ['audio/*'], 'audio/webm', { mime: 'video/webm', ext: 'webm' }],
    [false, 'an archive as a picture', ['image/*'], 'image/png', { mime: 'application/zip', ext: 'zip' }],
  ])('takes: %s, %s', (isTaken, _name, allowed, declared, detected) => {
    expect(isAllowed(declared, allowed, detected)).toBe(isTaken);
  });

  test('for pictures takes no text, and for PDF takes one with a late header', async () => {
    expect(isAllowed('image/bmp', ['image/*'], await detect(latin1('BM <script>')))).toBe(false);
    expect(isAllowed(null, ['audio/*'], await detect(Buffer.concat([hex('fffe'), utf16le(EXCEL)])))).toBe(
      false,
    );
    expect(isAllowed('image/svg+xml', ['image/*'], await detect(makeSvg()))).toBe(true);
    expect(isAllowed('image/svg+xml', ['image/*'], await detect(words))).toBe(false);
    expect(
      isAllowed(null, ['application/pdf'], await detect(Buffer.concat([latin1('\r\n'), makePdf()]))),
    ).toBe(true);
  });
});
