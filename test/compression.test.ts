import { readdirSync, readFileSync, statSync } from 'node:fs';
import { brotliDecompressSync, gunzipSync } from 'node:zlib';
import { registerUser, type TestUser } from './support/client.js';
import { openEvents } from './support/event-stream.js';
import { type Processes, startProcesses } from './support/processes.js';
import { exchange, formRequest } from './support/raw-http.js';
import { send } from './support/sign-in.js';
import { storeFiles } from './support/stored-files.js';

/* Content-Encoding of answers. */

let processes: Processes;
/** An admin with many files, one of which is long text whose content can be read. */
let user: TestUser;
let text: Buffer;
let textId: string;

beforeAll(async () => {
  processes = await startProcesses();
  user = await registerUser(() => processes.url);
  text = Buffer.from('A line that compresses well.\n'.repeat(1000));
  textId = await user.upload(text, { filename: 'long.txt', filetype: 'text/plain' });
  await user.settled(textId);
  const files = Array.from({ length: 40 }, (_, n) => ({ filename: `${n}.txt` }));
  await storeFiles(processes.database, user.id, files);
});

afterAll(() => processes?.close());

/** What a browser sends. */
const BROWSER = { 'Accept-Encoding': 'gzip, deflate, br, zstd' };

interface Received {
  status: number;
  headers: Headers;
  /** As it came, still encoded. */
  body: Buffer;
}

/** Asks with exactly these headers, besides the token; fetch() would add Accept-Encoding, and decode. */
async function ask(path: string, headers: Record<string, string> = {}, method = 'GET'): Promise<Received> {
  const own = { Authorization: `Bearer ${user.token}`, ...headers };
  const answer = await exchange(processes.url, formRequest(method, path, own));
  if (!answer) throw new Error(`${method} ${path} was not answered`);
  const { status, body } = answer;
  return { status, headers: answer.headers, body: Buffer.from(body, 'latin1') };
}

const codingOf = ({ headers }: Received) => headers.get('Content-Encoding');
const varies = ({ headers }: Received) => /\baccept-encoding\b/i.test(headers.get('Vary') ?? '');

function decode(answer: Received): Buffer {
  const coding = codingOf(answer);
  if (coding === 'br') return brotliDecompressSync(answer.body);
  if (coding === 'gzip') return gunzipSync(answer.body);
  expect(coding).toBeNull();
  return answer.body;
}

const decodeJson = (answer: Received) => JSON.parse(decode(answer).toString());

/** By RFC 9110, 12.5.3. */
const CHOICES: [accepted: string | undefined, coding: string | null][] = [
  [undefined, null],
  ['', null],
  ['gzip, deflate, br, zstd', 'br'],
  ['gzip', 'gzip'],
  ['GZIP', 'gzip'],
  ['br', 'br'],
  ['gzip;q=0.2', 'gzip'],
  ['br;q=0.5, gzip;q=0.8', 'gzip'],
  ['br;q=0, gzip', 'gzip'],
  ['br;q=0, *', 'gzip'],
  ['*', 'br'],
  ['gzip;q=0', null],
  ['*;q=0', null],
  ['identity;q=0', null],
  ['identity, gzip;q=0.5', null],
  ['deflate, zstd, compress', null],
  ['snappy', null],
  ['gzip;q=high', null],
];

