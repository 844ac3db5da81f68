import { createHash, randomBytes } from 'node:crypto';
import { existsSync, readdirSync, readlinkSync } from 'node:fs';
import { rename } from 'node:fs/promises';
import { join } from 'node:path';
import { deriveKeys } from '../server/auth/keys.js';
import { signLink } from '../server/auth/links.js';
import { type FileJson, registerUser, type TestUser } from './support/client.js';
import { makeHtml, makeJpeg, makePdf, makeSvg, makeXmlSvg, makeZip } from './support/fixtures.js';
import { filePathOf } from './support/objects.js';
import { type Processes, startProcesses } from './support/processes.js';
import { until } from './support/until.js';

const BYTES = randomBytes(1000);
const ETAG = `"${createHash('sha256').update(BYTES).digest('hex')}"`;
const DIGEST = `sha-256=:${createHash('sha256').update(BYTES).digest('base64')}:`;
const MIB = 1024 ** 2;

let processes: Processes;
let user: TestUser;
/** 1000 random bytes. */
let file: FileJson;
/** An image with thumbnails. */
let image: FileJson;

beforeAll(async () => {
  processes = await startProcesses();
  user = await registerUser(() => processes.url);
  const jpeg = await makeJpeg({ width: 300, height: 200 });
  image = await user.settled(await user.upload(jpeg, { filename: 'a.jpg', filetype: 'image/jpeg' }));
  file = await user.settled(await user.upload(BYTES, { filename: 'data.bin' }));
});

afterAll(() => processes?.close());

const content = (headers: Record<string, string> = {}, method = 'GET') =>
  user.fetch(`/api/files/${file.id}/content`, { method, headers });

const bytesOf = async (answer: Response) => Buffer.from(await answer.arrayBuffer());

/** Where a file's bytes are. */
const objectOf = (id: string) => filePathOf(processes, id);

describe('the whole content', () => {
  it('comes with all that a client needs to know', async () => {
    const answer = await content();
    expect(answer.status).toBe(200);
    expect(await bytesOf(answer)).toEqual(BYTES);
    expect(Object.fromEntries(answer.headers)).toMatchObject({
      'content-length': '1000',
      'content-type': 'application/octet-stream',
      'accept-ranges': 'bytes',
      etag: ETAG,
      'last-modified': new Date(file.createdAt).toUTCString(),
      'x-content-type-options': 'nosniff',
      'content-security-policy': "default-src 'none'; sandbox",
      'cache-control': 'private, no-cache',
    });
  });

  it('is described, but not sent, in answer to HEAD', async () => {
    const [head, get] = [await content({}, 'HEAD'), await content()];
    await get.body?.cancel();
    expect(head.status).toBe(200);
    expect(await head.text()).toBe('');
    for (const name of ['content-length', 'content-type', 'etag', 'last-modified', 'content-disposition']) {
      expect(head.headers.get(name)).toBe(get.headers.get(name));
    }
  });
});

describe('Repr-Digest (RFC 9530)', () => {
  it.each([
    ['the whole', 'GET', {}, 200],
    ['the whole in answer to HEAD', 'HEAD', {}, 200],
    ['a part', 'GET', { Range: 'bytes=0-9' }, 206],
  ])('tells the SHA-256 of the whole with %s', async (_name, method, headers, status) => {
    const answer = await content(headers, method);
    await answer.arrayBuffer();
    expect(answer.status).toBe(status);
    expect(answer.headers.get('Repr-Digest')).toBe(DIGEST);
  });

  it.each([
    ['sha-256=10', DIGEST],
    ['sha-512=3, sha-256=1', DIGEST],
    ['sha-256=0', null],
    ['sha-512=3, sha-256=0;x=1', null],
    ['sha-512=3', DIGEST],
    ['not a (dictionary', DIGEST],
  ])('follows Want-Repr-Digest: %s', async (wanted, digest) => {
    const answer = await content({ 'Want-Repr-Digest': wanted });
    await answer.arrayBuffer();
    expect(answer.headers.get('Repr-Digest')).toBe(digest);
  });

  it('is absent where the content is absent, and where no SHA-256 is known', async () => {
    const unchanged = await content({ 'If-None-Match': ETAG });
    expect([unchanged.status, unchanged.headers.get('Repr-Digest')]).toEqual([304, null]);
    const beyond = await content({ Range: 'bytes=5000-' });
    await beyond.arrayBuffer();
    expect([beyond.status, beyond.headers.get('Repr-Digest')]).toEqual([416, null]);
    const thumbnail = await user.fetch(`/api/files/${image.id}/thumbnails/small`);
    await thumbnail.arrayBuffer();
    expect([thumbnail.status, thumbnail.headers.get('Repr-Digest')]).toEqual([200, null]);
  });
});

