import sharp from 'sharp';
import { deriveKeys } from '../server/auth/keys.js';
import { signFixedLink, signLink } from '../server/auth/links.js';
import { type FileJson, registerUser, type TestUser } from './support/client.js';
import { eicar, makeJpeg, makePngBomb, makeSlowPng } from './support/fixtures.js';
import { countUnreferenced, listBlobs } from './support/objects.js';
import { runPasses } from './support/passes.js';
import { childrenOf, type Processes, startProcesses } from './support/processes.js';
import { send } from './support/sign-in.js';
import { until } from './support/until.js';

/* Images that are rendered on request. rendering.test.ts tests the pixels. */

let processes: Processes;
let user: TestUser;
let image: FileJson;

beforeAll(async () => {
  processes = await startProcesses({ IMAGE_SIZES: '100,400,200', IMAGE_RENDERERS: '1' }, [
    'server',
    'server-2',
    'worker',
  ]);
  user = await registerUser(() => processes.url);
  image = await newImage();
});

afterAll(() => processes?.close());

let images = 0;

/** An image of 600 × 400 pixels, of bytes that no other file has. */
async function newImage(): Promise<FileJson> {
  const jpeg = Buffer.concat([await makeJpeg({ width: 600, height: 400 }), Buffer.from(`${images++}`)]);
  return user.settled(await user.upload(jpeg, { filename: 'a.jpg' }));
}

const ask = (file: Pick<FileJson, 'id'>, query: string, init: RequestInit = {}, as = user) =>
  as.fetch(`/api/files/${file.id}/image${query}`, init);

const bytesOf = async (answer: Response) => Buffer.from(await answer.arrayBuffer());

/** Width and height in the answer, or its problem. */
async function sizeOf(answer: Response): Promise<unknown> {
  if (answer.status !== 200) return [answer.status, (await answer.json()).code];
  const { width, height } = await sharp(await bytesOf(answer)).metadata();
  return [width, height];
}

const problemOf = async (answer: Response) => [answer.status, (await answer.json()).code];

async function variantsOf(file: Pick<FileJson, 'id'>): Promise<string[]> {
  const { rows } = await processes.database.query(
    'SELECT key FROM variants WHERE file_id = $1 ORDER BY used_at, key',
    [file.id],
  );
  return rows.map(({ key }: { key: string }) => key);
}

/** Images are stored after they were sent. */
async function expectKept(file: Pick<FileJson, 'id'>, count: number): Promise<void> {
  await until(`${count} images to be kept`, async () => (await variantsOf(file)).length === count);
}

