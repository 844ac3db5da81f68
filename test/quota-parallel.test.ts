import { askFor, expectBooksRight, usageOf, userWithQuota, type WantedQuota } from './support/books.js';
import { idOf, registerUser, type TestUser } from './support/client.js';
import { purge, terminate, trash } from './support/deletions.js';
import { FORMS, type Form } from './support/forms.js';
import { type Processes, startProcesses } from './support/processes.js';
import { send } from './support/sign-in.js';

/* One user, at the edge of the quota, doing everything at once over two servers. */

let form: Form;
let processes: Processes;
let admin: TestUser;

/** Makes an account with this quota on the first server. */
const newUser = (quota?: WantedQuota) => userWithQuota(() => processes.url, admin, quota);

const elsewhere = (user: TestUser) => user.at(() => processes.urlOf('server-2'));

const presign = (user: TestUser, size: number) =>
  send(user, 'POST', '/api/uploads/presign', { filename: 'direct.bin', size });

/** How often each status occurs. */
function count(statuses: number[]): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const status of statuses) counts[status] = (counts[status] ?? 0) + 1;
  return counts;
}

const books = () => expectBooksRight(processes.database);

/**
 * Stops the processes, so that their connections report their statistics, and expects no deadlock among
 * these.
 */
async function expectNoDeadlock(): Promise<void> {
  for (const part of ['server', 'server-2', 'worker'] as const) await processes.stop(part);
  const { rows } = await processes.database.query(
    'SELECT deadlocks::integer FROM pg_stat_database WHERE datname = current_database()',
  );
  expect(rows).toEqual([{ deadlocks: 0 }]);
}

