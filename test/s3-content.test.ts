import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { get } from 'node:http';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { type FileJson, registerUser, type TestUser } from './support/client.js';
import { makeHtml, makeJpeg, makeXmlSvg } from './support/fixtures.js';
import { type Processes, startProcesses } from './support/processes.js';
import { createBucket, type TestBucket } from './support/s3.js';
import { until } from './support/until.js';

/*
 * Downloads from S3, through the server or by a redirect to the store. content.test.ts tests the behaviour that both
 * kinds of storage share.
 */

const MIB = 1024 ** 2;
const BYTES = randomBytes(1000);
const NAME = 'Été à “Zürich” 日本.bin';
/** encodeURIComponent() leaves these alone, RFC 8187 does not. */
const ENCODED = encodeURIComponent(NAME).replaceAll(/['()*]/g, (c) => `%${c.charCodeAt(0).toString(16)}`);

let bucket: TestBucket;
let wire: Wire;
let processes: Processes;
let user: TestUser;

async function open(env: Record<string, string> = {}): Promise<void> {
  bucket = await createBucket();
  wire = await openWire(bucket.env.S3_ENDPOINT);
  processes = await startProcesses({ ...bucket.env, S3_ENDPOINT: wire.url, ...env });
  user = await registerUser(() => processes.url);
}

async function close(): Promise<void> {
  await processes?.close();
  wire?.close();
  await bucket?.drop();
}

const upload = async (content: Uint8Array, filename: string) =>
  user.settled(await user.upload(content, { filename }));

/** GET of a file's content that does not follow a redirect. */
const content = (file: FileJson, init: RequestInit = {}, query = '') =>
  user.fetch(`/api/files/${file.id}/content${query}`, { redirect: 'manual', ...init });

const bytesOf = async (answer: Response) => Buffer.from(await answer.arrayBuffer());

interface Wire {
  url: string;
  /** How many bytes S3 has sent. */
  received(): number;
  /** The number of open connections on which more than `bytes` came. */
  openWith(bytes: number): number;
  close(): void;
}

/** A TCP proxy before the store that counts bytes. */
async function openWire(target: string): Promise<Wire> {
  const { hostname, port } = new URL(target);
  const outward = new Set<Socket>();
  let gone = 0;
  const server = createServer((inward) => {
    const socket = connect(Number(port), hostname);
    outward.add(socket);
    inward.pipe(socket).pipe(inward);
    const end = () => {
      inward.destroy();
      socket.destroy();
      if (outward.delete(socket)) gone += socket.bytesRead;
    };
    for (const side of [inward, socket]) side.on('error', () => {}).on('close', end);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    received: () => [...outward].reduce((sum, { bytesRead }) => sum + bytesRead, gone),
    openWith: (bytes) => [...outward].filter(({ bytesRead }) => bytesRead > bytes).length,
    close() {
      server.close();
      for (const socket of outward) socket.destroy();
    },
  };
}

describe('through the server', () => {
  beforeAll(() => open());
  afterAll(close);

  it('comes whole, or a range of it', async () => {
    const file = await upload(BYTES, NAME);
    const whole = await content(file);
    expect(whole.status).toBe(200);
    expect(whole.headers.get('Content-Length')).toBe('1000');
    expect(await bytesOf(whole)).toEqual(BYTES);
    for (const [range, start, end] of [
      ['bytes=0-0', 0, 1],
      ['bytes=100-299', 100, 300],
      ['bytes=900-', 900, 1000],
      ['bytes=-10', 990, 1000],
    ] as const) {
      const part = await content(file, { headers: { Range: range } });
      expect(part.status).toBe(206);
      expect(part.headers.get('Content-Range')).toBe(`bytes ${start}-${end - 1}/1000`);
      expect(await bytesOf(part)).toEqual(BYTES.subarray(start, end));
    }
  });

  it('comes empty', async () => {
    const file = await upload(Buffer.alloc(0), 'empty');
    const answer = await content(file);
    expect([answer.status, answer.headers.get('Content-Length'), await answer.text()]).toEqual([
      200,
      '0',
      '',
    ]);
  });

  it('is no longer read from the store when the client has gone', async () => {
    const file = await upload(randomBytes(64 * MIB), 'large.bin');
    // The worker has read the file too, on connections that it keeps open.
    await processes.stop('worker');
    await until('its connections to close', () => wire.openWith(64 * 1024) === 0);
    const before = wire.received();
    const request = get(`${processes.url}/api/files/${file.id}/content`, {
      headers: { Authorization: `Bearer ${user.token}` },
    });
    const [answer] = await once(request, 'response');
    await once(answer, 'data');
    // The client reads no more, so the buffers fill and the store has to wait.
    answer.pause();
    await until('the connection to the store to be seen', () => wire.openWith(64 * 1024) === 1);
    request.destroy();
    await until('the connection to the store to close', () => wire.openWith(64 * 1024) === 0);
    expect(wire.received() - before).toBeLessThan(48 * MIB);
  });
});

describe('by a redirect to the store', () => {
  let file: FileJson;

  beforeAll(async () => {
    await open({ S3_REDIRECT: 'true' });
    file = await upload(BYTES, NAME);
  });
  afterAll(close);

  /** The address to which a GET is redirected. */
  async function target(path: string): Promise<URL> {
    const answer = await user.fetch(path, { redirect: 'manual' });
    expect(answer.status).toBe(302);
    return new URL(answer.headers.get('Location') ?? '');
  }

  it('sends GET to an address that is good for some minutes', async () => {
    const answer = await content(file);
    expect(answer.status).toBe(302);
    const url = new URL(answer.headers.get('Location') ?? '');
    expect(url.origin).toBe(wire.url);
    expect(url.searchParams.get('X-Amz-Expires')).toBe('300');
    expect(answer.headers.get('Cache-Control')).toBe('private, max-age=240');
    // Clients would take these headers for those of the redirect itself.
    for (const name of ['ETag', 'Last-Modified', 'Content-Disposition', 'Content-Type', 'Accept-Ranges']) {
      expect([name, answer.headers.get(name)]).toEqual([name, null]);
    }
    const stored = await fetch(url);
    expect(stored.status).toBe(200);
    expect(await bytesOf(stored)).toEqual(BYTES);
    expect(stored.headers.get('Content-Type')).toBe('application/octet-stream');
    expect(stored.headers.get('Content-Disposition')).toMatch(
      `attachment; filename="?t? ? ?Z?rich? ??.bin"; filename*=UTF-8''${ENCODED}`,
    );
  });

  it('works for a client that follows it, with a range too', async () => {
    const whole = await content(file, { redirect: 'follow' });
    expect(await bytesOf(whole)).toEqual(BYTES);
    const part = await content(file, { redirect: 'follow', headers: { Range: 'bytes=100-299' } });
    expect(part.status).toBe(206);
    expect(part.headers.get('Content-Range')).toBe('bytes 100-299/1000');
    expect(await bytesOf(part)).toEqual(BYTES.subarray(100, 300));
  });

  it('answers HEAD, conditions and impossible ranges by itself', async () => {
    const etag = `"${createHash('sha256').update(BYTES).digest('hex')}"`;
    const head = await content(file, { method: 'HEAD' });
    expect(head.status).toBe(200);
    expect(head.headers.get('ETag')).toBe(etag);
    expect(head.headers.get('Content-Length')).toBe('1000');
    expect((await content(file, { headers: { 'If-None-Match': etag } })).status).toBe(304);
    expect((await content(file, { headers: { Range: 'bytes=1000-' } })).status).toBe(416);
  });

  it('leaves required validators to the store, except its own', async () => {
    const etag = `"${createHash('sha256').update(BYTES).digest('hex')}"`;
    const own = await content(file, { headers: { 'If-Match': etag, Range: 'bytes=0-9' } });
    expect(own.status).toBe(206);
    expect(await bytesOf(own)).toEqual(BYTES.subarray(0, 10));
    const ofStore = (await content(file, { redirect: 'follow' })).headers.get('ETag') ?? '';
    expect(ofStore).not.toBe(etag);
    const again = await content(file, { redirect: 'follow', headers: { 'If-Match': ofStore } });
    expect(await bytesOf(again)).toEqual(BYTES);
    const other = await content(file, { redirect: 'follow', headers: { 'If-Match': '"a"' } });
    expect(other.status).toBe(412);
    expect((await content(file, { method: 'HEAD', headers: { 'If-Match': '"a"' } })).status).toBe(412);
  });

  it('does not let the store serve files that browsers would run', async () => {
    const drawing = await upload(makeXmlSvg(), 'drawing.svg');
    const stored = await fetch(await target(`/api/files/${drawing.id}/content`));
    expect(stored.headers.get('Content-Disposition')).toMatch(/^attachment/);
    // Said to be text, it is shown as text.
    const page = await fetch(
      await target(`/api/files/${(await upload(makeHtml(), 'page.html')).id}/content`),
    );
    expect(page.headers.get('Content-Type')).toBe('text/plain; charset=utf-8');
  });

  it('shows pictures in place, and their thumbnails', async () => {
    const image = await upload(await makeJpeg({ width: 300, height: 200 }), 'a.jpg');
    const path = `/api/files/${image.id}`;
    const original = await fetch(await target(`${path}/content`));
    expect(original.headers.get('Content-Type')).toBe('image/jpeg');
    expect(original.headers.get('Content-Disposition')).toBe('inline; filename="a.jpg"');
    const download = await fetch(await target(`${path}/content?download=1`));
    expect(download.headers.get('Content-Disposition')).toBe('attachment; filename="a.jpg"');
    const thumbnail = await fetch(await target(`${path}/thumbnails/small`));
    expect(thumbnail.status).toBe(200);
    expect(thumbnail.headers.get('Content-Type')).toBe('image/webp');
    const link = await fetch(`${processes.url}${image.links.thumbnails?.small}`);
    expect(link.headers.get('Content-Type')).toBe('image/webp');
  });

  it('is allowed by the page', async () => {
    const csp = (await fetch(processes.url)).headers.get('Content-Security-Policy');
    expect(csp).toMatch(`img-src 'self' blob: data: ${wire.url};`);
    expect(csp).toMatch(`media-src 'self' blob: ${wire.url};`);
  });

  it('is only for callers who may read the file, once it is clean', async () => {
    const stranger = await registerUser(() => processes.url);
    const path = `/api/files/${file.id}/content`;
    expect((await stranger.fetch(path, { redirect: 'manual' })).status).toBe(404);
    expect((await fetch(`${processes.url}${path}`, { redirect: 'manual' })).status).toBe(401);
    await processes.database.query('UPDATE files SET clean = false WHERE id = $1', [file.id]);
    expect((await content(file)).status).toBe(409);
    await processes.database.query('UPDATE files SET clean = true WHERE id = $1', [file.id]);
  });
});