describe('an image on request', () => {
  it('comes in the next size that is offered, never enlarged, with all that a client needs to know', async () => {
    const answer = await ask(image, '?w=150');
    expect(Object.fromEntries(answer.headers)).toMatchObject({
      'content-type': 'image/jpeg',
      'cache-control': 'private, max-age=3600',
      'content-disposition': 'inline',
      'accept-ranges': 'bytes',
      'x-content-type-options': 'nosniff',
      'content-security-policy': "default-src 'none'; sandbox",
      etag: expect.stringMatching(/^"[\w-]+"$/),
      vary: expect.stringMatching(/\bAccept(,|$)/),
    });
    expect(Date.parse(answer.headers.get('Last-Modified') ?? '')).toBeGreaterThan(
      Date.parse(image.createdAt) - 1000,
    );
    expect(await sizeOf(answer)).toEqual([200, 133]);
    expect(await sizeOf(await ask(image, '?w=50&dpr=1.5'))).toEqual([100, 67]);
    expect(await sizeOf(await ask(image, '?h=90'))).toEqual([150, 100]);
    expect(await sizeOf(await ask(image, '?w=100&h=100&fit=cover'))).toEqual([100, 100]);
    expect(await sizeOf(await ask(image, '?w=9999'))).toEqual([400, 267]);
    expect(await sizeOf(await ask(image, ''))).toEqual([400, 267]);
  });

  it('is kept: it comes again in the same bytes, in part, or not at all where the client has it', async () => {
    const first = await ask(image, '?w=100&format=webp');
    const [etag, modified] = [first.headers.get('ETag') ?? '', first.headers.get('Last-Modified') ?? ''];
    expect(first.headers.get('Vary') ?? '').not.toMatch(/\bAccept(,|$)/);
    const bytes = await bytesOf(first);
    // 80 pixels of the page, on a finer screen.
    const again = await ask(image, '?w=80&dpr=1.2&format=webp&quality=80', {
      headers: { 'Cache-Control': 'no-cache' },
    });
    expect(again.headers.get('ETag')).toBe(etag);
    expect(await bytesOf(again)).toEqual(bytes);
    const head = await ask(image, '?w=100&format=webp', { method: 'HEAD' });
    expect([head.status, head.headers.get('ETag'), head.headers.get('Content-Length')]).toEqual([
      200,
      etag,
      String(bytes.length),
    ]);
    const status = async (headers: Record<string, string>) => {
      const answer = await ask(image, '?w=100&format=webp', { headers });
      await answer.body?.cancel();
      return answer.status;
    };
    expect(await status({ 'If-None-Match': etag })).toBe(304);
    expect(await status({ 'If-Modified-Since': modified })).toBe(304);
    expect(await status({ 'If-None-Match': '"another"' })).toBe(200);
    expect(await status({ 'If-Match': '"another"' })).toBe(412);
    const part = await ask(image, '?w=100&format=webp', { headers: { Range: 'bytes=10-19' } });
    expect(part.status).toBe(206);
    expect(await bytesOf(part)).toEqual(bytes.subarray(10, 20));
  });

  it('comes in the best format that Accept names', async () => {
    const etags = [];
    for (const [accept, type] of [
      ['image/avif,image/webp,*/*;q=0.8', 'image/avif'],
      ['image/webp,*/*', 'image/webp'],
      ['*/*', 'image/jpeg'],
    ] as const) {
      const answer = await ask(image, '?w=100', { headers: { Accept: accept } });
      expect(answer.headers.get('Content-Type')).toBe(type);
      etags.push(answer.headers.get('ETag'));
      const known = await ask(image, '?w=100', {
        headers: { Accept: accept, 'If-None-Match': etags.at(-1) ?? '' },
      });
      expect([known.status, known.headers.get('Vary')]).toEqual([304, answer.headers.get('Vary')]);
    }
    expect(new Set(etags).size).toBe(3);
  });

  it('is rendered on a HEAD, too', async () => {
    const other = await newImage();
    const head = await ask(other, '?w=100', { method: 'HEAD' });
    expect(head.status).toBe(200);
    const get = await ask(other, '?w=100');
    expect(get.headers.get('ETag')).toBe(head.headers.get('ETag'));
    expect(String((await bytesOf(get)).length)).toBe(head.headers.get('Content-Length'));
  });

  it('is nothing that the file lists', async () => {
    const { derived, links } = await user.get(`/api/files/${image.id}`);
    await until('a kept image', async () => (await variantsOf(image)).length > 0);
    expect(derived).toEqual([]);
    expect(Object.keys(links.thumbnails).sort()).toEqual(['large', 'medium', 'small']);
  });

  it('is rendered once, however many ask for it, of any server', async () => {
    const other = await newImage();
    const servers = [user, user.at(() => processes.urlOf('server-2'))];
    const answers = await Promise.all(
      Array.from({ length: 20 }, (_, n) =>
        ask(other, '?w=400&h=400&fit=cover&format=png', {}, servers[n % 2]),
      ),
    );
    expect(answers.map(({ status }) => status)).toEqual(answers.map(() => 200));
    expect(new Set(answers.map(({ headers }) => headers.get('ETag'))).size).toBe(1);
    const [first, ...more] = await Promise.all(answers.map(bytesOf));
    for (const bytes of more) expect(bytes.equals(first ?? Buffer.alloc(0))).toBe(true);
    await expectKept(other, 1);
    expect(await variantsOf(other)).toEqual(['400x400-cover-png-0']);
    // Each server has rendered it once at most: what the slower one made has no reference.
    expect(await countUnreferenced(processes)).toBeLessThanOrEqual(1);
  });
});

