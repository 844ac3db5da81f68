import { createHash, randomBytes } from 'node:crypto';
import { request as httpRequest, type IncomingMessage } from 'node:http';
import { crc32 } from 'node:zlib';
import { idOf, registerUser, type TestUser } from './support/client.js';
import { type Installation, install } from './support/installation.js';
import { storageKeyOf } from './support/objects.js';
import { type Processes, startProcesses } from './support/processes.js';
import { until } from './support/until.js';

/* The tus extensions checksum and checksum-trailer, on both forms of storage. */

const MIB = 1024 ** 2;
const OCTETS = { 'Content-Type': 'application/offset+octet-stream' };

const sum = (algorithm: string, content: string | Uint8Array) =>
  `${algorithm} ${createHash(algorithm).update(content).digest('base64')}`;

let files: Processes;
let user: TestUser;

beforeAll(async () => {
  files = await startProcesses({}, ['server']);
  user = await registerUser(() => files.url);
});
afterAll(() => files?.close());

function patch(path: string, offset: number, body: string | Uint8Array, headers = {}, by = user) {
  return by.tus('PATCH', path, { 'Upload-Offset': String(offset), ...headers }, body as BodyInit);
}

async function offsetOf(path: string, by = user): Promise<number> {
  const answer = await by.tus('HEAD', path);
  expect(answer.status).toBe(200);
  return Number(answer.headers.get('Upload-Offset'));
}

/** The statement of another program about `hello world`. */
const KNOWN = {
  sha1: 'Kq5sNclPz7QV2+lfQIuc6R7oRu0=',
  sha256: 'uU0nuZNNPgilLlLX2n2r+sSE7+N6U4DukIj3rOLvzek=',
  sha512: 'MJ7MSJwS1utMxA9QyQLytNDtd+5RGnx6m808qG1M2G+YndNbxf9JlnDaNCVbRbDP2DDoH2Bdz33FVC6TrpzXbw==',
  md5: 'XrY7u+Ae7tCTyyK7j1rNww==',
  crc32: 'DUoRhQ==',
  crc32c: 'yZRlqg==',
};

test.each(Object.entries(KNOWN))('%s of the body is verified', async (algorithm, digest) => {
  const path = await user.create(12);
  const headers = { 'Upload-Checksum': `${algorithm} ${digest}` };
  const wrong = await patch(path, 0, 'hello World', headers);
  expect([wrong.status, wrong.statusText]).toEqual([460, 'Checksum Mismatch']);
  expect(await offsetOf(path)).toBe(0);
  const right = await patch(path, 0, 'hello world', headers);
  expect([right.status, right.headers.get('Upload-Offset')]).toEqual([204, '11']);
});

test.each([
  '',
  'sha1',
  'sha1 ',
  'sha1  Kq5sNclPz7QV2+lfQIuc6R7oRu0=',
  'SHA1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=',
  'sha3 Kq5sNclPz7QV2+lfQIuc6R7oRu0=',
  'constructor Kq5sNclPz7QV2+lfQIuc6R7oRu0=',
  'sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0',
  'sha1 Kq5sNclPz7QV2-lfQIuc6R7oRu0=',
  'sha1 2aae6c35c94fcfb415dbe95f408b9ce91ee846ed',
  `sha1 ${KNOWN.md5}`,
  `sha1 ${KNOWN.sha1} ${KNOWN.sha1}`,
  `sha1 ${KNOWN.sha1}, md5 ${KNOWN.md5}`,
])('a checksum that cannot be verified is refused: %s', async (header) => {
  const path = await user.create(11);
  expect((await patch(path, 0, 'hello world', { 'Upload-Checksum': header })).status).toBe(400);
  expect(await offsetOf(path)).toBe(0);
  expect((await patch(path, 0, 'hello world')).status).toBe(204);
});

