import { randomBytes } from 'node:crypto';
import zlib from 'node:zlib';
import { setQuota, usageOf, userWithQuota } from './support/books.js';
import { encodeMetadata, registerUser, type TestUser } from './support/client.js';
import { listKeys } from './support/folder.js';
import {
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

/* Bodies with a Content-Encoding. */

const MAX = MIB;

/** Node has it since 22.15. */
const { zstdCompressSync } = zlib as unknown as { zstdCompressSync?: (bytes: Uint8Array) => Buffer };

const CODINGS: [name: string, encode: (bytes: Uint8Array) => Buffer][] = [
  ['gzip', (bytes) => zlib.gzipSync(bytes)],
  ['x-gzip', (bytes) => zlib.gzipSync(bytes)],
  ['GZip', (bytes) => zlib.gzipSync(bytes)],
  ['deflate', (bytes) => zlib.deflateSync(bytes)],
  ['br', (bytes) => zlib.brotliCompressSync(bytes, { params: { [zlib.constants.BROTLI_PARAM_QUALITY]: 4 } })],
  ...(zstdCompressSync ? [['zstd', zstdCompressSync] as [string, typeof zstdCompressSync]] : []),
];

const DISTINCT = CODINGS.filter(([name]) => name === name.toLowerCase() && name !== 'x-gzip');

const SUPPORTED = DISTINCT.map(([name]) => name);

let processes: Processes;
let user: TestUser;

beforeAll(async () => {
  processes = await startProcesses({ MAX_UPLOAD_SIZE: String(MAX), RATE_LIMIT_UPLOADS: '0' }, ['server']);
  user = await registerUser(() => processes.url);
});

afterAll(() => processes?.close());

const coded = (name: string, headers = {}) => ({ 'Content-Encoding': name, ...headers });

async function expectNothingKept(before: { bytes: number; files: number }): Promise<void> {
  expect(await usageOf(user)).toEqual(before);
  expect((await user.get('/api/uploads')).items).toEqual([]);
}

test.each(CODINGS)('%s is undone', async (name, encode) => {
  for (const content of [
    Buffer.alloc(0),
    Buffer.from('words'),
    Buffer.alloc(MIB - 1, 'words '),
    randomBytes(MAX),
  ]) {
    const body = encode(content);
    const expected = { size: content.length, sha256: sha256(content), declaredType: 'image/png' };
    const headers = coded(name, { 'Content-Type': 'image/png' });
    const query = `?sha256=${sha256(content)}`;
    expect(await filesOf(await post(user, body, headers, query))).toMatchObject([expected]);
    expect(await filesOf(await post(user, streamOf(body, 1000), headers))).toMatchObject([expected]);
  }
});

test.each(['identity', 'IDENTITY', 'identity, identity', ''])('%j changes nothing', async (name) => {
  const content = zlib.gzipSync(randomBytes(1000));
  const [file] = await filesOf(await post(user, content, coded(name)));
  expect(file?.sha256).toBe(sha256(content));
});

test('two members of gzip are one file', async () => {
  const body = Buffer.concat([zlib.gzipSync('one, '), zlib.gzipSync('two')]);
  const [file] = await filesOf(await post(user, body, coded('gzip')));
  expect(file?.sha256).toBe(sha256('one, two'));
});

test.each(DISTINCT)('a broken body in %s is refused, and nothing of it is kept', async (name, encode) => {
  const before = await usageOf(user);
  const whole = encode(Buffer.from('some words, and others, and others again'));
  const damaged = Buffer.from(whole);
  damaged.fill(0x55, Math.floor(whole.length / 3), Math.floor(whole.length / 1.5));
  const bodies = [
    Buffer.alloc(0),
    Buffer.from('not coded at all'),
    whole.subarray(0, 1),
    whole.subarray(0, whole.length / 2),
    whole.subarray(0, -1),
    damaged,
    Buffer.concat([whole, Buffer.from('and what is that?')]),
    encode(randomBytes(500_000)).subarray(0, -1),
  ];
  for (const body of bodies) {
    await expectProblem(await post(user, body, coded(name)), 400, 'invalid_request');
    await expectProblem(await post(user, streamOf(body, 7_000), coded(name)), 400, 'invalid_request');
  }
  await expectNothingKept(before);
});

test.each(DISTINCT)('a bomb of %s ends at the limit', async (name, encode) => {
  const before = await usageOf(user);
  const stored = (await listKeys(processes.dataDir)).length;
  const bomb = encode(Buffer.alloc(64 * MIB));
  expect(bomb.length).toBeLessThan(MIB / 4);
  await expectProblem(await post(user, bomb, coded(name)), 413, 'too_large');
  await expectProblem(await post(user, encode(Buffer.alloc(MAX + 1)), coded(name)), 413, 'too_large');
  await expectNothingKept(before);
  expect((await listKeys(processes.dataDir)).length).toBeLessThanOrEqual(stored + 2);
});

test('a body that gives nothing is not read for ever', async () => {
  const before = await usageOf(user);
  const nothing = zlib.gzipSync('');
  const body = Buffer.concat(Array.from({ length: (2 * MAX) / nothing.length }, () => nothing));
  await expectProblem(await post(user, body, coded('gzip')), 413, 'too_large');
  await expectNothingKept(before);
});

test('the quota counts the bytes of the file', async () => {
  const other = await userWithQuota(() => processes.url, user, { maxBytes: 100_000 });
  await setQuota(user, other, { maxBytes: 100_000 });
  const send = (bytes: number) => post(other, zlib.gzipSync(Buffer.alloc(bytes)), coded('gzip'));
  await expectProblem(await send(100_001), 413, 'quota_exceeded');
  expect(await usageOf(other)).toEqual({ bytes: 0, files: 0 });
  await filesOf(await send(100_000));
  expect(await usageOf(other)).toEqual({ bytes: 100_000, files: 1 });
});

const OCTETS = { 'Content-Type': 'application/offset+octet-stream' };
const body = zlib.gzipSync('{}');

test.each<[string, () => Promise<Response>, string]>([
  ['an unknown one', () => post(user, body, coded('lzma')), SUPPORTED.join(', ')],
  ['a name of ours', () => post(user, body, coded('constructor')), SUPPORTED.join(', ')],
  ['two', () => post(user, zlib.gzipSync(body), coded('gzip, gzip')), SUPPORTED.join(', ')],
  [
    'a form',
    () => post(user, zlib.gzipSync(form(filePart('a'))), coded('gzip', { 'Content-Type': FORM_TYPE })),
    'identity',
  ],
  [
    'PATCH',
    async () =>
      user.tus(
        'PATCH',
        await user.create(body.length),
        coded('gzip', { 'Upload-Offset': '0' }),
        body as BodyInit,
      ),
    'identity',
  ],
  [
    'creation with upload',
    () =>
      user.tus(
        'POST',
        '/uploads',
        coded('gzip', {
          ...OCTETS,
          'Upload-Length': String(body.length),
          'Upload-Metadata': encodeMetadata({ filename: 'a' }),
        }),
        body as BodyInit,
      ),
    'identity',
  ],
  [
    'JSON',
    () =>
      user.fetch('/api/keys', {
        method: 'POST',
        headers: coded('gzip', { 'Content-Type': 'application/json' }),
        body: body as BodyInit,
      }),
    'identity',
  ],
])('is refused: %s', async (_what, send, accepted) => {
  const before = await usageOf(user);
  const answer = await send();
  expect(answer.headers.get('Accept-Encoding')).toBe(accepted);
  expect(answer.status).toBe(415);
  const detail = await answer.text();
  for (const name of accepted.split(', ')) expect(detail).toContain(name);
  expect((await usageOf(user)).files - before.files).toBeLessThanOrEqual(1);
});