describe('an image is refused', () => {
  it.each([
    '?w=0',
    '?w=1.5',
    '?w=',
    '?width=100',
    '?fit=fill',
    '?format=gif',
    '?dpr=9',
    '?quality=0',
    '?w=1&w=2',
  ])('with %s', async (query) => {
    expect(await problemOf(await ask(image, query))).toEqual([400, 'invalid_request']);
  });

  it('of what is no image, cannot be decoded, is infected, or is in the trash', async () => {
    const [text, bomb, infected, trashed] = await Promise.all(
      [Buffer.from('text'), makePngBomb(), Buffer.concat([await makeJpeg({ width: 9, height: 9 }), eicar()])]
        .map(async (bytes) => user.settled(await user.upload(bytes, { filename: 'a' })))
        .concat(newImage()),
    );
    expect(await problemOf(await ask(text as FileJson, '?w=100'))).toEqual([415, 'unsupported_media_type']);
    expect(await problemOf(await ask(bomb as FileJson, '?w=100'))).toEqual([422, 'too_many_pixels']);
    expect(await problemOf(await ask(infected as FileJson, '?w=100'))).toEqual([403, 'infected']);
    expect((await ask(trashed as FileJson, '?w=100')).status).toBe(200);
    await user.fetch(`/api/files/${trashed?.id}`, { method: 'DELETE' });
    expect(await problemOf(await ask(trashed as FileJson, '?w=100'))).toEqual([404, 'not_found']);
    const link = (file: FileJson | undefined) =>
      send(user, 'POST', `/api/files/${file?.id}/image/link`, { w: 9 });
    expect(await problemOf(await link(text))).toEqual([415, 'unsupported_media_type']);
    expect(await problemOf(await link(infected))).toEqual([403, 'infected']);
    for (const file of [text, bomb, infected]) expect(await variantsOf(file as FileJson)).toEqual([]);
    expect([text?.links.image, infected?.links.image]).toEqual([null, null]);
  });

  it('before the scan, and to other users', async () => {
    const other = await registerUser(() => processes.url);
    expect(await problemOf(await ask(image, '?w=100', {}, other))).toEqual([404, 'not_found']);
    await processes.stop('worker');
    const id = await user.upload(await makeJpeg({ width: 9, height: 9 }), { filename: 'a.jpg' });
    expect(await problemOf(await ask({ id }, '?w=100'))).toEqual([409, 'not_ready']);
    await processes.start('worker');
    await user.settled(id);
    expect(await sizeOf(await ask({ id }, '?w=100'))).toEqual([9, 9]);
  });
});

