import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import { gzipSync } from 'node:zlib';
import jwt from 'jsonwebtoken';
import * as tus from 'tus-js-client';
import { v7 as uuidv7 } from 'uuid';
import { MAX_WAITING } from '../core/uploads/waiters.js';
import { deriveKeys } from '../server/auth/keys.js';
import { expectCompletedOnce, findFile, findUpload, timeline } from './support/aftermath.js';
import { makeArchive } from './support/archives.js';
import { closeBarrier, WAITING_FOR_LOCKS, waitingForLocks } from './support/barrier.js';
import { expectBooksRight, usageOf } from './support/books.js';
import { encodeMetadata, idOf, registerUser, type TestUser, useAccount } from './support/client.js';
import { makeJpeg, makePdf, makePng, makeSvg, makeXmlSvg, makeZip } from './support/fixtures.js';
import { openS3AndRedis } from './support/forms.js';
import { sendHalf } from './support/half-open.js';
import { storageKeyOf } from './support/objects.js';
import { runPasses } from './support/passes.js';
import { begin, expectProblem, filesOf, post, streamOf } from './support/plain-client.js';
import { type Processes, startProcesses } from './support/processes.js';
import { problemOf, send } from './support/sign-in.js';
import { until } from './support/until.js';
import { setRoom } from './support/users.js';

const SECRET = 'a secret of this test, long enough for a key';
const MAX = 8 * 1024 ** 2;

let form: Awaited<ReturnType<typeof openS3AndRedis>>;
let processes: Processes;
let owner: TestUser;

beforeAll(async () => {
  form = await openS3AndRedis();
  const env = { ...form.env, JWT_SECRET: SECRET, MAX_UPLOAD_SIZE: String(MAX) };
  processes = await startProcesses(env, ['server', 'server-2', 'worker']);
  owner = await registerUser(() => processes.url);
});
afterAll(async () => {
  await processes?.close();
  await form?.close();
});

interface Limits {
  label?: string;
  maxSize?: number;
  types?: string[];
  expiresAt?: string;
}

/** A guest with an upload token and no account. */
interface Guest extends TestUser {
  tokenId: string;
}

async function invite(limits: Limits = {}, of = owner): Promise<Guest> {
  const made = await send(of, 'POST', '/api/upload-tokens', limits);
  if (made.status !== 201) throw new Error(`token: ${made.status} ${await made.text()}`);
  const { id, token } = await made.json();
  return { ...useAccount(of, token, () => processes.url), tokenId: id };
}

const revoke = async ({ tokenId }: Guest, of = owner) => {
  const answer = await of.fetch(`/api/upload-tokens/${tokenId}`, { method: 'DELETE' });
  expect(answer.status).toBe(204);
};

const expire = ({ tokenId }: Guest) =>
  processes.database.query(
    `UPDATE upload_tokens SET expires_at = now() - interval '1 second' WHERE id = $1`,
    [tokenId],
  );

async function tokenOf({ tokenId }: Guest) {
  const { items } = await owner.get('/api/upload-tokens');
  return items.find(({ id }: { id: string }) => id === tokenId);
}

const create = (guest: TestUser, length: number, metadata: Record<string, string> = {}) =>
  guest.tus('POST', '/uploads', {
    'Upload-Length': String(length),
    ...(Object.keys(metadata).length > 0 ? { 'Upload-Metadata': encodeMetadata(metadata) } : {}),
  });

