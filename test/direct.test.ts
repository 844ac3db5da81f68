import { createHash, randomBytes } from 'node:crypto';
import { CreateMultipartUploadCommand, GetObjectCommand, UploadPartCommand } from '@aws-sdk/client-s3';
import { findUpload, timeline } from './support/aftermath.js';
import { usageOf } from './support/books.js';
import { type FileJson, registerUser, type TestUser, useAccount } from './support/client.js';
import { terminate } from './support/deletions.js';
import { storageKeyOf } from './support/objects.js';
import { runPasses } from './support/passes.js';
import { type Processes, startProcesses } from './support/processes.js';
import { createBucket, type TestBucket } from './support/s3.js';
import { type S3Proxy, startS3Proxy } from './support/s3-proxy.js';
import { until } from './support/until.js';
import { makeDue } from './support/uploads.js';

/*
 * Direct upload: the client sends parts to S3 itself. The servers reach S3 through one proxy and hand out addresses of
 * another, so that it shows who sends what.
 */

const MIB = 1024 ** 2;
const PART = 8 * MIB;
const MAX = 100 * MIB;

interface Presigned {
  id: string;
  partSize: number;
  partCount: number;
  parts: { number: number; size: number; url: string }[];
  expiresAt: string;
}

let bucket: TestBucket;
/** Between the servers and S3. */
let inner: S3Proxy;
/** Between the clients and S3. */
let outer: S3Proxy;
let processes: Processes;
let user: TestUser;
let stranger: TestUser;

beforeAll(async () => {
  bucket = await createBucket();
  inner = await startS3Proxy(bucket.env.S3_ENDPOINT);
  outer = await startS3Proxy(bucket.env.S3_ENDPOINT);
  processes = await startProcesses(
    {
      ...bucket.env,
      S3_ENDPOINT: inner.url,
      S3_PUBLIC_ENDPOINT: outer.url,
      MAX_UPLOAD_SIZE: String(MAX),
      UPLOAD_EXPIRY_HOURS: '2',
    },
    ['server', 'server-2', 'worker'],
  );
  user = await registerUser(() => processes.url);
  stranger = await registerUser(() => processes.url);
});

afterAll(async () => {
  await processes?.close();
  await inner?.close();
  await outer?.close();
  await bucket?.drop();
});

const post = (path: string, body: object, as = user) =>
  as.fetch(path, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify(body),
  });
const presign = (body: object, as = user) => post('/api/uploads/presign', body, as);
const complete = (id: string, as = user) => post('/api/uploads/complete', { id }, as);

async function begin(size: number, more: object = {}): Promise<Presigned> {
  const answer = await presign({ filename: 'direct.bin', size, ...more });
  expect(answer.status).toBe(200);
  return answer.json();
}

/** Sends these parts of the content; the last ones first. */
async function send({ parts, partSize }: Presigned, content: Buffer): Promise<void> {
  for (const { number, size, url } of parts.toReversed()) {
    const start = (number - 1) * partSize;
    const answer = await put(url, content.subarray(start, start + size));
    expect(answer.status).toBe(200);
  }
}

const put = (url: string, body: Uint8Array) => fetch(url, { method: 'PUT', body: body as BodyInit });

async function expectFile(answer: Response, content: Buffer): Promise<FileJson> {
  expect(answer.status).toBe(201);
  const { id }: FileJson = await answer.json();
  const file = await user.settled(id);
  expect(file).toMatchObject({ status: 'completed', size: content.byteLength, sha256: sha256(content) });
  const read = await user.fetch(`/api/files/${id}/content`);
  expect(content.equals(Buffer.from(await read.arrayBuffer()))).toBe(true);
  return file;
}

const sha256 = (content: Uint8Array) => createHash('sha256').update(content).digest('hex');

async function expectProblem(answer: Response, status: number, code: string): Promise<string> {
  expect(answer.headers.get('Content-Type')).toMatch('application/problem+json');
  const problem = await answer.json();
  expect(problem).toMatchObject({ status, code });
  return problem.detail;
}