test('with the creation: a wrong one creates no upload', async () => {
  const owner = await registerUser(() => files.url);
  const create = (content: string) => {
    const headers = { 'Upload-Length': '20', ...OCTETS, 'Upload-Checksum': `sha1 ${KNOWN.sha1}` };
    return owner.tus('POST', '/uploads', headers, content);
  };
  expect((await create('hello World')).status).toBe(460);
  expect((await owner.get('/api/uploads')).items).toEqual([]);
  const right = await create('hello world');
  expect([right.status, right.headers.get('Upload-Offset')]).toEqual([201, '11']);
});

test('a length that comes with a wrong checksum does not count', async () => {
  const path = await user.create(null);
  const headers = { 'Upload-Length': '11', 'Upload-Checksum': `sha1 ${KNOWN.sha1}` };
  expect((await patch(path, 0, 'hello World', headers)).status).toBe(460);
  expect((await user.tus('HEAD', path)).headers.get('Upload-Defer-Length')).toBe('1');
  expect((await patch(path, 0, 'hello world', headers)).status).toBe(204);
  expect((await user.tus('HEAD', path)).headers.get('Upload-Length')).toBe('11');
});

describe('the checksum in the trailer', () => {
  /** Sends a chunked body with trailers. */
  function send(path: string, body: string, trailers: Record<string, string>, headers = {}) {
    return new Promise<IncomingMessage>((resolve, reject) => {
      const { hostname, port } = new URL(files.url);
      const request = httpRequest(
        {
          ...{ hostname, port, path, method: 'PATCH' },
          headers: {
            'Tus-Resumable': '1.0.0',
            Authorization: `Bearer ${user.token}`,
            'Upload-Offset': '0',
            Trailer: 'Upload-Checksum',
            ...OCTETS,
            ...headers,
          },
        },
        (answer) => resolve(answer.resume()),
      );
      request.on('error', reject);
      request.write(body.slice(0, 5));
      request.addTrailers(trailers);
      request.end(body.slice(5));
    });
  }

  test.each([
    ['is right', 'hello world', { 'Upload-Checksum': `crc32c ${KNOWN.crc32c}` }, 204],
    ['is wrong', 'hello World', { 'Upload-Checksum': `crc32c ${KNOWN.crc32c}` }, 460],
    ['is of no known algorithm', 'hello world', { 'Upload-Checksum': 'sum AA==' }, 400],
    ['does not come', 'hello world', { 'X-Other': 'x' }, 400],
  ])('%s', async (_name, body, trailers, status) => {
    const path = await user.create(11);
    expect((await send(path, body, trailers as Record<string, string>)).statusCode).toBe(status);
    expect(await offsetOf(path)).toBe(status === 204 ? 11 : 0);
  });

  test('does not replace that of the header', async () => {
    const path = await user.create(11);
    const headers = { 'Upload-Checksum': sum('md5', 'another') };
    const answer = await send(path, 'hello world', { 'Upload-Checksum': `sha1 ${KNOWN.sha1}` }, headers);
    expect(answer.statusCode).toBe(460);
    expect(await offsetOf(path)).toBe(0);
  });
});