describe('a signed address', () => {
  const open = (path: string, init?: RequestInit) => fetch(`${processes.url}${path}`, init);
  const sign = async (body: object) =>
    (await send(user, 'POST', `/api/files/${image.id}/image/link`, body)).json();

  it('of a file takes sizes that are offered', async () => {
    expect(await sizeOf(await open(`${image.links.image}&w=123`))).toEqual([200, 133]);
    expect(await sizeOf(await open(`${image.links.image}&w=90&h=90&fit=cover&format=webp`))).toEqual([
      100, 100,
    ]);
    const [, token] = image.links.image?.split('?') ?? [];
    const other = await newImage();
    expect(await problemOf(await open(`/api/files/${other.id}/image?${token}&w=100`))).toEqual([
      401,
      'unauthenticated',
    ]);
    expect(await problemOf(await open(`/api/files/${image.id}/content?${token}`))).toEqual([
      401,
      'unauthenticated',
    ]);
  });

  it('can fix the size, which is then exact', async () => {
    const { url, expiresAt } = await sign({ w: 123, h: 77, fit: 'cover', quality: 71, format: 'jpeg' });
    expect(Date.parse(expiresAt)).toBeGreaterThan(Date.now());
    expect(await sizeOf(await open(url))).toEqual([123, 77]);
    await until('it to be kept', async () => (await variantsOf(image)).includes('123x77-cover-jpeg-71'));
    // The order of the parameters does not matter.
    const [path, query = ''] = url.split('?');
    expect((await open(`${path}?${query.split('&').reverse().join('&')}`)).status).toBe(200);
    expect(await sizeOf(await open((await sign({ w: 60, dpr: 1.5 })).url))).toEqual([90, 60]);
    expect(await sizeOf(await open((await sign({ w: 5000 })).url))).toEqual([400, 267]);
    const { url: any } = await sign({ w: 33 });
    const webp = await open(any, { headers: { Accept: 'image/webp' } });
    expect(webp.headers.get('Content-Type')).toBe('image/webp');
  });

  it('opens nothing else than it was signed for', async () => {
    const { url } = await sign({ w: 123, fit: 'inside' });
    for (const changed of [
      url.replace('w=123', 'w=124'),
      `${url}&h=5`,
      `${url}&w=123`,
      url.replace('&fit=inside', ''),
      url.replace('/image?', '/content?'),
      url.replace(/(token=\d+\.)./, '$1'),
    ]) {
      expect(changed).not.toBe(url);
      const answer = await open(changed);
      expect([changed, answer.status]).toEqual([changed, 401]);
      await answer.body?.cancel();
    }
    const { link: key } = deriveKeys('only-for-tests-only-for-tests-only');
    const path = `/api/files/${image.id}/image`;
    const late = Date.now() - 31 * 60_000;
    expect((await open(signFixedLink(path, { w: '50' }, key).url)).status).toBe(200);
    expect((await open(signFixedLink(path, { w: '50' }, key, late).url)).status).toBe(401);
    expect((await open(`${signLink(path, key, late)}&w=50`)).status).toBe(401);
  });

  it.each([
    { w: 0 },
    { w: '100' },
    { width: 100 },
    { fit: 'fill' },
    { dpr: 0.5 },
    { quality: 101 },
    { format: 'svg' },
  ])('is not made for %o', async (body) => {
    expect(await problemOf(await send(user, 'POST', `/api/files/${image.id}/image/link`, body))).toEqual([
      400,
      'invalid_request',
    ]);
  });

  it('is made of one’s own files only', async () => {
    const other = await registerUser(() => processes.url);
    const answer = await send(other, 'POST', `/api/files/${image.id}/image/link`, { w: 100 });
    expect(await problemOf(answer)).toEqual([404, 'not_found']);
  });
});

