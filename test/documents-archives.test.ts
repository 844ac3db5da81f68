import { gzipSync } from 'node:zlib';
import { sourceOf } from '../core/media/documents/byte-source.js';
import { makeArchive, makeTar } from './support/archives.js';
import { registerUser, type TestUser } from './support/client.js';
import { makeZip } from './support/fixtures.js';
import { type DocumentParser, startDocumentParser } from './support/parser.js';
import { type Processes, startProcesses } from './support/processes.js';

const MIB = 1024 ** 2;
const LONG = `${'folder/'.repeat(30)}name.txt`;
const FILES = [
  { name: 'readme.md', content: Buffer.from('# Hello\n') },
  { name: 'grüße/世界.txt', content: Buffer.alloc(1000) },
  { name: LONG, content: Buffer.from('deep') },
];
const NAMES = FILES.map(({ name }) => name);
const WHOLE = { entries: 3, totalSize: 1012, encrypted: false, complete: true, names: NAMES };
const CUT = { code: 'damaged', detail: expect.stringMatching(/cut off/) };

describe('the parser of archives', () => {
  let parser: DocumentParser;

  beforeAll(async () => {
    parser = await startDocumentParser();
  });

  afterAll(() => parser?.close());

  it.each([
    ['ZIP', 'zip', 'zip', makeArchive(FILES)],
    ['ZIP with a comment', 'zip', 'zip', makeArchive(FILES, { comment: 'PK\x05\x06 is the end' })],
    ['ZIP behind a program', 'zip', 'zip', Buffer.concat([Buffer.alloc(5000), makeArchive(FILES)])],
    ['TAR with pax headers', 'tar', 'tar', makeTar(FILES)],
    ['TAR of GNU', 'tar', 'tar', makeTar(FILES, 'gnu')],
    ['TAR in GZIP', 'gzip', 'tar+gzip', gzipSync(makeTar(FILES))],
  ] as const)('lists a %s', async (_name, reader, format, content) => {
    expect(await parser.describe(reader, content)).toEqual({
      facts: { ...WHOLE, format },
      thumbnails: [],
      warnings: [],
    });
  });

  it('lists a GZIP with the name in its header, and without', async () => {
    const plain = gzipSync(Buffer.alloc(5000));
    const { facts } = await parser.describe('gzip', plain);
    expect(facts).toMatchObject({ format: 'gzip', entries: 1, totalSize: 5000, complete: true, names: [] });
    const header = Buffer.from(plain.subarray(0, 10));
    header.writeUInt8(8, 3);
    const named = Buffer.concat([header, Buffer.from('data.bin\0'), plain.subarray(10)]);
    expect((await parser.describe('gzip', named)).facts).toMatchObject({
      totalSize: 5000,
      names: ['data.bin'],
    });
  });

  it('says that entries of a ZIP are encrypted', async () => {
    const locked = makeArchive([
      { name: 'a', content: Buffer.from('x') },
      { name: 'b', content: Buffer.from('y'), isEncrypted: true },
    ]);
    expect((await parser.describe('zip', locked)).facts).toMatchObject({ encrypted: true, entries: 2 });
  });

  it('does not expand a bomb', async () => {
    const zip = makeArchive([{ name: '0', content: gzipSync(Buffer.alloc(MIB)), size: 0xfffffffe }]);
    expect((await parser.describe('zip', zip)).facts).toMatchObject({ entries: 1, totalSize: 0xfffffffe });
    const gzip = gzipSync(Buffer.alloc(300 * MIB));
    const { facts, warnings } = await parser.describe('gzip', gzip);
    expect(warnings).toEqual([]);
    expect(facts).toMatchObject({ entries: 1, complete: false });
    expect(facts.totalSize).toBeLessThan(257 * MIB);
    const tar = gzipSync(
      makeTar([FILES[0], { name: 'zeros', content: Buffer.alloc(300 * MIB) }].flatMap((one) => one ?? [])),
    );
    expect(await parser.describe('gzip', tar)).toMatchObject({
      facts: { format: 'tar+gzip', entries: 2, complete: false, names: ['readme.md', 'zeros'] },
      warnings: [],
    });
  });

  it('counts the entries of a huge listing, and keeps the first names', async () => {
    const content = Buffer.alloc(0);
    const many = Array.from({ length: 70_000 }, (_, index) => ({
      name: `${index}`,
      content,
      isStored: true as const,
    }));
    // The number in the end record is modulo 65,536, as old programs write it.
    const zip = makeArchive(many);
    for (const [reader, archive] of [
      ['zip', zip],
      ['tar', makeTar(many)],
    ] as const) {
      const { facts, warnings } = await parser.describe(reader, archive);
      expect(warnings).toEqual([]);
      expect(facts).toMatchObject({ entries: 70_000, complete: true });
      expect(facts.names).toEqual(many.slice(0, 100).map(({ name }) => name));
    }
  });

  it('keeps no control characters of names, and only their beginning', async () => {
    const odd = makeArchive([{ name: `a\x1b[31m\r\n${'b'.repeat(1000)}`, content: Buffer.alloc(0) }]);
    const { facts } = await parser.describe('zip', odd);
    expect(facts.names).toEqual([`a[31m${'b'.repeat(250)}`]);
  });

  it('lists the directory of a ZIP by its end', async () => {
    const big = makeArchive([{ name: 'big', content: Buffer.alloc(200_000), isStored: true }, ...FILES]);
    const ends = Buffer.concat([big.subarray(0, 64 * 1024), big.subarray(-5000)]);
    expect((await parser.describe('zip', ends, big.length)).facts).toMatchObject({
      entries: 4,
      complete: true,
    });
    const less = Buffer.concat([big.subarray(0, 64 * 1024), big.subarray(-400)]);
    expect(await parser.describe('zip', less, big.length)).toMatchObject({
      facts: { entries: 4, complete: false },
      warnings: [],
    });
  });

  it('lists a TAR of which it holds only a part', async () => {
    const tar = makeTar(FILES);
    expect(await parser.describe('tar', tar.subarray(0, 1600), tar.length)).toMatchObject({
      facts: { entries: 2, complete: false, names: NAMES.slice(0, 2) },
      warnings: [],
    });
  });

  it.each([
    ['TAR', 'tar', makeTar(FILES).subarray(0, 2000), { entries: 2, complete: false }, CUT],
    [
      'GZIP',
      'gzip',
      gzipSync(Buffer.alloc(100_000, 'ab')).subarray(0, 60),
      { entries: 1, complete: false },
      CUT,
    ],
    [
      'TAR in GZIP',
      'gzip',
      gzipSync(makeTar(FILES)).subarray(0, -20),
      { format: 'tar+gzip', complete: false },
      CUT,
    ],
  ] as const)(
    'lists a %s that is cut off as far as it goes',
    async (_name, reader, content, facts, warning) => {
      expect(await parser.describe(reader, content)).toMatchObject({ facts, warnings: [warning] });
    },
  );

  it('lists a TAR with noise in it up to the noise', async () => {
    const tar = Buffer.concat([makeTar(FILES.slice(0, 1)).subarray(0, 1024), Buffer.alloc(512, 'noise')]);
    expect(await parser.describe('tar', tar)).toMatchObject({
      facts: { entries: 1, complete: false },
      warnings: [{ code: 'damaged' }],
    });
  });

  it('refuses a ZIP without its directory', async () => {
    const content = makeArchive(FILES).subarray(0, 100);
    await expect(parser.describe('zip', content)).rejects.toMatchObject({ code: 'unreadable' });
  });

  it('lists an archive without an entry', async () => {
    expect((await parser.describe('zip', makeArchive([]))).facts).toMatchObject({
      entries: 0,
      complete: true,
    });
  });
});