/** The objects and parts of an upload that S3 holds. */
async function listStored(id: string): Promise<string[]> {
  const key = await storageKeyOf(processes, id);
  const multiparts = (await bucket.listMultipartUploads()).map((upload) => upload.key);
  return [...(await bucket.listKeys()), ...multiparts].filter((stored) => stored.startsWith(key));
}

describe('an upload straight to S3', () => {
  it('becomes a file like any other, and its bytes do not come through the server', async () => {
    const content = randomBytes(2 * PART + 1000);
    const presigned = await begin(content.byteLength, {
      type: 'application/x-direct',
      sha256: sha256(content),
    });
    expect(presigned).toMatchObject({ partSize: PART, partCount: 3 });
    expect(presigned.parts.map(({ number, size }) => [number, size])).toEqual([
      [1, PART],
      [2, PART],
      [3, 1000],
    ]);
    const sentBefore = inner.count('UploadPart') + inner.count('PutObject');
    await send(presigned, content);
    const file = await expectFile(await complete(presigned.id), content);
    expect(file).toMatchObject({
      id: presigned.id,
      filename: 'direct.bin',
      declaredType: 'application/x-direct',
    });
    expect(inner.count('UploadPart') + inner.count('PutObject')).toBe(sentBefore);
    expect(await listStored(presigned.id)).toHaveLength(1);
    expect((await timeline(processes, presigned.id)).slice(0, 2)).toEqual(['upload.created', 'file.created']);
  });

  it('is multipart even of one byte', async () => {
    const presigned = await begin(1);
    expect(presigned.parts.map(({ size }) => size)).toEqual([1]);
    await send(presigned, Buffer.from('a'));
    await expectFile(await complete(presigned.id), Buffer.from('a'));
  });

  it('fails if its bytes are not the announced ones', async () => {
    const presigned = await begin(3, { sha256: sha256(Buffer.from('abc')) });
    await send(presigned, Buffer.from('abd'));
    expect((await complete(presigned.id)).status).toBe(201);
    expect(await user.settled(presigned.id)).toMatchObject({
      status: 'failed',
      error: { code: 'checksum_mismatch' },
    });
  });

  it('goes to the public address of the store, which takes exactly the bytes announced', async () => {
    const presigned = await begin(10);
    const url = presigned.parts[0]?.url ?? '';
    expect(new URL(url).origin).toBe(outer.url);
    for (const body of ['123456789', '12345678901', '']) {
      expect((await put(url, Buffer.from(body))).status).toBe(403);
    }
    expect(await expectProblem(await complete(presigned.id), 409, 'incomplete')).toMatch(/Part 1 of 1 /);
  });

  it('cannot be changed any more once it is completed', async () => {
    const presigned = await begin(4);
    await send(presigned, Buffer.from('good'));
    await expectFile(await complete(presigned.id), Buffer.from('good'));
    expect((await put(presigned.parts[0]?.url ?? '', Buffer.from('evil'))).status).toBe(404);
    const [Key] = await listStored(presigned.id);
    const { Body } = await bucket.client.send(new GetObjectCommand({ Bucket: bucket.bucket, Key }));
    expect(await Body?.transformToString()).toBe('good');
    await expectProblem(await presign({ id: presigned.id }), 409, 'wrong_state');
  });

  it('shares its bytes with an older file that has the same', async () => {
    const content = randomBytes(PART + 1);
    const first = await user.upload(content);
    expect(await user.settled(first)).toMatchObject({ status: 'completed', duplicateOf: null });
    const presigned = await begin(content.byteLength);
    await send(presigned, content);
    expect(await expectFile(await complete(presigned.id), content)).toMatchObject({ duplicateOf: first });
    await runPasses(processes, async () => (await listStored(presigned.id)).length === 0);
    expect(await terminate(user, first)).toBe(204);
    await expectFile(await complete(presigned.id), content);
  });

  it('stands among the unfinished uploads', async () => {
    const { id, expiresAt } = await begin(10);
    const upload = await user.get(`/api/uploads/${id}`);
    expect(upload).toMatchObject({ status: 'uploading', direct: true, offset: 0, length: 10, expiresAt });
    expect((await user.get('/api/uploads?limit=1')).items).toEqual([upload]);
  });

  it('is refused when it cannot become a file', async () => {
    await expectProblem(await presign({ filename: 'a', size: MAX + 1 }), 413, 'too_large');
    expect(await expectProblem(await presign({ size: 0 }), 400, 'invalid_request')).toMatch('at least 1');
    expect(await expectProblem(await presign({ filename: 'a' }), 400, 'invalid_request')).toMatch('size');
    await expectProblem(await presign({ size: 1, sha256: 'abc' }), 400, 'invalid_request');
    await expectProblem(await presign({ size: 1, filename: '..' }), 400, 'invalid_request');
    await expectProblem(await presign({ size: 1.5 }), 400, 'invalid_request');
  });
});