describe('ranges (RFC 9110, section 14)', () => {
  it.each([
    ['the first bytes', 'bytes=0-99', 0, 99],
    ['one byte', 'bytes=500-500', 500, 500],
    ['the last byte', 'bytes=999-999', 999, 999],
    ['an open end', 'bytes=900-', 900, 999],
    ['all', 'bytes=0-', 0, 999],
    ['an end behind the last byte', 'bytes=990-100000', 990, 999],
    ['the last bytes', 'bytes=-100', 900, 999],
    ['more last bytes than there are', 'bytes=-5000', 0, 999],
    ['a unit in capitals', 'Bytes=0-1', 0, 1],
  ])('sends %s', async (_what, range, start, end) => {
    const answer = await content({ Range: range });
    expect(answer.status).toBe(206);
    expect(answer.headers.get('Content-Range')).toBe(`bytes ${start}-${end}/1000`);
    expect(answer.headers.get('Content-Length')).toBe(String(end - start + 1));
    expect(answer.headers.get('ETag')).toBe(ETAG);
    expect(await bytesOf(answer)).toEqual(BYTES.subarray(start, end + 1));
  });

  it.each(['bytes=1000-', 'bytes=1000-1001', 'bytes=99999999999999999999-', 'bytes=-0'])(
    'refuses %s, which is behind the end',
    async (range) => {
      const answer = await content({ Range: range });
      expect(answer.status).toBe(416);
      expect(answer.headers.get('Content-Range')).toBe('bytes */1000');
      expect(answer.headers.get('Content-Type')).toBe('application/problem+json; charset=utf-8');
      expect(answer.headers.get('Content-Disposition')).toBeNull();
      expect(answer.headers.get('ETag')).toBeNull();
      expect(await answer.json()).toMatchObject({
        status: 416,
        code: 'range_not_satisfiable',
      });
    },
  );

  it.each([
    'bytes',
    'bytes=',
    'bytes=-',
    'bytes=a-b',
    'bytes=5-2',
    'bytes=1.5-2',
    'bytes=0x1-0x2',
    'bytes=--5',
    'items=0-5',
    'bytes=0-1,5-6',
    'bytes=0-1,2-3',
  ])('sends all for %j', async (range) => {
    const answer = await content({ Range: range });
    expect(answer.status).toBe(200);
    expect(answer.headers.get('Content-Range')).toBeNull();
    expect(await bytesOf(answer)).toEqual(BYTES);
  });

  it('sends all for thousands of ranges', async () => {
    const answer = await content({ Range: `bytes=${'0-,'.repeat(3000)}0-` });
    expect(answer.status).toBe(200);
    expect(answer.headers.get('Content-Length')).toBe('1000');
    await answer.body?.cancel();
  });

  it('are only for GET', async () => {
    const answer = await content({ Range: 'bytes=0-99' }, 'HEAD');
    expect(answer.status).toBe(200);
    expect(answer.headers.get('Content-Length')).toBe('1000');
  });

  it('of an empty file lie beyond its end', async () => {
    const { id } = await user.settled(await user.upload(Buffer.alloc(0), { filename: 'empty' }));
    for (const range of ['bytes=0-', 'bytes=-1']) {
      const answer = await user.fetch(`/api/files/${id}/content`, { headers: { Range: range } });
      expect(answer.status).toBe(416);
      expect(answer.headers.get('Content-Range')).toBe('bytes */0');
      await answer.body?.cancel();
    }
  });
});