describe.each(FORMS)('over %s', (_name, openForm) => {
  beforeAll(async () => {
    form = await openForm();
    processes = await startProcesses(form.env, ['server', 'server-2', 'worker']);
    admin = await registerUser(() => processes.url);
  });
  afterEach(books);
  afterAll(async () => {
    await processes?.close();
    await form?.close();
  });

  describe('fifty creations at once, over two servers', () => {
    it.each([
      [
        'bytes',
        { maxBytes: 17_500, maxFiles: null },
        '17000 of 17500 bytes are in use, and this upload has 1000',
      ],
      ['files', { maxBytes: null, maxFiles: 17 }, '17 of 17 files are in use'],
    ] as const)('let in as many as fit, by %s', async (_what, quota, reason) => {
      const user = await newUser(quota);
      const answers = await Promise.all(
        Array.from({ length: 50 }, (_, index) => askFor(index % 2 ? user : elsewhere(user), 1000)),
      );
      expect(count(answers.map((answer) => answer.status))).toEqual({ 201: 17, 413: 33 });
      const refused = answers.filter((answer) => answer.status === 413);
      const texts = await Promise.all(refused.map((answer) => answer.text()));
      expect(new Set(texts)).toEqual(new Set([`${reason}: delete something first\n`]));
      expect(await usageOf(user)).toEqual({ bytes: 17_000, files: 17 });
    });

    it('let in as many as fit when each brings its bytes', async () => {
      const user = await newUser({ maxBytes: 17_500 });
      const body = Buffer.alloc(1000, 7);
      const answers = await Promise.all(
        Array.from({ length: 50 }, () => user.upload(body).catch((error: Error) => error.message)),
      );
      expect(answers.filter((answer) => /: 413 /.test(answer))).toHaveLength(33);
      expect(await usageOf(user)).toEqual({ bytes: 17_000, files: 17 });
    });

    it('let in as many as fit when some are small', async () => {
      const user = await newUser({ maxBytes: 10_000 });
      const lengths = Array.from({ length: 50 }, (_, index) => (index % 5 === 0 ? 9000 : 100));
      const answers = await Promise.all(
        lengths.map((length, index) => askFor(index % 2 ? user : elsewhere(user), length)),
      );
      const taken = lengths.filter((_, index) => answers[index]?.status === 201);
      expect(await usageOf(user)).toEqual({ bytes: taken.reduce((a, b) => a + b, 0), files: taken.length });
      // A small creation is refused only if it has no room, whether or not a large one came first.
      const refusedSmall = lengths.some((length, index) => length === 100 && answers[index]?.status !== 201);
      if (refusedSmall) expect((await usageOf(user)).bytes).toBeGreaterThan(9900);
    });

    it('never exceed the quota while other uploads and files are ended, trashed and deleted', async () => {
      const user = await newUser({ maxBytes: 20_000 });
      const files = await Promise.all(Array.from({ length: 10 }, () => user.upload(Buffer.alloc(1000))));
      const uploads = await Promise.all(Array.from({ length: 10 }, () => user.create(1000)));
      expect((await askFor(user, 1)).status).toBe(413);
      let done = false;
      const watch = (async () => {
        while (!done) {
          await books();
          expect((await usageOf(user)).bytes).toBeLessThanOrEqual(20_000);
        }
      })();
      const statuses = await Promise.all([
        ...Array.from({ length: 50 }, async (_, index) => {
          const answer = await askFor(index % 2 ? user : elsewhere(user), 1000);
          return answer.status;
        }),
        ...uploads.flatMap((path) => [terminate(user, idOf(path)), terminate(elsewhere(user), idOf(path))]),
        ...files.flatMap((id) => [
          trash(user, id),
          trash(elsewhere(user), id),
          purge(user, id),
          terminate(elsewhere(user), id),
        ]),
      ]);
      done = true;
      await watch;
      expect(Object.keys(count(statuses)).filter((status) => Number(status) >= 500)).toEqual([]);
      const created = statuses.slice(0, 50).filter((status) => status === 201).length;
      expect(await usageOf(user)).toEqual({ bytes: created * 1000, files: created });
      // All other uploads and files are gone, so the remaining room can be filled.
      for (let n = created; n < 20; n++) expect((await askFor(user, 1000)).status).toBe(201);
      expect((await askFor(user, 1)).status).toBe(413);
    });

    it('let in as many direct uploads as fit', async () => {
      const user = await newUser({ maxBytes: 17_500 });
      const answers = await Promise.all(Array.from({ length: 25 }, () => presign(user, 1000)));
      if (!form.bucket) {
        expect(count(answers.map((answer) => answer.status))).toEqual({ 409: 25 });
        expect(await usageOf(user)).toEqual({ bytes: 0, files: 0 });
        return;
      }
      expect(count(answers.map((answer) => answer.status))).toEqual({ 200: 17, 413: 8 });
      expect(await answers.find((answer) => answer.status === 413)?.json()).toMatchObject({
        code: 'quota_exceeded',
        detail: expect.stringMatching(/\b17000\b.*\b17500\b.*\b1000\b/),
      });
      expect(await usageOf(user)).toEqual({ bytes: 17_000, files: 17 });
    });
  });

  describe('room is given back', () => {
    it('once, however often and in whatever way an upload or file is deleted', async () => {
      const user = await newUser();
      const [kept, trashed, purged, ended] = await Promise.all(
        [100, 200, 400, 800].map((size) => user.upload(Buffer.alloc(size))),
      );
      const path = await user.create(1600);
      expect(await usageOf(user)).toEqual({ bytes: 3100, files: 5 });
      expect(await trash(user, trashed as string)).toBe(204);
      expect(await trash(user, trashed as string)).toBe(404);
      expect(await usageOf(user)).toEqual({ bytes: 2900, files: 4 });
      expect(await purge(user, trashed as string)).toBe(204);
      expect(await purge(user, purged as string)).toBe(204);
      expect(await purge(user, purged as string)).toBe(404);
      expect(await terminate(user, ended as string)).toBe(204);
      expect(await terminate(user, ended as string)).toBe(410);
      expect(await terminate(user, idOf(path))).toBe(204);
      expect(await terminate(user, idOf(path))).toBe(410);
      expect(await usageOf(user)).toEqual({ bytes: 100, files: 1 });
      expect(await purge(user, kept as string)).toBe(204);
      expect(await usageOf(user)).toEqual({ bytes: 0, files: 0 });
    });

    it('once when an upload is finished and deleted at the same moment', async () => {
      const user = await newUser();
      await Promise.all(
        Array.from({ length: 20 }, async (_, index) => {
          const path = await user.create(100);
          const other = elsewhere(user);
          const statuses = await Promise.all([
            user.tus('PATCH', path, { 'Upload-Offset': '0' }, Buffer.alloc(100)).then(({ status }) => status),
            terminate(index % 2 ? user : other, idOf(path)),
            trash(other, idOf(path)),
          ]);
          expect(statuses.filter((status) => status >= 500)).toEqual([]);
        }),
      );
      await books();
      const { rows } = await processes.database.query(
        `SELECT id FROM uploads WHERE owner_id = $1 AND status IN ('uploading', 'finished')`,
        [user.id],
      );
      for (const { id } of rows) expect([204, 410]).toContain(await terminate(user, id));
      expect(await usageOf(user)).toEqual({ bytes: 0, files: 0 });
    });
  });

  // This test comes last, because it ends the processes.
  test('the database has had no deadlock', expectNoDeadlock);
});