describe('a token sends one file into the account of its maker', () => {
  test('by tus, which goes on after a break', async () => {
    const guest = await invite({ label: 'the plumber', maxSize: 4_000_000, types: ['image/*'] });
    const content = await makePng({ width: 700, height: 500 });
    const metadata = { filename: 'leak.png', filetype: 'image/png' };
    const url = await new Promise<string>((resolve, reject) => {
      const upload = new tus.Upload(content, {
        endpoint: `${processes.url}/uploads`,
        headers: { Authorization: `Bearer ${guest.token}` },
        chunkSize: 1000,
        metadata,
        onError: reject,
        onChunkComplete: (_size, sent) => {
          if (sent >= 2000) void upload.abort().then(() => resolve(upload.url ?? ''));
        },
      });
      upload.start();
    });
    const id = idOf(url);
    const list = await guest.get('/api/uploads');
    expect(list.items.map((item: { id: string }) => item.id)).toEqual([id]);
    expect(await guest.get(`/api/uploads/${id}`)).toMatchObject({ id, length: content.length });
    await guest.tusUpload(content, { uploadUrl: url });

    const file = await expectCompletedOnce(processes, owner, id, content);
    expect(file).toMatchObject({ filename: 'leak.png', detectedType: 'image/png' });
    expect((await owner.get('/api/files')).items[0].id).toBe(id);
    expect(await tokenOf(guest)).toMatchObject({
      label: 'the plumber',
      uploadId: id,
      usedAt: expect.any(String),
    });
    const { rows } = await processes.database.query(
      `SELECT actor FROM all_events WHERE subject_id = $1 AND type IN ('upload.created', 'file.created')`,
      [id],
    );
    expect(rows.map(({ actor }) => [actor.uploadTokenId, actor.userId])).toEqual([
      [guest.tokenId, owner.id],
      [guest.tokenId, owner.id],
    ]);
  });

  test('by a plain POST', async () => {
    const guest = await invite();
    const content = await makeJpeg({ width: 60, height: 40 });
    const [file] = await filesOf(await post(guest, content, {}, '?filename=a.jpg'));
    await expectCompletedOnce(processes, owner, file?.id ?? '', content);
    expect((await post(guest, 'again')).status).toBe(401);
  });

  test('by a form, which may not hold a second one', async () => {
    const guest = await invite();
    const data = new FormData();
    data.append('a', new Blob(['first']), 'a.txt');
    data.append('b', new Blob(['second']), 'b.txt');
    const before = await usageOf(owner);
    const answer = await post(guest, data);
    const problem = await answer.json();
    expect([answer.status, problem.code]).toEqual([403, 'forbidden']);
    expect(problem.detail).toMatch(/one file/);
    const [id = ''] = problem.detail.match(/[0-9a-f-]{36}/) ?? [];
    expect(await owner.settled(id)).toMatchObject({ filename: 'a.txt', status: 'completed', size: 5 });
    expect(await usageOf(owner)).toEqual({ bytes: before.bytes + 5, files: before.files + 1 });
  });

  test('straight to S3, and does not get to read it afterwards', async () => {
    const guest = await invite({ maxSize: 100_000, types: ['image/png'] });
    const content = await makePng({ width: 90, height: 60 });
    const wanted = { size: content.length, filename: 'direct.png', type: 'image/png' };
    expect((await send(guest, 'POST', '/api/uploads/presign', { ...wanted, size: 100_001 })).status).toBe(
      413,
    );
    expect((await send(guest, 'POST', '/api/uploads/presign', { ...wanted, type: 'text/html' })).status).toBe(
      422,
    );
    const signed = await (await send(guest, 'POST', '/api/uploads/presign', wanted)).json();
    expect((await send(guest, 'POST', '/api/uploads/presign', wanted)).status).toBe(401);
    expect((await send(guest, 'POST', '/api/uploads/presign', { id: signed.id })).status).toBe(200);
    const sent = await fetch(signed.parts[0].url, { method: 'PUT', body: new Uint8Array(content) });
    expect(sent.status).toBe(200);
    const stranger = await invite();
    expect((await send(stranger, 'POST', '/api/uploads/complete', { id: signed.id })).status).toBe(404);
    expect((await send(guest, 'POST', '/api/uploads/complete', { id: signed.id })).status).toBe(201);
    await expectCompletedOnce(processes, owner, signed.id, content);
    const again = await send(guest, 'POST', '/api/uploads/complete', { id: signed.id });
    expect([again.status, (await again.json()).links]).toEqual([201, undefined]);
    const mine = await send(owner, 'POST', '/api/uploads/complete', { id: signed.id });
    expect((await mine.json()).links.content).toMatch(/\?token=/);
  });
});

describe('single use', () => {
  test('a token makes one upload, also when twenty requests come at once to two servers', async () => {
    const guest = await invite();
    const there = guest.at(() => processes.urlOf('server-2'));
    const before = await usageOf(owner);
    const content = randomBytes(1000);
    const answers = await Promise.all(
      Array.from({ length: 20 }, (_, i) => {
        const at = i % 2 === 0 ? guest : there;
        if (i % 3 === 0) return create(at, content.length);
        if (i % 3 === 1) return post(at, content);
        return send(at, 'POST', '/api/uploads/presign', { size: content.length });
      }),
    );
    const statuses = answers.map(({ status }) => status).sort();
    expect(statuses.slice(1)).toEqual(Array(19).fill(401));
    expect([200, 201]).toContain(statuses[0]);
    const { rows } = await processes.database.query('SELECT id FROM uploads WHERE upload_token_id = $1', [
      guest.tokenId,
    ]);
    expect(rows).toHaveLength(1);
    expect(await usageOf(owner)).toEqual({ bytes: before.bytes + 1000, files: before.files + 1 });
  });

  test('a plain upload that could not be finished may be tried again', async () => {
    const guest = await invite({ maxSize: 1000 });
    const before = await usageOf(owner);
    const tooLarge = await post(guest, streamOf(randomBytes(1001)));
    expect(tooLarge.status).toBe(413);
    const wrong = await post(guest, 'words', {}, `?sha256=${'0'.repeat(64)}`);
    expect(wrong.status).toBe(422);
    expect(await tokenOf(guest)).toMatchObject({ usedAt: null, uploadId: null });
    expect(await usageOf(owner)).toEqual(before);
    const [file] = await filesOf(await post(guest, 'words'));
    expect(await tokenOf(guest)).toMatchObject({ usedAt: expect.any(String), uploadId: file?.id });
    expect((await post(guest, 'words')).status).toBe(401);
  });

  test('an upload that its own client ends uses the token up', async () => {
    const guest = await invite();
    const before = await usageOf(owner);
    const path = `/uploads/${idOf((await create(guest, 10)).headers.get('Location') ?? '')}`;
    expect((await guest.tus('DELETE', path)).status).toBe(204);
    expect((await create(guest, 10)).status).toBe(401);
    expect(await usageOf(owner)).toEqual(before);
  });

  test('a finished upload belongs to the maker of the token: the token cannot delete it', async () => {
    const guest = await invite();
    const id = await guest.upload(Buffer.from('kept'));
    await owner.settled(id);
    expect((await guest.tus('DELETE', `/uploads/${id}`)).status).toBe(403);
    const made = await send(owner, 'POST', '/api/keys', { name: 'sender', scopes: ['upload'] });
    const sender = useAccount(owner, (await made.json()).key, () => processes.url);
    expect((await sender.tus('DELETE', `/uploads/${id}`)).status).toBe(403);
    expect((await owner.get(`/api/files/${id}`)).size).toBe(4);
    expect((await owner.tus('DELETE', `/uploads/${id}`)).status).toBe(204);
  });
});