describe('a source of bytes', () => {
  const source = () => sourceOf([Buffer.from('abc'), Buffer.alloc(0), Buffer.from('defgh')]);

  it('gives as many bytes as are asked for, across parts', async () => {
    const bytes = source();
    expect(String(await bytes.read(2))).toBe('ab');
    expect(String(await bytes.read(3))).toBe('cde');
    expect(await bytes.skip(1)).toBe(1);
    expect(String(await bytes.read(9))).toBe('gh');
    expect(await bytes.skip(1)).toBe(0);
  });
});

describe('an uploaded archive', () => {
  let processes: Processes;
  let user: TestUser;

  beforeAll(async () => {
    processes = await startProcesses();
    user = await registerUser(() => processes.url);
  });

  afterAll(() => processes?.close());

  it.each([
    ['ZIP', makeArchive(FILES), 'a.zip', 'application/zip', { ...WHOLE, format: 'zip' }],
    [
      'TAR in GZIP',
      gzipSync(makeTar(FILES)),
      'a.tar.gz',
      'application/gzip',
      { ...WHOLE, format: 'tar+gzip' },
    ],
    ['TAR', makeTar(FILES), 'a.tar', 'application/x-tar', { ...WHOLE, format: 'tar' }],
  ])('shows the listing of a %s', async (_name, content, filename, detectedType, archive) => {
    const file = await user.settled(await user.upload(content, { filename }));
    expect(file).toMatchObject({ status: 'completed', detectedType, warnings: [], metadata: { archive } });
  });

  it('is read at its ends only when it is large', async () => {
    const content = makeArchive([{ name: 'big', content: Buffer.alloc(40 * MIB), isStored: true }, ...FILES]);
    const file = await user.settled(await user.upload(content, { filename: 'big.zip' }));
    expect(file.metadata.archive).toMatchObject({
      entries: 4,
      totalSize: 1012 + 40 * MIB,
      names: ['big', ...NAMES],
    });
  });

  it('completes with a warning when it is broken', async () => {
    const file = await user.settled(await user.upload(makeZip().subarray(0, 60), { filename: 'cut.zip' }));
    expect(file).toMatchObject({
      status: 'completed',
      warnings: [{ step: 'document', code: 'unreadable', detail: expect.stringMatching(/directory/) }],
    });
  });
});