describe('conditional requests', () => {
  const date = () => new Date(file.createdAt).toUTCString();
  const earlier = () => new Date(Date.parse(file.createdAt) - 60_000).toUTCString();

  it.each([
    ['the ETag', () => ({ 'If-None-Match': ETAG })],
    ['the ETag as a weak one', () => ({ 'If-None-Match': `W/${ETAG}` })],
    ['the ETag among others', () => ({ 'If-None-Match': `"a", ${ETAG}` })],
    ['any ETag', () => ({ 'If-None-Match': '*' })],
    ['its date', () => ({ 'If-Modified-Since': date() })],
    ['the ETag with a range', () => ({ 'If-None-Match': ETAG, Range: 'bytes=0-1' })],
  ])('answer 304 to %s', async (_what, headers) => {
    for (const method of ['GET', 'HEAD']) {
      const answer = await content(headers() as unknown as Record<string, string>, method);
      expect(answer.status).toBe(304);
      expect(answer.headers.get('ETag')).toBe(ETAG);
      expect(await answer.text()).toBe('');
    }
  });

  it.each([
    ['another ETag', () => ({ 'If-None-Match': '"a"' })],
    ['another ETag and its date', () => ({ 'If-None-Match': '"a"', 'If-Modified-Since': date() })],
    ['an earlier date', () => ({ 'If-Modified-Since': earlier() })],
  ])('send all to %s', async (_what, headers) => {
    const answer = await content(headers() as unknown as Record<string, string>);
    expect(answer.status).toBe(200);
    expect(await bytesOf(answer)).toEqual(BYTES);
  });

  it.each([
    ['another ETag', () => ({ 'If-Match': '"a"' })],
    ['a weak ETag, which is not enough for this', () => ({ 'If-Match': `W/${ETAG}` })],
    ['another ETag and its date', () => ({ 'If-Match': '"a"', 'If-Unmodified-Since': date() })],
    ['an earlier date', () => ({ 'If-Unmodified-Since': earlier() })],
    [
      'an earlier date, as asctime() writes it',
      () => ({ 'If-Unmodified-Since': 'Sun Nov  6 08:49:37 1994' }),
    ],
    ['another ETag before the known one', () => ({ 'If-Match': '"a"', 'If-None-Match': ETAG })],
    ['another ETag with a range', () => ({ 'If-Match': '"a"', Range: 'bytes=2000-' })],
  ])('answer 412 if %s is required', async (_what, headers) => {
    for (const method of ['GET', 'HEAD']) {
      const answer = await content(headers() as unknown as Record<string, string>, method);
      expect(answer.status).toBe(412);
      expect(answer.headers.get('ETag')).toBeNull();
      if (method === 'GET') expect((await answer.json()).code).toBe('precondition_failed');
    }
  });

  it.each([
    ['the ETag', () => ({ 'If-Match': ETAG }), 200],
    ['the ETag among others', () => ({ 'If-Match': `"a", ${ETAG}` }), 200],
    ['any ETag', () => ({ 'If-Match': '*' }), 200],
    ['the ETag and an earlier date', () => ({ 'If-Match': ETAG, 'If-Unmodified-Since': earlier() }), 200],
    ['its date', () => ({ 'If-Unmodified-Since': date() }), 200],
    ['what is no date', () => ({ 'If-Unmodified-Since': '1994-11-06' }), 200],
    ['the ETag of a range', () => ({ 'If-Match': ETAG, Range: 'bytes=0-9' }), 206],
    ['the ETag, which is already known', () => ({ 'If-Match': ETAG, 'If-None-Match': ETAG }), 304],
  ])('are answered if %s is required', async (_what, headers, status) => {
    const answer = await content(headers() as unknown as Record<string, string>);
    expect(answer.status).toBe(status);
    const expected = { 200: BYTES, 206: BYTES.subarray(0, 10) }[status] ?? Buffer.alloc(0);
    expect(await bytesOf(answer)).toEqual(expected);
  });

  it.each([
    ['the ETag', () => ETAG, 206],
    ['its date', date, 206],
    ['another ETag', () => '"a"', 200],
    ['a weak ETag, which is not enough for this', () => `W/${ETAG}`, 200],
    ['an earlier date', earlier, 200],
    ['nonsense', () => 'yesterday', 200],
  ])('answer a range if %s stands in If-Range: %#', async (_what, value, status) => {
    const answer = await content({ Range: 'bytes=0-9', 'If-Range': value() });
    expect(answer.status).toBe(status);
    expect(await bytesOf(answer)).toEqual(status === 206 ? BYTES.subarray(0, 10) : BYTES);
  });
});