const jpeg = () => makeJpeg({ width: 30, height: 20 });

describe('limits', () => {
  test('a size that is declared and too large is refused, and the token is not used up', async () => {
    const guest = await invite({ maxSize: 100 });
    expect((await create(guest, 101)).status).toBe(413);
    expect((await post(guest, 'x'.repeat(101))).status).toBe(413);
    expect((await create(guest, 100)).status).toBe(201);
  });

  test('a creation whose body is too large is refused, and the token is not used up', async () => {
    const guest = await invite({ maxSize: 100 });
    const headers = { 'Upload-Defer-Length': '1', 'Content-Type': 'application/offset+octet-stream' };
    expect((await guest.tus('POST', '/uploads', headers, randomBytes(101))).status).toBe(413);
    expect((await create(guest, 100)).status).toBe(201);
  });

  test('a deferred length is cut at the limit', async () => {
    const guest = await invite({ maxSize: 100_000 });
    const path = await guest.create(null);
    const first = await guest.tus('PATCH', path, { 'Upload-Offset': '0' }, randomBytes(100_001));
    expect(first.status).toBe(413);
    const offset = Number((await guest.tus('HEAD', path)).headers.get('Upload-Offset'));
    expect(offset).toBeLessThanOrEqual(100_000);
    const declared = await guest.tus('PATCH', path, {
      'Upload-Offset': String(offset),
      'Upload-Length': '100001',
    });
    expect(declared.status).toBe(413);
    const rest = randomBytes(100_000 - offset);
    const headers = { 'Upload-Offset': String(offset), 'Upload-Length': '100000' };
    expect((await guest.tus('PATCH', path, headers, rest)).status).toBe(204);
    expect(await findUpload(processes, idOf(path))).toMatchObject({ status: 'finished', offset: 100_000 });
  });

  test('the quota of the maker and MAX_UPLOAD_SIZE hold', async () => {
    const small = await registerUser(() => processes.url);
    await setRoom(processes.database, small.id, { bytes: 1000 });
    const guest = await invite({}, small);
    expect((await create(guest, 1001)).status).toBe(413);
    expect((await post(guest, 'x'.repeat(1001))).status).toBe(413);
    expect((await create(await invite(), MAX + 1)).status).toBe(413);
    expect((await post(guest, 'x'.repeat(1000))).status).toBe(201);
  });

  test('a type that is declared and not allowed is refused, and the token is not used up', async () => {
    const guest = await invite({ types: ['image/*', 'application/pdf'] });
    for (const answer of [
      await create(guest, 10, { filetype: 'text/html' }),
      await post(guest, 'x', { 'Content-Type': 'text/html' }),
    ]) {
      expect(answer.status).toBe(422);
      expect(await answer.text()).toMatch(/image\/\*, application\/pdf/);
    }
    expect((await create(guest, 10, { filetype: 'IMAGE/PNG' })).status).toBe(201);
    // Clients that do not know the type send these.
    const other = await invite({ types: ['image/jpeg'] });
    expect((await create(other, 10, { filetype: 'application/octet-stream' })).status).toBe(201);
  });

  test.each<[string, string[], string | undefined, () => Promise<Buffer> | Buffer]>([
    ['a JPEG that says so', ['image/jpeg'], 'image/jpeg', jpeg],
    ['a JPEG that says nothing', ['image/*'], undefined, jpeg],
    ['a JPEG under its other name', ['image/jpg'], 'image/jpg', jpeg],
    ['a table that says so', ['text/csv'], 'text/csv', () => Buffer.from('a;b\n1;2\n')],
    ['text that says nothing', ['text/plain'], undefined, () => Buffer.from('words')],
    ['a format that nobody knows', ['application/x-own'], 'application/x-own', () => randomBytes(100)],
    ['an SVG without an XML declaration', ['image/*'], 'image/svg+xml', makeSvg],
    ['an SVG with one', ['image/svg+xml'], 'image/svg+xml', makeXmlSvg],
    ['an archive that is declared as a document', ['application/epub+zip'], 'application/epub+zip', makeZip],
    ['nothing at all', ['text/csv'], 'text/csv', () => Buffer.alloc(0)],
  ])('%s is taken where %j are allowed', async (_name, types, type, make) => {
    const content = await make();
    const id = await (await invite({ types })).upload(content, type === undefined ? {} : { filetype: type });
    await expectCompletedOnce(processes, owner, id, content);
  });

  test.each<[string, string[], string | undefined, () => Promise<Buffer> | Buffer, RegExp]>([
    ['an archive that says it is an image', ['image/*'], 'image/png', makeZip, /application\/zip/],
    ['an archive that says nothing', ['image/*'], undefined, makeZip, /application\/zip/],
    ['an image that says it is a table', ['text/csv'], 'text/csv', jpeg, /image\/jpeg/],
    ['text that says it is an image', ['image/*'], 'image/png', () => Buffer.from('<script>'), /text\/plain/],
    ['text that says nothing', ['image/*'], undefined, () => Buffer.from('words'), /text\/plain/],
    ['noise that says it is an image', ['image/*'], 'image/png', () => randomBytes(100), /no known type/],
    ['nothing that says it is an image', ['image/*'], 'image/png', () => Buffer.alloc(0), /no known type/],
  ])('%s fails where %j are allowed, and is never served', async (_name, types, type, make, found) => {
    const id = await (await invite({ types })).upload(
      await make(),
      type === undefined ? {} : { filetype: type },
    );
    const file = await owner.settled(id);
    expect(file).toMatchObject({ status: 'failed', error: { step: 'sniff', code: 'type_not_allowed' } });
    expect(file.error?.detail).toMatch(found);
    expect(file.attempts).toBe(1);
    expect(file.links).toEqual({ content: null, image: null, thumbnails: null });
    expect((await owner.fetch(`/api/files/${id}/content`)).status).toBe(409);
    expect(await findFile(processes, id)).toMatchObject({ clean: false });
  });
});

