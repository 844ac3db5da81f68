import { randomUUID } from 'node:crypto';
import { existsSync } from 'node:fs';
import { rename } from 'node:fs/promises';
import { join } from 'node:path';
import { MARKER } from '../core/storage/storage.js';
import { type FileJson, registerUser, type TestUser } from './support/client.js';
import { restore, terminate, trash } from './support/deletions.js';
import { makeJpeg } from './support/fixtures.js';
import { type Processes, startProcesses } from './support/processes.js';

let processes: Processes;
let user: TestUser;
let stranger: TestUser;

beforeAll(async () => {
  processes = await startProcesses();
  user = await registerUser(() => processes.url);
  stranger = await registerUser(() => processes.url);
});

afterAll(() => processes?.close());

const newFile = async (who = user, filename = 'a.txt') => who.upload(Buffer.from(filename), { filename });

/** The id and the path of each blob of a file and of its derivatives. */
async function blobsOf(id: string): Promise<{ id: string; path: string }[]> {
  const { rows } = await processes.database.query(
    `SELECT id, key FROM blobs WHERE id IN (SELECT blob_id FROM files WHERE id = $1
                                            UNION SELECT blob_id FROM derivatives WHERE file_id = $1)`,
    [id],
  );
  return rows.map(({ id, key }) => ({ id, path: join(processes.dataDir, 'blobs', key.slice(0, 2), key) }));
}

async function expectProblem(answer: Response, status: number, code: string) {
  expect(answer.status).toBe(status);
  expect(answer.headers.get('Content-Type')).toBe('application/problem+json; charset=utf-8');
  const problem = await answer.json();
  expect(problem).toMatchObject({ type: 'about:blank', title: expect.any(String), status, code });
  expect(JSON.stringify(problem)).not.toMatch(/node_modules|\/tmp|SELECT| at .+:\d+/);
  return problem;
}

describe('the list', () => {
  let owner: TestUser;
  const ids: string[] = [];

  beforeAll(async () => {
    owner = await registerUser(() => processes.url);
    for (let i = 0; i < 25; i++) ids.unshift(await newFile(owner, `${i}.txt`));
  });

  it('shows everything once, newest first, in pages that stay where they are', async () => {
    const seen: FileJson[] = [];
    const sizes: number[] = [];
    let cursor: string | null = '';
    while (cursor !== null) {
      const page: { items: FileJson[]; nextCursor: string | null } = await owner.get(
        `/api/files?limit=7${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ''}`,
      );
      seen.push(...page.items);
      sizes.push(page.items.length);
      cursor = page.nextCursor;
      // Files that come and go meanwhile do not move the pages.
      await newFile(owner, 'later.txt');
      if (sizes.length === 2) await owner.fetch(`/api/files/${ids[0]}`, { method: 'DELETE' });
    }
    expect(sizes).toEqual([7, 7, 7, 4]);
    expect(seen.map(({ id }) => id)).toEqual(ids);
    expect(seen.map(({ filename }) => filename)).toEqual(ids.map((_, i) => `${24 - i}.txt`));
  });

  it('shows all of many files that came within one millisecond', async () => {
    const quick = await registerUser(() => processes.url);
    const count = 20;
    const made = await Promise.all(Array.from({ length: count }, (_, i) => newFile(quick, `${i}.txt`)));
    // Ids and times in different orders, and two of each time.
    await processes.database.query(
      `UPDATE files SET created_at = timestamptz '2026-05-06 07:08:09.123Z' + place / 2 * interval '7 microseconds'
       FROM (SELECT id, row_number() OVER (ORDER BY md5(id::text)) AS place FROM files WHERE owner_id = $1) AS placed
       WHERE files.id = placed.id`,
      [quick.id],
    );
    const seen: FileJson[] = [];
    let cursor: string | null = '';
    while (cursor !== null) {
      const page: { items: FileJson[]; nextCursor: string | null } = await quick.get(
        `/api/files?limit=1${cursor ? `&cursor=${cursor}` : ''}`,
      );
      seen.push(...page.items);
      cursor = page.nextCursor;
    }
    expect(seen.map(({ id }) => id).sort()).toEqual(made.sort());
  });

  it('has no further page when the last one is just full', async () => {
    const { items } = await owner.get('/api/files?limit=200');
    const page = await owner.get(`/api/files?limit=${items.length}`);
    expect(page).toMatchObject({ nextCursor: null, items: { length: items.length } });
    expect((await owner.get('/api/files')).items.length).toBe(items.length);
  });

  it('is empty for a user without files', async () => {
    expect(await stranger.get('/api/files')).toEqual({ items: [], nextCursor: null });
  });

  it.each([
    'limit=0',
    'limit=201',
    'limit=-1',
    'limit=1.5',
    'limit=many',
    'limit=',
    'limit=1&limit=2',
    'cursor=',
    'cursor=next',
    `cursor=1.${'-'.repeat(36)}`,
    `cursor=1.${'a'.repeat(36)}`,
    `cursor=${'9'.repeat(15)}.${randomUUID()}`,
    `cursor=${'a'.repeat(14_001)}`,
  ])('refuses %s', async (query) => {
    const { detail } = await expectProblem(await user.fetch(`/api/files?${query}`), 400, 'invalid_request');
    expect(detail).toMatch(new RegExp(`^${query.split('=')[0]} in the query: `));
  });

  it('takes the bounds themselves', async () => {
    for (const query of ['limit=1', 'limit=200']) {
      expect((await user.fetch(`/api/files?${query}`)).status).toBe(200);
    }
  });
});