describe('kept images', () => {
  const { link: key } = deriveKeys('only-for-tests-only-for-tests-only');
  const exact = (file: FileJson, w: number) =>
    fetch(
      `${processes.url}${signFixedLink(`/api/files/${file.id}/image`, { w: `${w}`, format: 'jpeg' }, key).url}`,
    );

  /** Whether each blob has as many references as there are rows that refer to it, once those without are gone. */
  async function areCounted(): Promise<boolean> {
    const blobs = await listBlobs(processes);
    expect(blobs.filter(({ refs, used }) => refs !== used)).toEqual([]);
    return blobs.every(({ refs }) => refs > 0);
  }

  it('of a file are forty at most; those that nobody uses go first', async () => {
    const file = await newImage();
    const sizes = Array.from({ length: 40 }, (_, n) => n + 10);
    for (const w of sizes) expect((await exact(file, w)).status).toBe(200);
    await expectKept(file, 40);
    // As if they had been made long ago, and one was used since.
    await processes.database.query(
      `UPDATE variants SET used_at = now() - interval '2 days' WHERE file_id = $1`,
      [file.id],
    );
    expect((await exact(file, 10)).status).toBe(200);
    for (const w of [51, 52, 53]) expect((await exact(file, w)).status).toBe(200);
    await until('the newest to be kept', async () => {
      const kept = await variantsOf(file);
      return [10, 51, 52, 53].every((w) => kept.includes(`${w}x400-inside-jpeg-80`));
    });
    expect(await variantsOf(file)).toHaveLength(40);
    await processes.database.query(`UPDATE blobs SET created_at = now() - interval '2 hours'`);
    await runPasses(processes, areCounted);
  });

  it('go when nobody has asked for them in a month, and can be had again', async () => {
    const file = await newImage();
    const before = (await exact(file, 20)).headers.get('ETag');
    expect((await exact(file, 21)).status).toBe(200);
    await expectKept(file, 2);
    await processes.database.query(
      `UPDATE variants SET used_at = now() - interval '31 days' WHERE file_id = $1 AND key LIKE '20x%'`,
      [file.id],
    );
    await runPasses(processes, async () => (await variantsOf(file)).length === 1);
    expect(await variantsOf(file)).toEqual(['21x400-inside-jpeg-80']);
    await runPasses(processes, areCounted);
    const after = await exact(file, 20);
    expect(after.status).toBe(200);
    // The bytes are the same again.
    expect(after.headers.get('ETag')).toBe(before);
    await expectKept(file, 2);
  });

  it('go with their file', async () => {
    const file = await newImage();
    for (const w of [20, 21]) expect((await exact(file, w)).status).toBe(200);
    await expectKept(file, 2);
    const deleted = await user.fetch(`/api/files/${file.id}?permanent=1`, { method: 'DELETE' });
    expect(deleted.status).toBe(204);
    expect(await variantsOf(file)).toEqual([]);
    expect((await exact(file, 20)).status).toBe(404);
    await runPasses(processes, areCounted);
  });
});

describe('a server that is busy', () => {
  const stop = (signal: 'SIGSTOP' | 'SIGCONT') => {
    for (const pid of childrenOf(processes.pid('server'))) globalThis.process.kill(pid, signal);
  };

  afterEach(() => stop('SIGCONT'));

  it('refuses further images, and does not render those whose clients have gone', async () => {
    const slow = await user.settled(await user.upload(await makeSlowPng(4000), { filename: 'slow.png' }));
    const { link: key } = deriveKeys('only-for-tests-only-for-tests-only');
    const gone = new AbortController();
    const exact = (w: number) => {
      const { url } = signFixedLink(`/api/files/${slow.id}/image`, { w: `${w}`, format: 'jpeg' }, key);
      return fetch(`${processes.url}${url}`, { signal: gone.signal });
    };
    // Its parser has been started by other tests, or is by this one.
    await ask(image, '?w=100');
    stop('SIGSTOP');
    // One is being rendered and sixteen wait.
    const asked = Array.from({ length: 18 }, (_, n) => exact(n + 10));
    const refused = await Promise.any(asked);
    expect(refused.headers.get('Retry-After')).toMatch(/^\d+$/);
    expect(await problemOf(refused)).toEqual([503, 'unavailable']);
    // A kept image is served all the same.
    expect((await ask(image, '?w=100')).status).toBe(200);
    gone.abort();
    await Promise.allSettled(asked);
    stop('SIGCONT');
    expect(await until('room', async () => (await ask(slow, '?w=100')).status === 200)).toBe(true);
    // The one that had begun, the last one, and any that began before the server noticed.
    expect((await variantsOf(slow)).length).toBeLessThan(10);
  });

  it('counts what it renders as processing, and what it has kept only as a download', async () => {
    const file = await newImage();
    await processes.stop('server-2');
    await processes.start('server-2', { RATE_LIMIT_PROCESSING: '2/1h' });
    const other = user.at(() => processes.urlOf('server-2'));
    const statuses = [];
    for (const query of ['?w=100', '?w=200', '?w=400', '?w=100', '?w=200']) {
      statuses.push((await ask(file, query, {}, other)).status);
    }
    expect(statuses).toEqual([200, 200, 429, 200, 200]);
  });
});