describe('a refusal for the type of the content', () => {
  const text = Buffer.from('BM <script>alert(1)</script>');
  const outcomeOf = async (guest: Guest, id: string) => {
    const answer = await guest.fetch(`/api/uploads/${id}`);
    return [answer.status, (await answer.json()).file];
  };
  const REFUSED = {
    status: 'failed',
    error: { step: 'sniff', code: 'type_not_allowed', detail: expect.any(String) },
  };

  test.each<[string, string[], () => Promise<Buffer> | Buffer]>([
    ['text that begins as a bitmap', ['image/*'], () => text],
    ['a table of Excel', ['audio/*'], () => Buffer.from('\uFEFFName;City\r\n', 'utf16le')],
    ['a PDF', ['image/*'], makePdf],
    ['an archive', ['image/png', 'image/jpeg'], makeZip],
    ['a picture', ['application/pdf'], jpeg],
  ])('answers a plain POST of %s where %j are allowed, and leaves nothing', async (_name, types, make) => {
    const guest = await invite({ types });
    const before = await usageOf(owner);
    const files = (await owner.get('/api/files')).items.length;
    const answer = await post(guest, await make(), {}, '?filename=a');
    await expectProblem(answer, 422, 'type_not_allowed');
    const data = new FormData();
    data.append('a', new Blob([new Uint8Array(await make())]), 'a');
    await expectProblem(await post(guest, data), 422, 'type_not_allowed');
    expect(await usageOf(owner)).toEqual(before);
    expect((await owner.get('/api/files')).items).toHaveLength(files);
    expect(await tokenOf(guest)).toMatchObject({ usedAt: null, uploadId: null });
  });

  test('is the answer although the decoder or the form is ended in the middle', async () => {
    const guest = await invite({ types: ['image/*'] });
    const long = Buffer.concat([text, randomBytes(2 * 1024 ** 2)]);
    const coded = await post(guest, gzipSync(long), { 'Content-Encoding': 'gzip' }, '?filename=a');
    await expectProblem(coded, 422, 'type_not_allowed');
    const data = new FormData();
    data.append('a', new Blob([new Uint8Array(long)]), 'a');
    await expectProblem(await post(guest, data), 422, 'type_not_allowed');
  });

  test('comes before the rest of the body', async () => {
    const guest = await invite({ types: ['image/*'] });
    const outgoing = begin(processes.url, guest, { 'Content-Length': '5000000' });
    const answered = once(outgoing, 'response') as Promise<[IncomingMessage]>;
    outgoing.write(text.toString().padEnd(4000));
    const [answer] = await answered;
    expect(answer.statusCode).toBe(422);
    outgoing.destroy();
  });

  test('takes allowed types, in pieces of any size', async () => {
    const archive = makeArchive([
      { name: 'word/media/image1.png', content: randomBytes(200_000) },
      { name: 'word/document.xml', content: Buffer.from('<w:document/>') },
      { name: '[Content_Types].xml', content: Buffer.from('<Types/>') },
    ]);
    const WORD = 'application/vnd.openxmlformats-officedocument.wordprocessingml.document';
    const pdf = Buffer.concat([Buffer.from('\r\n'), makePdf()]);
    for (const [content, type, size] of [
      [archive, WORD, 70_001],
      [archive, WORD, 3000],
      [pdf, 'application/pdf', 7],
      [await jpeg(), 'image/jpeg', 100],
    ] as const) {
      const guest = await invite({ types: [type] });
      const [file] = await filesOf(await post(guest, streamOf(content, size), {}, '?filename=a'));
      const found = await expectCompletedOnce(processes, owner, file?.id ?? '', content);
      expect(found.detectedType).toBe(type);
    }
  });

  test('reaches the guest over tus, who learns nothing else of the upload and may try again', async () => {
    const guest = await invite({ types: ['image/*'] });
    const before = await usageOf(owner);
    const ids: string[] = [];
    for (let i = 0; i < 3; i++) {
      const id = await guest.upload(text, { filename: 'me.bmp', filetype: 'image/bmp' });
      expect(await owner.settled(id)).toMatchObject(REFUSED);
      expect(await outcomeOf(guest, id)).toEqual([200, REFUSED]);
      ids.push(id);
    }
    // However often the guest tries, one refused file is kept.
    expect(await usageOf(owner)).toEqual({ bytes: before.bytes + text.length, files: before.files + 1 });
    for (const id of ids.slice(0, -1)) {
      expect((await outcomeOf(guest, id))[0]).toBe(404);
      expect((await owner.tus('HEAD', `/uploads/${id}`)).status).toBe(410);
    }
    expect(await tokenOf(guest)).toMatchObject({ usedAt: null, uploadId: ids.at(-1) });

    const content = await jpeg();
    const id = await guest.upload(content, { filename: 'me.jpg', filetype: 'image/jpeg' });
    await expectCompletedOnce(processes, owner, id, content);
    expect(await outcomeOf(guest, id)).toEqual([200, { status: 'completed', error: null }]);
    expect(await tokenOf(guest)).toMatchObject({ usedAt: expect.any(String), uploadId: id });
    expect((await create(guest, 10)).status).toBe(401);
    expect(await usageOf(owner)).toEqual({ bytes: before.bytes + content.length, files: before.files + 1 });
    await expectBooksRight(processes.database);
  });

  test('reaches only that guest, also when the token has expired', async () => {
    const guest = await invite({ types: ['image/*'] });
    const id = await guest.upload(text);
    await owner.settled(id);
    await expire(guest);
    expect(await outcomeOf(guest, id)).toEqual([200, REFUSED]);
    expect((await create(guest, 10)).status).toBe(401);
    expect((await outcomeOf(await invite(), id))[0]).toBe(404);
    await revoke(guest);
    expect((await outcomeOf(guest, id))[0]).toBe(401);
  });

  test('gives the token back once, and the next upload uses it up', async () => {
    const guest = await invite({ types: ['image/*'] });
    await owner.settled(await guest.upload(text));
    const content = await jpeg();
    const answers = await Promise.all(
      Array.from({ length: 6 }, (_, i) =>
        i % 2 === 0 ? create(guest, content.length) : post(guest, content),
      ),
    );
    expect(answers.map(({ status }) => status).sort()).toEqual([201, 401, 401, 401, 401, 401]);
    await expectBooksRight(processes.database);
  });

  test('gives the token back only if the content is the reason', async () => {
    const guest = await invite({ types: ['text/plain'] });
    const id = await guest.upload(Buffer.from('words'), { sha256: '0'.repeat(64) });
    await owner.settled(id);
    expect(await outcomeOf(guest, id)).toEqual([
      200,
      { status: 'failed', error: expect.objectContaining({ code: 'checksum_mismatch' }) },
    ]);
    expect((await create(guest, 10)).status).toBe(401);
  });
});