describe('a file', () => {
  it('shows its status and its history', async () => {
    const { id } = await user.settled(await newFile());
    expect(await user.get(`/api/files/${id}/status`)).toEqual({
      status: 'completed',
      step: 'preview',
      progress: 100,
      attempts: 1,
      etaSeconds: 0,
      error: null,
    });
    const { items, nextCursor } = await user.get(`/api/files/${id}/events`);
    expect(nextCursor).toBeNull();
    expect(items[0]).toEqual({
      seq: expect.any(Number),
      subjectId: id,
      type: 'upload.created',
      data: { length: 5 },
      createdAt: expect.stringMatching(/^\d{4}-.*Z$/),
    });
    expect(items.at(-1).type).toBe('file.completed');
  });

  it('waits as pending without a worker', async () => {
    await processes.stop('worker');
    const id = await newFile();
    expect(await user.get(`/api/files/${id}/status`)).toEqual({
      status: 'pending',
      step: null,
      progress: 0,
      attempts: 0,
      // By the files that were completed before.
      etaSeconds: expect.any(Number),
      error: null,
    });
    await processes.start('worker');
    expect((await user.settled(id)).status).toBe('completed');
  });

  it('answers 404 to other users, as do unknown and malformed ids', async () => {
    const id = await newFile();
    await user.settled(id);
    for (const [who, name] of [
      [stranger, id],
      [user, randomUUID()],
      [user, '0'],
      [user, 'x'.repeat(5000)],
      [user, `${id}%00`],
      [user, "1'--"],
    ] as const) {
      for (const path of ['', '/status', '/events', '/content', '/thumbnails/small']) {
        await expectProblem(await who.fetch(`/api/files/${name}${path}`), 404, 'not_found');
      }
      for (const query of ['', '?permanent=1']) {
        const answer = await who.fetch(`/api/files/${name}${query}`, { method: 'DELETE' });
        await expectProblem(answer, 404, 'not_found');
      }
    }
    expect((await user.fetch(`/api/files/${id}/content`, { method: 'HEAD' })).status).toBe(200);
  });

  it('is only for callers with a token', async () => {
    const id = await newFile();
    for (const path of [
      '/api/files',
      `/api/files/${id}`,
      `/api/files/${id}/status`,
      `/api/files/${id}/content`,
    ]) {
      for (const headers of [
        {},
        { Authorization: 'Bearer x.y.z' },
        { Authorization: `Basic ${user.token}` },
      ]) {
        const answer = await fetch(`${processes.url}${path}`, { headers });
        expect(answer.headers.get('WWW-Authenticate')).toBe('Bearer');
        await expectProblem(answer, 401, 'unauthenticated');
      }
    }
  });
});