describe('a browser', () => {
  const disposition = async (bytes: Buffer, filename: string, filetype: string, query = '') => {
    const { id } = await user.settled(await user.upload(bytes, { filename, filetype }));
    const answer = await user.fetch(`/api/files/${id}/content${query}`);
    expect(await bytesOf(answer)).toEqual(bytes);
    expect(answer.headers.get('X-Content-Type-Options')).toBe('nosniff');
    expect(answer.headers.get('Content-Security-Policy')).toBe("default-src 'none'; sandbox");
    return [answer.headers.get('Content-Type'), answer.headers.get('Content-Disposition')?.split(';')[0]];
  };

  it('shows images, PDF, sound and text in place', async () => {
    const jpeg = await makeJpeg({ width: 9, height: 9 });
    expect(await disposition(jpeg, 'a.jpg', 'image/jpeg')).toEqual(['image/jpeg', 'inline']);
    expect(await disposition(makePdf(), 'a.pdf', 'application/pdf')).toEqual(['application/pdf', 'inline']);
    const opus = Buffer.concat([
      Buffer.from('OggS'),
      Buffer.alloc(24),
      Buffer.from('OpusHead'),
      Buffer.alloc(64),
    ]);
    expect(await disposition(opus, 'a.opus', 'audio/ogg')).toEqual(['audio/ogg; codecs=opus', 'inline']);
    const text = ['text/plain; charset=utf-8', 'inline'];
    expect(await disposition(Buffer.from('naïve'), 'a.txt', 'text/plain')).toEqual(text);
  });

  it('downloads everything when asked to', async () => {
    const answer = await disposition(makePdf(), 'a.pdf', 'application/pdf', '?download=1');
    expect(answer).toEqual(['application/pdf', 'attachment']);
    expect((await user.fetch(`/api/files/${file.id}/content?download=yes`)).status).toBe(400);
  });

  it('downloads a file of a type that it does not know', async () => {
    expect(await disposition(makeZip(), 'a.zip', 'application/zip')).toEqual([
      'application/zip',
      'attachment',
    ]);
    const xml = ['application/xml', 'attachment'];
    expect(await disposition(makeXmlSvg(), 'a.svg', 'image/svg+xml')).toEqual(xml);
    // It is declared as an image, but the type found in its bytes decides.
    expect(await disposition(makeZip(), 'a.png', 'image/png')).toEqual(['application/zip', 'attachment']);
  });

  it.each([
    ['HTML', makeHtml(), 'a.html', 'text/html'],
    ['SVG', makeSvg(), 'a.svg', 'image/svg+xml'],
  ])('sees %s as text, never as a document that runs', async (_what, bytes, filename, filetype) => {
    const [type] = await disposition(bytes, filename, filetype);
    expect(type).toBe('text/plain; charset=utf-8');
  });
});

describe('names', () => {
  it.each([
    ['plain.txt', 'plain.txt', 'filename="plain.txt"'],
    ['a"b.txt', 'a"b.txt', 'filename="a\\"b.txt"'],
    ['a;b=c.txt', 'a;b=c.txt', 'filename="a;b=c.txt"'],
    ['Größe.txt', 'Größe.txt', "filename*=UTF-8''Gr%C3%B6%C3%9Fe.txt"],
    ['100%41.txt', '100%41.txt', "filename*=UTF-8''100%2541.txt"],
    [
      'naïve 文件 😀.jpg',
      'naïve 文件 😀.jpg',
      "filename*=UTF-8''na%C3%AFve%20%E6%96%87%E4%BB%B6%20%F0%9F%98%80.jpg",
    ],
    ['..\\..\\x', 'x', 'filename="x"'],
    ['../../etc/passwd', 'passwd', 'filename="passwd"'],
    ['\u200EIMG 1.jpg', 'IMG 1.jpg', 'filename="IMG 1.jpg"'],
    ['photo\u202Egpj.exe', 'photogpj.exe', 'filename="photogpj.exe"'],
  ])('%j is kept and sent safely', async (given, kept, parameter) => {
    const { id, filename } = await user.settled(await user.upload(Buffer.from('x'), { filename: given }));
    expect(filename).toBe(kept);
    const answer = await user.fetch(`/api/files/${id}/content?download=1`);
    expect(await answer.text()).toBe('x');
    const header = answer.headers.get('Content-Disposition') ?? '';
    expect(header).toMatch(/^attachment; filename/);
    expect(header).toContain(parameter);
    expect(header).toMatch(/^[\x20-\x7e\xa0-\xff]*$/);
  });

  it.each([
    ...['a\r\nSet-Cookie: x=1', 'a\nb', 'a\0b', 'a\u0085b', 'a\u2028b'],
    ...['..', '/', '\u200B', 'x'.repeat(300)],
  ])('%j is refused', async (filename) => {
    await expect(user.upload(Buffer.from('x'), { filename })).rejects.toThrow(/upload: 400/);
  });
});