describe('time', () => {
  test('a token that has expired unused opens nothing', async () => {
    const guest = await invite();
    await expire(guest);
    for (const answer of [
      await create(guest, 10),
      await post(guest, 'x'),
      await guest.fetch('/api/uploads'),
    ]) {
      expect(answer.status).toBe(401);
    }
  });

  test('an upload that was begun in time goes on', async () => {
    const guest = await invite();
    const path = `/uploads/${idOf((await create(guest, 6)).headers.get('Location') ?? '')}`;
    expect((await guest.tus('PATCH', path, { 'Upload-Offset': '0' }, 'abc')).status).toBe(204);
    await expire(guest);
    expect((await guest.tus('HEAD', path)).headers.get('Upload-Offset')).toBe('3');
    expect((await guest.tus('PATCH', path, { 'Upload-Offset': '3' }, 'def')).status).toBe(204);
    await expectCompletedOnce(processes, owner, idOf(path), Buffer.from('abcdef'));
  });

  test('a token that is revoked opens nothing any more, also in the middle of its upload', async () => {
    const unused = await invite();
    await revoke(unused);
    const guest = await invite();
    const path = `/uploads/${idOf((await create(guest, 6)).headers.get('Location') ?? '')}`;
    expect((await guest.tus('PATCH', path, { 'Upload-Offset': '0' }, 'abc')).status).toBe(204);
    await revoke(guest);
    const answers = [
      await create(unused, 10),
      await create(guest, 10),
      await post(guest, 'x'),
      await guest.tus('HEAD', path),
      await guest.tus('PATCH', path, { 'Upload-Offset': '3' }, 'def'),
      await guest.tus('DELETE', path),
      await guest.fetch('/api/uploads'),
    ];
    expect(answers.map(({ status }) => status)).toEqual(Array(7).fill(401));
    expect((await owner.tus('HEAD', path)).status).toBe(410);
  });

  test('revoking a token ends its unfinished upload: room, bytes and name are gone', async () => {
    const maker = await registerUser(() => processes.url);
    await setRoom(processes.database, maker.id, { bytes: 5_000_000 });
    const guest = await invite({}, maker);
    const metadata = { 'Upload-Metadata': encodeMetadata({ filename: 'all-of-it.bin' }) };
    const path = await guest.create(5_000_000, metadata);
    const id = idOf(path);
    expect((await guest.tus('PATCH', path, { 'Upload-Offset': '0' }, randomBytes(100_000))).status).toBe(204);
    const storageKey = await storageKeyOf(processes, id);
    const isStored = async () => (await form.listStored(processes)).some((key) => key.startsWith(storageKey));
    expect([(await create(maker, 1)).status, await isStored()]).toEqual([413, true]);

    await revoke(guest, maker);
    expect(await usageOf(maker)).toEqual({ bytes: 0, files: 0 });
    expect((await create(maker, 5_000_000)).status).toBe(201);
    expect(await findUpload(processes, id)).toMatchObject({ status: 'terminated', metadata: {} });
    expect(await timeline(processes, id)).toEqual(['upload.created', 'upload.terminated']);
    const { rows } = await processes.database.query(
      `SELECT type, actor FROM all_events WHERE subject_id = ANY ($1) AND actor ->> 'userId' = $2 ORDER BY id DESC LIMIT 2`,
      [[id, guest.tokenId], maker.id],
    );
    expect(rows.map(({ type, actor }) => [type, actor.uploadTokenId])).toEqual([
      ['upload_token.revoked', undefined],
      ['upload.terminated', undefined],
    ]);
    await runPasses(processes, async () => !(await isStored()));
    await expectBooksRight(processes.database);
  });

  test('a file that was finished before its token is revoked stays', async () => {
    const guest = await invite();
    const id = await guest.upload(Buffer.from('kept'));
    await revoke(guest);
    await expectCompletedOnce(processes, owner, id, Buffer.from('kept'));
  });

  test('a token revoked at any moment of an upload leaves a whole file or nothing', async () => {
    const ways: ((guest: Guest, path: string) => Promise<Response>)[] = [
      (guest, path) => guest.tus('PATCH', path, { 'Upload-Offset': '3' }, 'def'),
      (guest, path) => guest.tus('HEAD', path),
      (guest, path) => guest.tus('DELETE', path),
      (_guest, path) => owner.tus('DELETE', path),
    ];
    const before = await usageOf(owner);
    const ids = await Promise.all(
      Array.from({ length: 24 }, async (_, index) => {
        const guest = await invite();
        const path = await guest.create(6);
        expect((await guest.tus('PATCH', path, { 'Upload-Offset': '0' }, 'abc')).status).toBe(204);
        const way = ways[index % ways.length] as (typeof ways)[number];
        const [answer] = await Promise.all([way(guest, path), revoke(guest)]);
        expect(answer.status).toBeLessThan(500);
        return idOf(path);
      }),
    );
    const plain = await Promise.all(
      Array.from({ length: 8 }, async () => {
        const guest = await invite();
        const [answer] = await Promise.all([post(guest, 'words'), revoke(guest)]);
        expect(answer.status).toBeLessThan(500);
        return guest.tokenId;
      }),
    );
    const { rows } = await processes.database.query(
      `SELECT uploads.id, uploads.status, files.size::integer FROM uploads LEFT JOIN files USING (id)
       WHERE uploads.id = ANY ($1) OR upload_token_id = ANY ($2)`,
      [ids, plain],
    );
    const files = rows.filter(({ status, size }) => status === 'finished' && size !== null);
    const ended = rows.filter(({ status, size }) => status === 'terminated' && size === null);
    expect(files.length + ended.length).toBe(rows.length);
    await expectBooksRight(processes.database);
    expect(await usageOf(owner)).toEqual({
      bytes: before.bytes + files.reduce((sum, { size }) => sum + size, 0),
      files: before.files + files.length,
    });
  });

  test('a PATCH that is under way when its token is revoked makes no file', async () => {
    const guest = await invite();
    const content = randomBytes(100_000);
    const path = `/uploads/${idOf((await create(guest, content.length)).headers.get('Location') ?? '')}`;
    const body = { offset: 0, length: content.length, sent: content.subarray(0, 50_000) };
    const half = sendHalf(processes.url, guest, path, body);
    const answered = once(half, 'response') as Promise<[IncomingMessage]>;
    await until('the lease to be held', async () => (await findUpload(processes, idOf(path))).lease_holder);
    const before = await usageOf(owner);
    await revoke(guest);
    expect(await usageOf(owner)).toEqual({ bytes: before.bytes - content.length, files: before.files - 1 });
    half.end(content.subarray(50_000));
    const [answer] = await answered;
    // Not 423, after which clients come again.
    expect(answer.statusCode).toBe(410);
    expect(await findFile(processes, idOf(path))).toBeUndefined();
    // Bytes that came after the revocation are deleted too.
    const storageKey = await storageKeyOf(processes, idOf(path));
    await runPasses(processes, async () => {
      const { untidy, discarded_at } = await findUpload(processes, idOf(path));
      const stored = await form.listStored(processes);
      return discarded_at && !untidy && !stored.some((key) => key.startsWith(storageKey));
    });
  });

  test('a plain upload that is under way when its token is revoked makes no file', async () => {
    const guest = await invite();
    const sending = begin(processes.url, guest, { 'Content-Length': '6' });
    const answered = once(sending, 'response') as Promise<[IncomingMessage]>;
    sending.write('abc');
    const id = await until('the upload', async () => (await guest.get('/api/uploads')).items[0]?.id);
    await revoke(guest);
    sending.end('def');
    const [answer] = await answered;
    // Not 423, after which clients come again.
    expect(answer.statusCode).toBe(410);
    expect(await timeline(processes, id)).toEqual(['upload.created', 'upload.terminated']);
    expect(await findFile(processes, id)).toBeUndefined();
    expect((await post(guest, 'again')).status).toBe(401);
  });
});