describe('deleting', () => {
  it('puts a file into the trash, where it keeps its bytes', async () => {
    const { id } = await user.settled(await newFile());
    const [blob] = await blobsOf(id);
    const answer = await user.fetch(`/api/files/${id}`, { method: 'DELETE' });
    expect(answer.status).toBe(204);
    expect(await answer.text()).toBe('');
    const { items } = await user.get('/api/files?limit=200');
    expect(items.map((file: FileJson) => file.id)).not.toContain(id);
    for (const path of ['', '/content', '/status']) {
      await expectProblem(await user.fetch(`/api/files/${id}${path}`), 404, 'not_found');
    }
    await expectProblem(await user.fetch(`/api/files/${id}`, { method: 'DELETE' }), 404, 'not_found');
    expect(existsSync(blob?.path ?? '')).toBe(true);
  });

  it('hides the upload with its file until the file is restored', async () => {
    const { id } = await user.settled(await newFile());
    const path = `/uploads/${id}`;
    const head = () => user.tus('HEAD', path);
    expect((await head()).status).toBe(200);
    expect(await trash(user, id)).toBe(204);
    expect((await head()).status).toBe(410);
    expect((await user.tus('PATCH', path, { 'Upload-Offset': '5' })).status).toBe(410);
    // A client that remembers the address has to send the whole file again.
    const content = Buffer.from('a.txt');
    const again = await user.tusUpload(content, { uploadUrl: `${processes.url}${path}` });
    expect(again).not.toBe(id);
    expect(await user.settled(again)).toMatchObject({ status: 'completed', size: content.length });

    expect(await restore(user, id)).toBe(200);
    expect([(await head()).status, (await head()).headers.get('Upload-Offset')]).toEqual([200, '5']);
    expect(await trash(user, id)).toBe(204);
    expect(await terminate(user, id)).toBe(204);
    expect((await head()).status).toBe(410);
  });

  it.each(['at once', 'from the trash'])('for good removes everything of the file, %s', async (way) => {
    const jpeg = await makeJpeg({ width: 300, height: 200 });
    const { id, links } = await user.settled(await user.upload(jpeg, { filename: 'a.jpg' }));
    const blobs = await blobsOf(id);
    expect(blobs.length).toBe(4);
    for (const { path } of blobs) expect(existsSync(path)).toBe(true);

    if (way === 'from the trash') await user.fetch(`/api/files/${id}`, { method: 'DELETE' });
    const answer = await user.fetch(`/api/files/${id}?permanent=1`, { method: 'DELETE' });
    expect(answer.status).toBe(204);

    for (const { path } of blobs) expect(existsSync(path)).toBe(false);
    for (const [table, column, values] of [
      ['files', 'id', [id]],
      ['derivatives', 'file_id', [id]],
      ['blobs', 'id', blobs.map((blob) => blob.id)],
    ] as const) {
      const { rowCount } = await processes.database.query(`SELECT FROM ${table} WHERE ${column} = ANY ($1)`, [
        values,
      ]);
      expect([table, rowCount]).toEqual([table, 0]);
    }
    await expectProblem(await user.fetch(`/api/files/${id}`), 404, 'not_found');
    expect((await fetch(`${processes.url}${links.content}`)).status).toBe(404);
    const again = await user.fetch(`/api/files/${id}?permanent=1`, { method: 'DELETE' });
    await expectProblem(again, 404, 'not_found');
    const upload = await user.fetch(`/uploads/${id}`, {
      method: 'HEAD',
      headers: { 'Tus-Resumable': '1.0.0' },
    });
    expect(upload.status).toBe(410);
  });

  it('for good works while the file is being processed, and ends the processing', async () => {
    const ids = [];
    for (let i = 0; i < 8; i++) ids.push(await newFile());
    const answers = await Promise.all(
      ids.map((id) => user.fetch(`/api/files/${id}?permanent=1`, { method: 'DELETE' })),
    );
    expect(answers.map(({ status }) => status)).toEqual(ids.map(() => 204));
    const { status } = await user.settled(await newFile());
    expect(status).toBe('completed');
    const { rowCount } = await processes.database.query('SELECT FROM files WHERE id = ANY ($1)', [ids]);
    expect(rowCount).toBe(0);
  });

  it('understands only 0 and 1', async () => {
    const id = await newFile();
    const answer = await user.fetch(`/api/files/${id}?permanent=true`, { method: 'DELETE' });
    await expectProblem(answer, 400, 'invalid_request');
    await user.settled(id);
  });
});

