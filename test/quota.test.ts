import {
  askFor,
  expectBooksRight,
  setQuota,
  usageOf,
  userWithQuota,
  type WantedQuota,
} from './support/books.js';
import { idOf, registerUser, type TestUser } from './support/client.js';
import { purge, terminate, trash } from './support/deletions.js';
import { type Part, type Processes, startProcesses } from './support/processes.js';
import { send } from './support/sign-in.js';
import { until } from './support/until.js';
import { makeDue } from './support/uploads.js';

const DEFAULT = { bytes: 100_000, files: 1000 };

let processes: Processes;
let admin: TestUser;

beforeAll(async () => {
  processes = await startProcesses(
    { QUOTA_BYTES: String(DEFAULT.bytes), QUOTA_FILES: String(DEFAULT.files) },
    ['server', 'worker', 'worker-2'],
  );
  admin = await registerUser(() => processes.url);
});
afterEach(() => expectBooksRight(processes.database));
afterAll(() => processes?.close());

const newUser = (quota?: WantedQuota) => userWithQuota(() => processes.url, admin, quota);

/** Restarts a worker, which runs its passes when it starts. */
async function reconcile(part: Part = 'worker'): Promise<void> {
  await processes.stop(part);
  await processes.start(part);
}

describe('the limit', () => {
  it('can be reached exactly, and then only empty files fit', async () => {
    const user = await newUser({ maxBytes: 1000 });
    expect((await askFor(user, 1001)).status).toBe(413);
    await user.upload(Buffer.alloc(1000));
    expect((await askFor(user, 1)).status).toBe(413);
    expect((await askFor(user, 0)).status).toBe(201);
    expect(await usageOf(user)).toEqual({ bytes: 1000, files: 2 });
  });

  it('of files counts empty ones', async () => {
    const user = await newUser({ maxFiles: 2 });
    expect((await askFor(user, 0)).status).toBe(201);
    expect((await askFor(user, 0)).status).toBe(201);
    expect((await askFor(user, 0)).status).toBe(413);
    const deferred = await user.tus('POST', '/uploads', { 'Upload-Defer-Length': '1' });
    expect([deferred.status, await deferred.text()]).toEqual([
      413,
      '2 of 2 files are in use: delete something first\n',
    ]);
  });

  it('below the usage keeps files and begun uploads, and admits none until enough is deleted', async () => {
    const user = await newUser({ maxBytes: 10_000 });
    const content = Buffer.alloc(4000, 7);
    const file = await user.upload(content);
    const path = await user.create(4000);
    await setQuota(admin, user, { maxBytes: 1000 });
    expect((await user.get('/api/me')).usage).toEqual({ bytes: 8000, files: 2 });
    expect((await askFor(user, 0)).status).toBe(413);
    // The upload had reserved its room before, so it may still be finished.
    expect((await user.tus('PATCH', path, { 'Upload-Offset': '0' }, content)).status).toBe(204);
    expect((await user.settled(idOf(path))).status).toBe('completed');
    expect(await trash(user, file)).toBe(204);
    expect((await askFor(user, 1)).status).toBe(413);
    expect(await trash(user, idOf(path))).toBe(204);
    expect((await askFor(user, 1000)).status).toBe(201);
    expect(await usageOf(user)).toEqual({ bytes: 1000, files: 1 });
  });

  it('is that of the configuration unless an admin has set another', async () => {
    const user = await newUser();
    expect((await user.get('/api/me')).quota).toEqual(DEFAULT);
    expect((await askFor(user, DEFAULT.bytes + 1)).status).toBe(413);

    const set = async (quota: WantedQuota) => (await (await setQuota(admin, user, quota)).json()).quota;
    expect(await set({ maxBytes: null })).toEqual({ ...DEFAULT, bytes: null });
    expect((await askFor(user, 5 * 1024 ** 4)).status).toBe(201);
    expect(await set({ maxFiles: 1 })).toEqual({ bytes: null, files: 1 });
    expect((await askFor(user, 1)).status).toBe(413);
    expect(await set({ maxBytes: 'default', maxFiles: 'default' })).toEqual(DEFAULT);
    expect(await user.get('/api/me')).toMatchObject({ quota: DEFAULT, usage: { bytes: 5 * 1024 ** 4 } });
  });

  it.each([{ maxBytes: 0 }, { maxFiles: 0 }])('of %j lets nothing in at all', async (quota) => {
    const user = await newUser(quota);
    const answers = [
      await askFor(user, 1),
      await askFor(user, 0),
      await user.tus('POST', '/uploads', { 'Upload-Defer-Length': '1' }),
    ];
    for (const answer of answers) {
      expect([answer.status, await answer.text()]).toEqual([
        413,
        'This account may hold no files: ask an admin for room\n',
      ]);
    }
  });

  it.each([-1, 1.5, '5', 2 ** 53, true])('cannot be set to %p', async (maxBytes) => {
    const user = await newUser();
    const answer = await send(admin, 'PATCH', `/api/admin/users/${user.id}`, { maxBytes });
    expect(answer.status).toBe(400);
    expect((await answer.json()).detail).toMatch(
      /must be a whole number from 0 on .* null for no limit, or "default"/,
    );
    expect((await user.get('/api/me')).quota).toEqual(DEFAULT);
  });
});