describe('a token sees nothing else', () => {
  test('neither uploads of its maker nor of another token', async () => {
    const [guest, other] = [await invite(), await invite()];
    const mine = await owner.create(10);
    const theirs = await other.create(10);
    const own = await guest.create(10);
    for (const path of [mine, theirs]) {
      expect((await guest.tus('HEAD', path)).status).toBe(404);
      expect((await guest.tus('PATCH', path, { 'Upload-Offset': '0' }, 'x')).status).toBe(404);
      expect((await guest.tus('DELETE', path)).status).toBe(404);
      expect((await guest.fetch(`/api/uploads/${idOf(path)}`)).status).toBe(404);
      expect((await send(guest, 'POST', '/api/uploads/presign', { id: idOf(path) })).status).toBe(404);
      expect((await send(guest, 'POST', '/api/uploads/complete', { id: idOf(path) })).status).toBe(404);
      const events = await timeline(processes, idOf(path));
      expect(events.filter((type) => type !== 'access')).toEqual(['upload.created']);
    }
    const { items } = await guest.get('/api/uploads');
    expect(items.map(({ id }: { id: string }) => id)).toEqual([idOf(own)]);
    const all = (await owner.get('/api/uploads')).items.map(({ id }: { id: string }) => id);
    expect(all).toEqual(expect.arrayContaining([mine, theirs, own].map(idOf)));
  });

  test.each([
    ['GET', '/api/files'],
    ['GET', '/api/files/ID'],
    ['GET', '/api/files/ID/status'],
    ['GET', '/api/files/ID/events'],
    ['GET', '/api/files/ID/content'],
    ['DELETE', '/api/files/ID'],
    ['GET', '/api/me'],
    ['GET', '/api/keys'],
    ['POST', '/api/keys'],
    ['GET', '/api/upload-tokens'],
    ['POST', '/api/upload-tokens'],
    ['GET', '/api/admin/users'],
  ])('%s %s is forbidden', async (method, path) => {
    const guest = await invite();
    const id = await guest.upload(Buffer.from('x'));
    const answer = await guest.fetch(path.replace('ID', id), { method });
    expect([answer.status, (await answer.json()).code]).toEqual([403, 'forbidden']);
  });

  test('a token without a valid signature of this server is refused without a query', async () => {
    const { uploadToken, access } = deriveKeys(SECRET);
    const guest = await invite();
    const [head, payload, signature] = guest.token.slice('lfu_'.length).split('.');
    const jwtid = guest.tokenId;
    const none = Buffer.from(JSON.stringify({ alg: 'none', typ: 'JWT' })).toString('base64url');
    const other = Buffer.from(JSON.stringify({ jti: uuidv7() })).toString('base64url');
    const forged = [
      `lfu_${head}.${payload}.${signature?.split('').reverse().join('')}`,
      `lfu_${head}.${other}.${signature}`,
      `lfu_${none}.${payload}.`,
      `lfu_${jwt.sign({}, access, { algorithm: 'HS256', jwtid })}`,
      `lfu_${jwt.sign({}, deriveKeys('another installation').uploadToken, { algorithm: 'HS256', jwtid })}`,
      `lfu_${jwt.sign({}, uploadToken, { algorithm: 'HS512', jwtid })}`,
      `lfu_${jwt.sign({}, uploadToken, { algorithm: 'HS256', jwtid: "' OR 1=1" })}`,
      `lfu_${jwt.sign({}, uploadToken, { algorithm: 'HS256' })}`,
      `lfu_${owner.token}`,
      guest.token.slice('lfu_'.length),
      'lfu_',
    ];
    // A query for the token has to wait for this lock.
    const holder = await processes.database.connect();
    await holder.query('BEGIN');
    await holder.query('LOCK upload_tokens IN ACCESS EXCLUSIVE MODE');
    for (const token of forged) {
      const answer = await post(
        useAccount(owner, token, () => processes.url),
        'x',
      );
      expect([token, answer.status]).toEqual([token, 401]);
    }
    const waiting = post(guest, 'x');
    await until('the real one to ask', async () => {
      const { rows } = await processes.database.query(
        `${WAITING_FOR_LOCKS} AND query LIKE '%upload_tokens%'`,
      );
      return rows.length > 0;
    });
    await holder.query('ROLLBACK');
    expect((await waiting).status).toBe(201);
  });

  test('a token of a disabled account opens nothing', async () => {
    const leaver = await registerUser(() => processes.url);
    const guest = await invite({}, leaver);
    await processes.database.query('UPDATE users SET disabled_at = now() WHERE id = $1', [leaver.id]);
    expect((await post(guest, 'x')).status).toBe(401);
  });
});