describe('parts', () => {
  let presigned: Presigned;
  const content = randomBytes(PART);

  beforeAll(async () => {
    presigned = await begin(11 * PART + 1);
    const some = presigned.parts.filter(({ number }) => [2, 4].includes(number));
    for (const { url } of some) expect((await put(url, content)).status).toBe(200);
  });

  it('that are missing are named', async () => {
    expect(await expectProblem(await complete(presigned.id), 409, 'incomplete')).toMatch(
      /Parts 1, 3, 5–12 of 12 /,
    );
  });

  it('that have another size than planned are named', async () => {
    const { id } = await begin(10);
    const Key = await storageKeyOf(processes, id);
    const { storage_state: state } = await findUpload(processes, id);
    const part = { Bucket: bucket.bucket, Key, UploadId: state.multipartId, PartNumber: 1 };
    await bucket.client.send(new UploadPartCommand({ ...part, Body: 'short' }));
    expect(await expectProblem(await complete(id), 409, 'incomplete')).toMatch(/Part 1 of 1 .*\b5\b.*\b10\b/);
    expect((await (await presign({ id })).json()).parts).toHaveLength(1);
  });

  it('get fresh addresses: those asked for, or those that have not arrived', async () => {
    const numbers = async (body: object) => {
      const answer: Presigned = await (await presign({ id: presigned.id, ...body })).json();
      expect(answer).toMatchObject({ id: presigned.id, partSize: PART, partCount: 12 });
      return answer.parts.map(({ number }) => number);
    };
    expect(await numbers({ parts: [2, 12] })).toEqual([2, 12]);
    expect(await numbers({})).toEqual([1, 3, 5, 6, 7, 8, 9, 10, 11, 12]);
    const beyond = await presign({ id: presigned.id, parts: [13] });
    expect(await expectProblem(beyond, 400, 'invalid_request')).toMatch(/\b13\b.*\b12\b/);
  });

  it('are signed a hundred at a time', async () => {
    const { rows } = await processes.database.query(
      'UPDATE uploads SET length = $2 WHERE id = $1 RETURNING id',
      [(await begin(1)).id, 150 * PART],
    );
    const first: Presigned = await (await presign({ id: rows[0].id })).json();
    expect(first).toMatchObject({ partCount: 150 });
    expect(first.parts.map(({ number }) => number)).toEqual(Array.from({ length: 100 }, (_, i) => i + 1));
    const tooMany = Array.from({ length: 101 }, (_, index) => index + 1);
    await expectProblem(await presign({ id: rows[0].id, parts: tooMany }), 400, 'invalid_request');
  });
});