describe('requests that cannot be served', () => {
  it.each([
    ['PUT', '/api/files', 'GET, POST, HEAD'],
    ['PUT', `/api/files/${randomUUID()}`, 'GET, DELETE, PATCH, HEAD'],
    ['POST', `/api/files/${randomUUID()}/content`, 'GET, HEAD'],
    ['GET', '/api/auth/login', 'POST'],
    // An id could stand at the place of these words.
    ['GET', '/api/files/batch', 'POST'],
    ['DELETE', '/api/uploads/presign', 'POST'],
    ['POST', '/health/live', 'GET, HEAD'],
  ])('%s %s answers 405 and names the methods that are allowed', async (method, path, allow) => {
    const answer = await user.fetch(path, { method });
    expect(answer.headers.get('Allow')).toBe(allow);
    await expectProblem(answer, 405, 'method_not_allowed');
  });

  it.each(['/api', '/api/', '/api/nothing', '/api/files/a/b/c/d', '/API/files', '/health/none'])(
    'there is no %s',
    async (path) => {
      await expectProblem(await user.fetch(path), 404, 'not_found');
    },
  );

  const login = (body: string, type = 'application/json') =>
    fetch(`${processes.url}/api/auth/login`, { method: 'POST', headers: { 'Content-Type': type }, body });

  it.each(['{', '{"email":', 'null,', '"text"', '{"email": "a@example.org", "password": }'])(
    'refuses %j as JSON',
    async (body) => {
      await expectProblem(await login(body), 400, 'invalid_request');
    },
  );

  it('refuses a body that is too large, or in an unknown charset or encoding', async () => {
    await expectProblem(await login(JSON.stringify({ email: 'x'.repeat(200_000) })), 413, 'too_large');
    await expectProblem(
      await login('{}', 'application/json; charset=klingon'),
      415,
      'unsupported_media_type',
    );
    const answer = await fetch(`${processes.url}/api/auth/login`, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json', 'Content-Encoding': 'klingon' },
      body: '{}',
    });
    await expectProblem(answer, 415, 'unsupported_media_type');
  });

  it('refuses an address that is not valid', async () => {
    await expectProblem(await user.fetch('/api/files/%E0%A4%A'), 400, 'invalid_request');
  });

  it('gives each answer an id of its own, whatever a client sends', async () => {
    const { headers } = await user.fetch('/api/nothing', { headers: { 'X-Request-Id': 'abc-1' } });
    expect(headers.get('X-Request-Id')).toMatch(/^[0-9a-f-]{36}$/);
  });
});

describe('health', () => {
  it('is alive and ready', async () => {
    for (const path of ['/health/live', '/health/ready']) {
      const answer = await fetch(`${processes.url}${path}`);
      expect(answer.status).toBe(200);
      expect(await answer.json()).toEqual({ status: 'ok' });
    }
  });

  it.each([
    ['the storage is gone', 'blobs'],
    // As if the disk were not mounted: its mount point is an empty folder.
    ['the folder of the storage bears no marker', join('blobs', MARKER)],
  ])('is alive but not ready while %s', async (_, name) => {
    const folder = join(processes.dataDir, name);
    await rename(folder, `${folder}.away`);
    const [live, ready] = await Promise.all(
      ['live', 'ready'].map((name) => fetch(`${processes.url}/health/${name}`)),
    );
    await rename(`${folder}.away`, folder);
    expect(live?.status).toBe(200);
    const problem = await expectProblem(ready as Response, 503, 'unavailable');
    expect(problem.detail).toBe('The storage does not answer');
    expect(JSON.stringify(problem)).not.toContain(processes.dataDir);
    expect((await fetch(`${processes.url}/health/ready`)).status).toBe(200);
  });
});