test('the answer to a plain upload says what was stored, and no more', async () => {
  const guest = await invite();
  const [file] = await filesOf(
    await post(guest, 'words', { 'Content-Type': 'text/plain' }, '?filename=w.txt'),
  );
  const { etaSeconds, ...told } = file ?? {};
  // Null if no file of this type was processed before.
  expect(etaSeconds === null || Number.isInteger(etaSeconds)).toBe(true);
  expect(told).toEqual({
    id: expect.any(String),
    filename: 'w.txt',
    size: 5,
    declaredType: 'text/plain',
    status: 'pending',
    createdAt: expect.any(String),
    sha256: createHash('sha256').update('words').digest('hex'),
  });
});

test('all unused tokens of a user are listed, and there are at most a thousand', async () => {
  const maker = await registerUser(() => processes.url);
  const first = await (await send(maker, 'POST', '/api/upload-tokens', { label: 'the first' })).json();
  await processes.database.query(
    `INSERT INTO upload_tokens (id, owner_id, expires_at, used_at)
     SELECT gen_random_uuid(), $1, now() + interval '1 hour', CASE WHEN n > 998 THEN now() END
     FROM generate_series(1, 1500) AS n`,
    [maker.id],
  );
  const ids = async () =>
    (await maker.get('/api/upload-tokens')).items.map(({ id }: { id: string }) => id) as string[];
  expect(await ids()).toContain(first.id);
  expect((await send(maker, 'POST', '/api/upload-tokens', {})).status).toBe(201);
  expect(await problemOf(await send(maker, 'POST', '/api/upload-tokens', {}))).toEqual([409, 'wrong_state']);
  expect((await maker.fetch(`/api/upload-tokens/${first.id}`, { method: 'DELETE' })).status).toBe(204);
  expect((await send(maker, 'POST', '/api/upload-tokens', {})).status).toBe(201);
  const late = { expiresAt: new Date(Date.now() + 400 * 86_400_000).toISOString() };
  expect(await problemOf(await send(maker, 'POST', '/api/upload-tokens', late))).toEqual([
    400,
    'invalid_request',
  ]);
});