describe('completing', () => {
  it('again answers the same file', async () => {
    const presigned = await begin(4);
    await send(presigned, Buffer.from('once'));
    const [one, two] = await Promise.all([
      complete(presigned.id),
      complete(
        presigned.id,
        user.at(() => processes.urlOf('server-2')),
      ),
    ]);
    expect([one.status, two.status]).toEqual([201, 201]);
    await expectFile(await complete(presigned.id), Buffer.from('once'));
    const created = (await timeline(processes, presigned.id)).filter((type) => type === 'file.created');
    expect(created).toHaveLength(1);
  });

  it('goes on where the store failed', async () => {
    const presigned = await begin(4);
    await send(presigned, Buffer.from('tale'));
    const remove = inner.rule('CompleteMultipartUpload', { fail: 503 });
    const answer = await complete(presigned.id);
    remove();
    await expectProblem(answer, 503, 'unavailable');
    await expectFile(await complete(presigned.id), Buffer.from('tale'));
  });

  it('succeeds though the answer of the store was lost', async () => {
    const presigned = await begin(4);
    await send(presigned, Buffer.from('lost'));
    const remove = inner.rule('CompleteMultipartUpload', { cut: 'after' });
    const answer = await complete(presigned.id);
    remove();
    await expectFile(answer, Buffer.from('lost'));
  });

  it('is taken over from a server that was killed', async () => {
    const presigned = await begin(4);
    await send(presigned, Buffer.from('died'));
    const { reached, open } = inner.pauseAt('CompleteMultipartUpload', 'after');
    const cut = complete(presigned.id).catch(() => undefined);
    await reached;
    await processes.kill('server');
    await cut;
    open();
    const other = user.at(() => processes.urlOf('server-2'));
    const answer = await complete(presigned.id, other);
    await processes.start('server');
    await expectFile(answer, Buffer.from('died'));
  });

  it('is left to the reconciler by a client that does not ask again', async () => {
    const presigned = await begin(4);
    await send(presigned, Buffer.from('left'));
    const remove = inner.rule('CompleteMultipartUpload', { fail: 503 });
    const answer = await complete(presigned.id);
    remove();
    await expectProblem(answer, 503, 'unavailable');
    await runPasses(processes, async () => (await findUpload(processes, presigned.id)).status === 'finished');
    expect(await user.settled(presigned.id)).toMatchObject({ status: 'completed', size: 4 });
  });
});

describe('an unfinished upload', () => {
  const letExpire = (id: string) => makeDue(processes.database, id);

  async function beginAndSend(): Promise<Presigned> {
    const presigned = await begin(PART + 1);
    expect((await put(presigned.parts[1]?.url ?? '', Buffer.from('b'))).status).toBe(200);
    expect(await listStored(presigned.id)).toHaveLength(1);
    return presigned;
  }

  it('leaves nothing in S3 when it is deleted', async () => {
    const { id, parts } = await beginAndSend();
    expect((await user.tus('DELETE', `/uploads/${id}`)).status).toBe(204);
    expect(await listStored(id)).toEqual([]);
    expect((await put(parts[1]?.url ?? '', Buffer.from('b'))).status).toBe(404);
    await expectProblem(await presign({ id }), 410, 'gone');
    await expectProblem(await complete(id), 410, 'gone');
  });

  it('is looked for once more in S3 when the addresses have expired', async () => {
    const { id } = await beginAndSend();
    expect(await terminate(user, id)).toBe(204);
    const row = await findUpload(processes, id);
    expect(row.discarded_at).toBeNull();
    expect(row.retry_at).toEqual(row.addresses_until);
    expect(row.retry_at.getTime()).toBeGreaterThan(Date.now() + 3_600_000);
    // Some stores keep a part that arrived after the abort.
    const kept = { Bucket: bucket.bucket, Key: await storageKeyOf(processes, id) };
    await bucket.client.send(new CreateMultipartUploadCommand(kept));
    expect(await listStored(id)).toHaveLength(1);
    await processes.database.query(
      `UPDATE uploads SET addresses_until = now(), retry_at = now() WHERE id = $1`,
      [id],
    );
    await runPasses(processes, async () => (await findUpload(processes, id)).discarded_at);
    expect(await listStored(id)).toEqual([]);
  });

  it('expires, and leaves nothing', async () => {
    const { id } = await beginAndSend();
    await letExpire(id);
    await expectProblem(await presign({ id }), 410, 'gone');
    await expectProblem(await complete(id), 410, 'gone');
    await runPasses(processes, async () => (await listStored(id)).length === 0);
    expect((await findUpload(processes, id)).status).toBe('expired');
  });

  it('expires later each time that addresses are asked for', async () => {
    const { id } = await begin(10);
    await processes.database.query(
      `UPDATE uploads SET expires_at = now() + interval '1 minute' WHERE id = $1`,
      [id],
    );
    const { expiresAt } = await (await presign({ id, parts: [1] })).json();
    expect(Date.parse(expiresAt)).toBeGreaterThan(Date.now() + 3_600_000);
    expect((await user.get(`/api/uploads/${id}`)).expiresAt).toBe(expiresAt);
  });

  it('takes no bytes by tus', async () => {
    const { id } = await begin(10);
    const head = await user.tus('HEAD', `/uploads/${id}`);
    expect([head.status, head.headers.get('Upload-Offset')]).toEqual([200, '0']);
    const patch = await user.tus('PATCH', `/uploads/${id}`, { 'Upload-Offset': '0' }, 'bytes');
    expect(patch.status).toBe(409);
  });

  it('belongs to its owner', async () => {
    const { id } = await begin(10);
    await expectProblem(await presign({ id }, stranger), 404, 'not_found');
    await expectProblem(await complete(id, stranger), 404, 'not_found');
    expect((await stranger.tus('DELETE', `/uploads/${id}`)).status).toBe(404);
    await until('all three attempts to be in the event log', async () => {
      const { rowCount } = await processes.database.query(
        `SELECT FROM all_events WHERE subject_id = $1 AND result = 'refused' AND actor ->> 'userId' = $2`,
        [id, stranger.id],
      );
      return rowCount === 3;
    });
    expect((await fetch(`${processes.url}/api/uploads/presign`, { method: 'POST' })).status).toBe(401);
  });

  it('is not begun when the store is away', async () => {
    const before = (await user.get('/api/uploads?limit=200')).items.length;
    const remove = inner.rule('CreateMultipartUpload', { fail: 503 });
    const answer = await presign({ size: 1 });
    remove();
    await expectProblem(answer, 503, 'unavailable');
    expect((await user.get('/api/uploads?limit=200')).items).toHaveLength(before);
  });

  it('does not use up an upload token when the store is away', async () => {
    const { token } = await (await post('/api/upload-tokens', {})).json();
    const guest = useAccount(user, token, () => processes.url);
    const remove = inner.rule('CreateMultipartUpload', { fail: 503 });
    const answer = await presign({ size: 1 }, guest);
    remove();
    await expectProblem(answer, 503, 'unavailable');
    expect((await presign({ size: 1 }, guest)).status).toBe(200);
    await expectProblem(await presign({ size: 1 }, guest), 401, 'unauthenticated');
  });
});