describe('thumbnails', () => {
  it('can be kept by the browser and asked for again', async () => {
    const etags = [];
    for (const size of ['small', 'medium', 'large']) {
      const answer = await user.fetch(`/api/files/${image.id}/thumbnails/${size}`);
      expect(answer.status).toBe(200);
      expect(answer.headers.get('Cache-Control')).toBe('private, max-age=3600');
      expect(answer.headers.get('X-Content-Type-Options')).toBe('nosniff');
      await answer.body?.cancel();
      const etag = answer.headers.get('ETag') ?? '';
      etags.push(etag);
      const again = await user.fetch(`/api/files/${image.id}/thumbnails/${size}`, {
        headers: { 'If-None-Match': etag },
      });
      expect(again.status).toBe(304);
    }
    // They are made of other bytes, so their ETags differ.
    expect(new Set(etags).size).toBe(3);
    expect(etags).not.toContain('"undefined"');
  });

  it('are not there for other files, other sizes, or an encoded way out', async () => {
    for (const path of [
      `${file.id}/thumbnails/small`,
      `${image.id}/thumbnails/huge`,
      `${image.id}/thumbnails/..%2F`,
      `${image.id}/derived/nothing`,
      `${image.id}/derived/..%2F`,
    ]) {
      const answer = await user.fetch(`/api/files/${path}`);
      expect(answer.status).toBe(404);
      expect((await answer.json()).code).toBe('not_found');
    }
  });
});

describe('signed links', () => {
  const get = (path: string, init?: RequestInit) => fetch(`${processes.url}${path}`, init);
  const status = async (path: string, init?: RequestInit) => {
    const answer = await get(path, init);
    await answer.body?.cancel();
    return answer.status;
  };
  const links = () => image.links.thumbnails ?? {};
  const tokenOf = (link = '') => link.split('?')[1] ?? '';

  it('open the path that they were made for, without an account', async () => {
    const answer = await get(file.links.content ?? '');
    expect(answer.status).toBe(200);
    expect(await bytesOf(answer)).toEqual(BYTES);
    expect(await status(file.links.content ?? '', { method: 'HEAD' })).toBe(200);
    expect(await status(file.links.content ?? '', { headers: { Range: 'bytes=0-1' } })).toBe(206);
    expect(await status(`${file.links.content}&download=1`)).toBe(200);
    expect(Object.keys(links()).sort()).toEqual(['large', 'medium', 'small']);
    for (const link of Object.values(links())) expect(await status(link)).toBe(200);
  });

  it('open nothing else', async () => {
    const [token, small] = [tokenOf(file.links.content ?? ''), tokenOf(links().small)];
    for (const path of [
      `/api/files/${image.id}/content?${token}`,
      `/api/files/${image.id}/thumbnails/medium?${small}`,
      `/api/files/${image.id}/content?${small}`,
      `/api/files/${file.id}?${token}`,
      `/api/files/${file.id}/status?${token}`,
      `/api/files?${token}`,
    ]) {
      const answer = await get(path);
      expect([path, answer.status]).toEqual([path, 401]);
      expect(await answer.json()).toMatchObject({ code: 'unauthenticated' });
    }
    expect(await status(file.links.content ?? '', { method: 'DELETE' })).toBe(405);
    expect(await status(`/api/files/${file.id}?${token}`, { method: 'DELETE' })).toBe(401);
  });

  it('do not open when tampered with, when empty, or when given twice', async () => {
    const link = file.links.content ?? '';
    const [, expiry = '', signature = ''] = /token=(\d+)\.([\w-]+)$/.exec(link) ?? [];
    const path = `/api/files/${file.id}/content`;
    const flipped = (signature[0] === 'A' ? 'B' : 'A') + signature.slice(1);
    for (const query of [
      `token=${expiry}.${flipped}`,
      `token=${Number(expiry) + 900}.${signature}`,
      `token=${expiry}.${signature}A`,
      `token=${expiry}.`,
      'token=',
      `token=${expiry}.${signature}&token=${expiry}.${signature}`,
      '',
    ]) {
      const answer = await get(`${path}?${query}`);
      expect([query, answer.status]).toEqual([query, 401]);
      expect(answer.headers.get('WWW-Authenticate')).toBe('Bearer');
      await answer.body?.cancel();
    }
  });

  it('end', async () => {
    const { link: key } = deriveKeys('only-for-tests-only-for-tests-only');
    const path = `/api/files/${file.id}/content`;
    expect(await status(signLink(path, key))).toBe(200);
    expect(await status(signLink(path, key, Date.now() - 31 * 60_000))).toBe(401);
  });

  it('are made only for files that may be fetched', async () => {
    await processes.stop('worker');
    const id = await user.upload(Buffer.from('x'), { filename: 'x' });
    expect((await user.get(`/api/files/${id}`)).links).toEqual({ content: null, thumbnails: null });
    await processes.start('worker');
    expect((await user.settled(id)).links.content).toContain('token=');
  });
});