describe('JSON', () => {
  test.each(CHOICES)('to a client that accepts %p comes in the coding %p', async (accepted, coding) => {
    const plain = await ask('/api/files');
    const answer = await ask('/api/files', accepted === undefined ? {} : { 'Accept-Encoding': accepted });
    expect([answer.status, codingOf(answer)]).toEqual([200, coding]);
    expect(answer.headers.get('Content-Type')).toBe('application/json; charset=utf-8');
    expect(answer.headers.get('Content-Length')).toBe(String(answer.body.length));
    expect(varies(answer)).toBe(true);
    expect(decodeJson(answer)).toEqual(decodeJson(plain));
    if (coding) expect(answer.body.length).toBeLessThan(plain.body.length / 3);
  });

  test('that is short comes as it is', async () => {
    for (const path of ['/api/me', `/api/files?q=none`, '/health/live', '/api/stats/types']) {
      const answer = await ask(path, BROWSER);
      expect([path, answer.status, codingOf(answer)]).toEqual([path, 200, null]);
      expect(varies(answer)).toBe(true);
    }
  });

  test('keeps its entity tag in every coding, and 304 has no body and no coding', async () => {
    const accepted = [{}, { 'Accept-Encoding': 'gzip' }, { 'Accept-Encoding': 'br' }];
    const answers = await Promise.all(accepted.map((headers) => ask('/api/files', headers)));
    const tags = answers.map(({ headers }) => headers.get('ETag'));
    expect(tags[0]).toMatch(/^W\/"/);
    expect(new Set(tags).size).toBe(1);
    for (const headers of accepted) {
      const again = await ask('/api/files', { ...headers, 'If-None-Match': tags[0] ?? '' });
      expect([again.status, codingOf(again), again.body.length]).toEqual([304, null, 0]);
      expect(again.headers.get('ETag')).toBe(tags[0]);
      expect(varies(again)).toBe(true);
    }
  });

  test('is announced by HEAD as GET sends it', async () => {
    const answer = await ask('/api/files', BROWSER, 'HEAD');
    expect([answer.status, codingOf(answer), answer.body.length]).toEqual([200, 'br', 0]);
    expect(varies(answer)).toBe(true);
    const plain = await ask('/api/files', {}, 'HEAD');
    expect([plain.status, codingOf(plain), plain.body.length]).toEqual([200, null, 0]);
  });

  test('of the OpenAPI document comes in every coding, again and again', async () => {
    const plain = await ask('/openapi.json');
    for (const coding of ['br', 'gzip', 'br', 'gzip']) {
      const answer = await ask('/openapi.json', { 'Accept-Encoding': coding });
      expect(codingOf(answer)).toBe(coding);
      expect(varies(answer)).toBe(true);
      expect(decode(answer).equals(plain.body)).toBe(true);
      expect(answer.body.length).toBeLessThan(plain.body.length / 5);
    }
    expect([codingOf(plain), varies(plain)]).toEqual([null, true]);
  });

  test('tells nothing by its size: the same answer has another size each time', async () => {
    for (const coding of ['br', 'gzip']) {
      const sizes = new Set<number>();
      for (let count = 0; count < 10; count += 1) {
        const answer = await ask('/api/files', { 'Accept-Encoding': coding });
        sizes.add(answer.body.length);
      }
      expect(sizes.size).toBeGreaterThan(1);
    }
  });

  test('is decoded by fetch(), which accepts gzip', async () => {
    const answer = await user.fetch('/api/files');
    expect(answer.headers.get('Content-Encoding')).toBe('gzip');
    expect((await answer.json()).items).toHaveLength(41);
  });

  test('of a list is compressed together with the headers of CORS', async () => {
    const answer = await ask('/api/files', { ...BROWSER, Origin: 'https://other.example' });
    expect(codingOf(answer)).toBe('br');
    expect(answer.headers.get('Access-Control-Allow-Origin')).toBe('*');
  });
});

describe('these answers are never compressed:', () => {
  test('answers to a POST, which may hold secrets', async () => {
    const created = await send(user, 'POST', '/api/keys', { name: 'a key', scopes: ['read'] });
    expect(created.status).toBe(201);
    expect(created.headers.get('Content-Encoding')).toBeNull();
    const ids = Array.from({ length: 20 }, () => textId);
    const batch = await send(user, 'POST', '/api/files/batch', { ids, action: 'retry' });
    expect(Number(batch.headers.get('Content-Length'))).toBeGreaterThan(1024);
    expect(batch.headers.get('Content-Encoding')).toBeNull();
  });

  test('the content of files, whole and in ranges', async () => {
    const path = `/api/files/${textId}/content`;
    const whole = await ask(path, BROWSER);
    expect([whole.status, codingOf(whole), varies(whole)]).toEqual([200, null, false]);
    expect(whole.body).toEqual(text);
    const part = await ask(path, { ...BROWSER, Range: 'bytes=5-2004' });
    expect([part.status, codingOf(part)]).toEqual([206, null]);
    expect(part.body).toEqual(text.subarray(5, 2005));
  });

  test('live events', async () => {
    const stream = await openEvents(user, '?after=0', BROWSER);
    try {
      expect(stream.answer.headers.get('Content-Encoding')).toBeNull();
      expect(stream.answer.headers.get('Content-Type')).toMatch(/^text\/event-stream/);
      await stream.heard('file.completed', textId);
    } finally {
      stream.close();
    }
  });

  test('the export of the audit log', async () => {
    const answer = await user.fetch('/api/admin/audit/export', { headers: BROWSER });
    expect([answer.status, answer.headers.get('Content-Encoding')]).toEqual([200, null]);
    expect((await answer.text()).split('\n').length).toBeGreaterThan(3);
  });

  test('answers of tus', async () => {
    const answer = await ask(`/uploads/${textId}`, { ...BROWSER, 'Tus-Resumable': '1.0.0' }, 'HEAD');
    expect([answer.status, codingOf(answer), varies(answer)]).toEqual([200, null, false]);
  });
});

describe('the page', () => {
  /** Bytes; smaller files need not have compressed copies. */
  const SMALLEST = 100;
  const ASSETS = readdirSync('dist/web/assets').filter(
    (name) => !/\.(br|gz)$/.test(name) && statSync(`dist/web/assets/${name}`).size >= SMALLEST,
  );
  const FILES: [path: string, file: string][] = [
    ['/', 'index.html'],
    ['/index.html', 'index.html'],
    ['/docs', 'docs.html'],
    ['/redoc', 'redoc.html'],
    ...ASSETS.map((name): [string, string] => [`/assets/${name}`, `assets/${name}`]),
  ];
  const script = `/assets/${ASSETS.find((name) => name.endsWith('.js'))}`;

  test.each(FILES)('%s is the same in every coding', async (path, file) => {
    const original = readFileSync(`dist/web/${file}`);
    const plain = await ask(path);
    expect([plain.status, codingOf(plain), varies(plain)]).toEqual([200, null, true]);
    // toEqual() would look at each byte on its own, for minutes.
    expect(plain.body.equals(original)).toBe(true);
    for (const coding of ['br', 'gzip']) {
      const answer = await ask(path, { 'Accept-Encoding': coding });
      expect([answer.status, codingOf(answer), varies(answer)]).toEqual([200, coding, true]);
      expect(decode(answer).equals(original)).toBe(true);
      expect(answer.body.length).toBeLessThan(original.length);
      for (const name of ['Content-Type', 'Cache-Control', 'Content-Security-Policy', 'Referrer-Policy']) {
        expect([name, answer.headers.get(name)]).toEqual([name, plain.headers.get(name)]);
      }
      expect(answer.headers.get('ETag')).not.toBe(plain.headers.get('ETag'));
    }
  });

  test.each(CHOICES)('to a client that accepts %p comes in the coding %p', async (accepted, coding) => {
    const answer = await ask(script, accepted === undefined ? {} : { 'Accept-Encoding': accepted });
    expect([answer.status, codingOf(answer), varies(answer)]).toEqual([200, coding, true]);
  });

  test('is announced by HEAD as GET sends it, and takes a query', async () => {
    const got = await ask(`${script}?v=1`, BROWSER);
    const headed = await ask(script, BROWSER, 'HEAD');
    expect([codingOf(got), headed.body.length]).toEqual(['br', 0]);
    for (const name of ['Content-Encoding', 'Content-Length', 'Content-Type', 'ETag', 'Vary']) {
      expect([name, headed.headers.get(name)]).toEqual([name, got.headers.get(name)]);
    }
  });

  test('is answered with 304 to a client that has it in this coding', async () => {
    const tag = (await ask(script, BROWSER)).headers.get('ETag') ?? '';
    const again = await ask(script, { ...BROWSER, 'If-None-Match': tag });
    expect([again.status, codingOf(again), again.body.length, varies(again)]).toEqual([304, null, 0, true]);
    expect((await ask(script, { 'If-None-Match': tag })).status).toBe(200);
  });

  test('is sent in ranges of the coded bytes', async () => {
    const whole = await ask(script, BROWSER);
    const part = await ask(script, { ...BROWSER, Range: 'bytes=100-299' });
    expect([part.status, codingOf(part)]).toEqual([206, 'br']);
    expect(part.headers.get('Content-Range')).toBe(`bytes 100-299/${whole.body.length}`);
    expect(part.body).toEqual(whole.body.subarray(100, 300));
  });

  test.each([
    ['a range beyond its end', { Range: 'bytes=99999999-' }],
    ['another version', { 'If-Match': '"another"' }],
  ])('is refused as without a coding for %s', async (_what, headers) => {
    const plain = await ask(script, headers);
    const answer = await ask(script, { ...BROWSER, ...headers });
    expect([answer.status, codingOf(answer), answer.body]).toEqual([plain.status, null, plain.body]);
    expect(answer.headers.get('Content-Type')).toBe('application/problem+json; charset=utf-8');
    expect(JSON.parse(answer.body.toString())).toMatchObject({ code: 'invalid_request' });
  });

  test('has nothing at an address that only looks like one of its files', async () => {
    for (const path of ['/assets/none.js', `${script}/`, '/assets']) {
      const answer = await ask(path, BROWSER);
      expect([path, codingOf(answer)]).toEqual([path, null]);
      expect(answer.status).not.toBe(200);
    }
  });
});