describe.each(['files', 's3'] as const)('%s', (form) => {
  const LENGTH = 48 * MIB;
  /** More than the bytes after which a store commits on the way. */
  const PIECE = 40 * MIB;
  const content = randomBytes(LENGTH);
  let installation: Installation | undefined;
  let processes: Processes;
  let owner: TestUser;

  beforeAll(async () => {
    if (form === 's3') installation = await install({ parts: ['server'] });
    processes = installation?.processes ?? files;
    owner = await registerUser(() => processes.url);
  });
  afterAll(() => installation?.close());

  /** A PATCH of `size` bytes, of which the test gives all but the last one at once. */
  function begin(path: string, offset: number, size: number, signal?: AbortSignal) {
    const body = content.subarray(offset, offset + size);
    let feed: ReadableStreamDefaultController | undefined;
    const stream = new ReadableStream({
      start(controller) {
        feed = controller;
        controller.enqueue(body.subarray(0, -1));
      },
    });
    const headers = { 'Upload-Offset': String(offset), 'Upload-Checksum': sum('sha256', body) };
    const address = path.startsWith('http') ? path : processes.url + path;
    const answer = fetch(address, {
      ...{ method: 'PATCH', body: stream, duplex: 'half' },
      headers: { 'Tus-Resumable': '1.0.0', Authorization: `Bearer ${owner.token}`, ...OCTETS, ...headers },
      ...(signal ? { signal } : {}),
    } as RequestInit);
    answer.catch(() => {});
    return {
      answer,
      finish() {
        feed?.enqueue(body.subarray(-1));
        feed?.close();
      },
    };
  }

  const rowOf = async (path: string) => {
    const { rows } = await processes.database.query('SELECT * FROM uploads WHERE id = $1', [idOf(path)]);
    return rows[0];
  };

  /** Waits until the store has more than one step of the body. */
  async function stored(path: string): Promise<void> {
    if (!installation) return;
    const key = await storageKeyOf(processes, idOf(path));
    await until('parts are stored', async () => {
      const sent = installation?.s3.requests.filter(
        (one) => one.key === key && one.operation === 'UploadPart',
      );
      return (sent?.length ?? 0) >= 3;
    });
  }

  test('bytes count at the end only: not after a broken connection, a newer request, or a wrong checksum', async () => {
    const path = await owner.create(LENGTH);
    const first = 6 * MIB;
    expect((await patch(path, 0, content.subarray(0, first), {}, owner)).status).toBe(204);

    const broken = new AbortController();
    const cut = begin(path, first, PIECE, broken.signal);
    await until('the lease is taken', async () => (await rowOf(path)).lease_holder !== null);
    await stored(path);
    broken.abort();
    await expect(cut.answer).rejects.toThrow();
    expect(await offsetOf(path, owner)).toBe(first);

    const older = begin(path, first, PIECE);
    await until('the lease is taken', async () => (await rowOf(path)).lease_holder !== null);
    await stored(path);
    // HEAD waits until the older request has let go.
    expect(await offsetOf(path, owner)).toBe(first);
    expect((await older.answer).status).toBe(423);

    const spoiled = Buffer.from(content.subarray(first, first + PIECE));
    const right = { 'Upload-Checksum': sum('sha1', spoiled) };
    spoiled[spoiled.length - 1] = (spoiled.at(-1) ?? 0) ^ 1;
    expect((await patch(path, first, spoiled, right, owner)).status).toBe(460);
    expect(Number((await rowOf(path)).offset)).toBe(first);

    const rest = content.subarray(first);
    const digest = Buffer.alloc(4);
    digest.writeUInt32BE(crc32(rest));
    const last = await patch(
      path,
      first,
      rest,
      { 'Upload-Checksum': `crc32 ${digest.toString('base64')}` },
      owner,
    );
    expect([last.status, last.headers.get('Upload-Offset')]).toEqual([204, String(LENGTH)]);
    const row = await rowOf(path);
    expect(row.status).toBe('finished');
    if (!installation) return;
    const parts = await processes.database.query('SELECT number FROM upload_parts WHERE upload_id = $1', [
      row.id,
    ]);
    const numbers = parts.rows.map(({ number }) => number);
    expect(new Set(numbers).size).toBe(numbers.length);
    await processes.start('worker');
    await until('nothing is left but the object', async () => {
      const keys = (await installation?.bucket.listKeys()) ?? [];
      return keys.filter((key) => key.startsWith(row.storage_key)).length === 1;
    });
    const found = await owner.settled(idOf(path));
    expect(found.sha256).toBe(createHash('sha256').update(content).digest('hex'));
  });

  test('a server that is killed in the middle of the body has counted nothing of it', async () => {
    const path = await owner.create(LENGTH);
    begin(path, 0, LENGTH);
    await until('the lease is taken', async () => (await rowOf(path)).lease_holder !== null);
    await stored(path);
    await processes.kill('server');
    await processes.start('server');
    expect(await offsetOf(path, owner)).toBe(0);
    const headers = { 'Upload-Checksum': sum('sha512', content) };
    expect((await patch(path, 0, content, headers, owner)).status).toBe(204);
  });
});