describe('before the scan', () => {
  it('a file whose processing has failed is not said to be on its way', async () => {
    const id = await user.upload(Buffer.from('x'), { filename: 'x', sha256: '0'.repeat(64) });
    expect((await user.settled(id)).status).toBe('failed');
    for (const path of ['content', 'thumbnails/small']) {
      const answer = await user.fetch(`/api/files/${id}/${path}`);
      expect(answer.status).toBe(409);
      expect(await answer.json()).toMatchObject({
        code: 'wrong_state',
        detail: expect.stringContaining('checksum_mismatch'),
      });
    }
  });

  it('nothing is sent', async () => {
    await processes.stop('worker');
    const id = await user.upload(await makeJpeg({ width: 9, height: 9 }), { filename: 'a.jpg' });
    for (const path of ['content', 'content?download=1', 'thumbnails/small']) {
      const answer = await user.fetch(`/api/files/${id}/${path}`);
      expect(answer.status).toBe(409);
      expect(await answer.json()).toMatchObject({ status: 409, code: 'not_ready' });
      expect((await user.fetch(`/api/files/${id}/${path}`, { method: 'HEAD' })).status).toBe(409);
    }
    await processes.start('worker');
    await user.settled(id);
    expect((await user.fetch(`/api/files/${id}/content`, { method: 'HEAD' })).status).toBe(200);
  });
});

describe('trouble', () => {
  /** Files of the storage that the server has open. */
  const openObjects = () => {
    const folder = `/proc/${processes.pid('server')}/fd`;
    return readdirSync(folder).filter((fd) => {
      try {
        return readlinkSync(join(folder, fd)).startsWith(join(processes.dataDir, 'blobs'));
      } catch {
        return false;
      }
    }).length;
  };

  it('clients that go away leave nothing open', async () => {
    const large = randomBytes(16 * MIB);
    const id = await user.tusUpload(large, { metadata: { filename: 'large.bin' } });
    await user.settled(id);
    const seen: number[] = [];
    const leave = async (n: number) => {
      const controller = new AbortController();
      const { signal } = controller;
      const request = user.fetch(`/api/files/${id}/content`, { signal });
      if (n % 2) {
        // Some leave at once, at one point or another of the answer's beginning.
        await new Promise((resolve) => setTimeout(resolve, n));
      } else {
        const reader = (await request).body?.getReader();
        await reader?.read();
        seen.push(openObjects());
      }
      controller.abort();
      await request.then((answer) => answer.arrayBuffer()).catch(() => {});
    };
    await Promise.all(Array.from({ length: 30 }, (_, n) => leave(n)));
    expect(Math.max(...seen)).toBeGreaterThan(0);
    await until('the server to close all objects', () => openObjects() === 0);
    const answer = await user.fetch(`/api/files/${id}/content`);
    expect(large.equals(await bytesOf(answer))).toBe(true);
  });

  it('bytes that are away are a passing trouble, of which no cache keeps anything', async () => {
    for (const [id, path] of [
      [file.id, 'content'],
      [image.id, 'content'],
    ] as const) {
      const object = await objectOf(id);
      await rename(object, `${object}.away`);
      const answer = await user.fetch(`/api/files/${id}/${path}`);
      await rename(`${object}.away`, object);
      expect(answer.status).toBe(503);
      expect(answer.headers.get('Content-Type')).toBe('application/problem+json; charset=utf-8');
      expect(answer.headers.get('Cache-Control')).toBe('no-store');
      for (const name of ['ETag', 'Last-Modified', 'Content-Disposition', 'Accept-Ranges']) {
        expect([name, answer.headers.get(name)]).toEqual([name, null]);
      }
      const text = await answer.text();
      expect(JSON.parse(text)).toMatchObject({ code: 'unavailable' });
      expect(text).not.toContain(processes.dataDir);
      expect((await user.fetch(`/api/files/${id}/${path}`, { method: 'HEAD' })).status).toBe(200);
      expect(existsSync(object)).toBe(true);
    }
  });
});