describe('room is given back', () => {
  it('when uploads expire, also with many users and two workers', async () => {
    const users = await Promise.all(Array.from({ length: 8 }, () => newUser()));
    const paths = await Promise.all(
      users.flatMap((user) => Array.from({ length: 12 }, (_, n) => user.create(n % 4 ? 1000 : null))),
    );
    const kept = await users[0]?.create(500);
    for (const path of paths) await makeDue(processes.database, idOf(path));
    await Promise.all([
      reconcile('worker'),
      reconcile('worker-2'),
      ...paths.map((path, index) =>
        index % 3 ? undefined : terminate(users[Math.floor(index / 12)] as TestUser, idOf(path)),
      ),
    ]);
    await until('all to be expired', async () => {
      const { rows } = await processes.database.query(
        `SELECT FROM uploads WHERE status = 'uploading' AND id = ANY ($1)`,
        [paths.map(idOf)],
      );
      return rows.length === 0;
    });
    const usages = await Promise.all(users.map(usageOf));
    expect(usages).toEqual(
      users.map((_, n) => (n === 0 ? { bytes: 500, files: 1 } : { bytes: 0, files: 0 })),
    );
    expect(await terminate(users[0] as TestUser, idOf(kept ?? ''))).toBe(204);
  });

  it('by a failed or infected file only when it is deleted', async () => {
    const user = await newUser();
    const EICAR = ['X5O!P%@AP[4\\PZX54(P^)7CC)7}$', 'EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*'].join('');
    const infected = await user.upload(Buffer.from(EICAR));
    const failed = await user.upload(Buffer.alloc(100), { sha256: '0'.repeat(64) });
    expect((await user.settled(infected)).status).toBe('infected');
    expect((await user.settled(failed)).status).toBe('failed');
    expect(await usageOf(user)).toEqual({ bytes: EICAR.length + 100, files: 2 });
    expect(await trash(user, infected)).toBe(204);
    expect(await purge(user, failed)).toBe(204);
    expect(await usageOf(user)).toEqual({ bytes: 0, files: 0 });
  });
});

describe('the trash', () => {
  it('holds as many bytes as the quota allows; beyond them the oldest files are deleted first', async () => {
    const user = await newUser({ maxBytes: 1000 });
    const workers: Part[] = ['worker', 'worker-2'];
    // A pass that begins meanwhile would trim the trash before all files are in it.
    await Promise.all(workers.map((part) => processes.stop(part)));
    const thrown: string[] = [];
    for (const size of [300, 600, 400, 500, 100]) {
      const id = await user.upload(Buffer.alloc(size));
      expect(await trash(user, id)).toBe(204);
      thrown.push(id);
    }
    const before = await usageOf(user);
    const left = async () => {
      const { rows } = await processes.database.query(
        'SELECT id FROM files WHERE owner_id = $1 AND deleted_at IS NOT NULL ORDER BY id',
        [user.id],
      );
      return rows.map(({ id }) => id);
    };
    expect(await left()).toEqual(thrown);
    // Both workers trim at once, while the owner deletes one of the files for good.
    await Promise.all([...workers.map((part) => processes.start(part)), purge(user, thrown[0] as string)]);
    await until('the trash to be trimmed', async () => (await left()).length <= 3);
    expect(await left()).toEqual(thrown.slice(2));
    expect([before, await usageOf(user)]).toEqual([
      { bytes: 0, files: 0 },
      { bytes: 0, files: 0 },
    ]);
  });

  it('holds as many files as the quota allows, and any number of a user without a quota', async () => {
    const few = await newUser({ maxFiles: 2 });
    const any = await newUser({ maxBytes: null, maxFiles: null });
    for (let n = 0; n < 3; n++) {
      for (const user of [few, any]) await trash(user, await user.upload(Buffer.alloc(50_000)));
    }
    await reconcile();
    const left = async ({ id }: TestUser) =>
      (await processes.database.query('SELECT FROM files WHERE owner_id = $1', [id])).rowCount;
    await until('the trash to be trimmed', async () => (await left(few)) !== 3);
    expect([await left(few), await left(any)]).toEqual([2, 3]);
  });
});

test('a default of 0 is no limit', async () => {
  const open = await startProcesses({ QUOTA_BYTES: '0', QUOTA_FILES: '0' }, ['server']);
  try {
    const user = await registerUser(() => open.url);
    expect(await user.get('/api/me')).toMatchObject({
      quota: { bytes: null, files: null },
      usage: { bytes: 0, files: 0 },
    });
    expect((await askFor(user, 5 * 1024 ** 4)).status).toBe(201);
    expect(await usageOf(user)).toEqual({ bytes: 5 * 1024 ** 4, files: 1 });
  } finally {
    await open.close();
  }
});