test('tokens made at the same moment do not exceed the thousand either', async () => {
  const maker = await registerUser(() => processes.url);
  await processes.database.query(
    `INSERT INTO upload_tokens (id, owner_id, expires_at)
     SELECT gen_random_uuid(), $1, now() + interval '1 hour' FROM generate_series(1, 999)`,
    [maker.id],
  );
  const barrier = await closeBarrier(
    processes.database,
    'INSERT ON upload_tokens',
    `NEW.owner_id = '${maker.id}'`,
  );
  const attempts = Promise.all(
    (['server', 'server-2', 'server'] as const).map((part) => {
      const as = maker.at(() => processes.urlOf(part));
      return send(as, 'POST', '/api/upload-tokens', {});
    }),
  );
  await waitingForLocks(processes.database, 3);
  await barrier.open();
  expect((await attempts).map(({ status }) => status).sort()).toEqual([201, 409, 409]);
});

test('few of many HEADs for a plain upload wait for its end; the others get 423 at once', async () => {
  const guest = await invite();
  const sending = begin(processes.url, guest, { 'Content-Length': '6' });
  const sent = once(sending, 'response') as Promise<[IncomingMessage]>;
  sending.write('abc');
  const id = await until('the upload', async () => (await guest.get('/api/uploads')).items[0]?.id);

  const many = 2 * MAX_WAITING;
  const there = guest.at(() => processes.urlOf('server-2'));
  const statuses: number[] = [];
  const asked = [guest, there].flatMap((at) =>
    Array.from({ length: many }, async () => {
      const { status } = await at.tus('HEAD', `/uploads/${id}`);
      statuses.push(status);
    }),
  );
  await until('those that are too many are told', () => statuses.length === 2 * (many - MAX_WAITING));
  expect(new Set(statuses)).toEqual(new Set([423]));
  sending.end('def');
  expect((await sent)[0].statusCode).toBe(201);
  await Promise.all(asked);
  expect(statuses.filter((status) => status === 200)).toHaveLength(2 * MAX_WAITING);
  await expectCompletedOnce(processes, owner, id, Buffer.from('abcdef'));
});