describe('an upload that S3 does not let begin', () => {
  it('leaves nothing that counts', async () => {
    const before = await usageOf(user);
    const heal = inner.rule('CreateMultipartUpload', { fail: 403 });
    const answer = await presign({ filename: 'direct.bin', size: 1000 });
    heal();
    expect(answer.status).toBeGreaterThanOrEqual(500);
    expect(await usageOf(user)).toEqual(before);
  });
});

describe('an upload that was begun by tus', () => {
  it('cannot be presigned or completed as a direct upload', async () => {
    const id = (await user.create(10)).split('/').at(-1) ?? '';
    await expectProblem(await presign({ id }), 409, 'wrong_state');
    await expectProblem(await complete(id), 409, 'wrong_state');
  });
});

it('answers 409 where bytes are not in S3', async () => {
  const files = await startProcesses({}, ['server']);
  try {
    const someone = await registerUser(() => files.url);
    await expectProblem(await presign({ size: 1 }, someone), 409, 'not_direct');
    const id = (await someone.create(10)).split('/').at(-1) ?? '';
    await expectProblem(await complete(id, someone), 409, 'not_direct');
  } finally {
    await files.close();
  }
});

test('completing hands no link to a key that may upload but not read, however often it asks', async () => {
  const key = async (scopes: string[]) => {
    const answer = await post('/api/keys', { name: 'a', scopes });
    return useAccount(user, (await answer.json()).key, () => processes.url);
  };
  const [uploader, reader] = [await key(['upload']), await key(['upload', 'read'])];
  const content = randomBytes(1000);
  const begun = await begin(content.length);
  await send(begun, content);
  await complete(begun.id);
  await user.settled(begun.id);
  const told = await (await complete(begun.id, uploader)).json();
  expect(told).toEqual({
    id: begun.id,
    filename: 'direct.bin',
    size: 1000,
    declaredType: null,
    status: 'completed',
    createdAt: expect.any(String),
    etaSeconds: 0,
  });
  expect((await (await complete(begun.id, reader)).json()).links.content).toContain('token=');
});
