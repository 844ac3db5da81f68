import { randomUUID } from 'node:crypto';
import { expectBooksRight, setQuota, usageOf } from './support/books.js';
import { type FileJson, registerUser, type TestUser } from './support/client.js';
import { purge, trash } from './support/deletions.js';
import { type Processes, startProcesses } from './support/processes.js';
import { eventsOf, problemOf, send } from './support/sign-in.js';

/* What users do with their files, with a server and a worker. */

let processes: Processes;
let admin: TestUser;
let user: TestUser;

beforeAll(async () => {
  processes = await startProcesses();
  admin = await registerUser(() => processes.url);
  user = await registerUser(() => processes.url);
});

afterAll(() => processes?.close());

/** A file whose processing has ended. */
const settled = async (who = user, content = 'a file') =>
  who.settled(await who.upload(Buffer.from(content), { filename: 'a.txt' }));

const act = (id: string, action: string, who = user) =>
  who.fetch(`/api/files/${id}/${action}`, { method: 'POST' });

const rename = (id: string, filename: unknown, who = user) =>
  send(who, 'PATCH', `/api/files/${id}`, { filename });

const statuses = (answers: Response[]) => answers.map(({ status }) => status).sort();

/** A file that waits for a worker, while `work` runs; the worker runs again afterwards. */
async function withPending(work: (id: string) => Promise<void>): Promise<void> {
  await processes.stop('worker');
  try {
    await work(await user.upload(Buffer.from('a file'), { filename: 'a.txt' }));
  } finally {
    await processes.start('worker');
  }
}

const setStatus = (id: string, status: string) =>
  processes.database.query('UPDATE files SET status = $2 WHERE id = $1', [id, status]);

describe('renaming', () => {
  it('changes the name everywhere', async () => {
    const { id } = await settled();
    const answer = await rename(id, '/home/me/b\u202Efdp.txt');
    expect(answer.status).toBe(200);
    const file: FileJson = await answer.json();
    expect(file).toMatchObject({ id, filename: 'bfdp.txt', warnings: [{ code: 'name_changed' }] });
    expect(await (await rename(id, 'c\u202Efdp.txt')).json()).toMatchObject({ warnings: [{}] });
    const content = await user.fetch(`/api/files/${id}/content?download=1`);
    expect(content.headers.get('Content-Disposition')).toContain('cfdp.txt');
    expect((await eventsOf(processes.database, id)).slice(-2)).toEqual(['file.renamed', 'file.renamed']);
  });

  it.each(['', ' ', '..', 'a/', 'a\nb', 'a\u2028b', '\u200D', 'x'.repeat(256), null, 5, ['a']])(
    'refuses %j',
    async (name) => {
      const id = await user.upload(Buffer.from('a file'), { filename: 'a.txt' });
      expect(await problemOf(await rename(id, name))).toEqual([400, 'invalid_request']);
      expect(await user.get(`/api/files/${id}`)).toMatchObject({ filename: 'a.txt' });
    },
  );

  it('is for the owner, and not for files in the trash', async () => {
    const { id } = await settled();
    expect(await problemOf(await rename(id, 'b', admin))).toEqual([404, 'not_found']);
    await trash(user, id);
    expect(await problemOf(await rename(id, 'b'))).toEqual([404, 'not_found']);
  });
});

describe('restoring', () => {
  it('brings a file back as it was, and counts it again', async () => {
    const owner = await registerUser(() => processes.url);
    const file = await settled(owner);
    const path = `/api/files/${file.id}`;
    const { links: _links, ...before } = file;
    await trash(owner, file.id);
    expect(await usageOf(owner)).toEqual({ bytes: 0, files: 0 });
    const answer = await act(file.id, 'restore', owner);
    expect(answer.status).toBe(200);
    expect(await answer.json()).toMatchObject(before);
    expect(await owner.get(path)).toMatchObject(before);
    expect(await (await owner.fetch(`${path}/content`)).text()).toBe('a file');
    expect(await usageOf(owner)).toEqual({ bytes: 6, files: 1 });
    expect((await eventsOf(processes.database, file.id)).slice(-2)).toEqual([
      'file.deleted',
      'file.restored',
    ]);
    expect(await problemOf(await act(file.id, 'restore', owner))).toEqual([409, 'wrong_state']);
    await purge(owner, file.id);
    expect(await problemOf(await act(file.id, 'restore', owner))).toEqual([404, 'not_found']);
  });

  it('needs room', async () => {
    const owner = await registerUser(() => processes.url);
    const { id } = await settled(owner);
    await trash(owner, id);
    await settled(owner, 'other');
    await setQuota(admin, owner, { maxBytes: 10 });
    expect(await problemOf(await act(id, 'restore', owner))).toEqual([413, 'quota_exceeded']);
    await setQuota(admin, owner, { maxBytes: 11, maxFiles: 1 });
    expect(await problemOf(await act(id, 'restore', owner))).toEqual([413, 'quota_exceeded']);
    await setQuota(admin, owner, { maxFiles: 2 });
    expect((await act(id, 'restore', owner)).status).toBe(200);
    expect(await usageOf(owner)).toEqual({ bytes: 11, files: 2 });
    await expectBooksRight(processes.database);
  });

  it('and deleting at the same time keep the books right', async () => {
    const { id } = await settled();
    await trash(user, id);
    const restored = await Promise.all(Array.from({ length: 4 }, () => act(id, 'restore')));
    expect(statuses(restored)).toEqual([200, 409, 409, 409]);
    for (let round = 0; round < 5; round++) {
      await Promise.all([trash(user, id), act(id, 'restore'), trash(user, id), act(id, 'restore')]);
      await expectBooksRight(processes.database);
    }
    await trash(user, id);
    const [gone, back] = await Promise.all([purge(user, id), act(id, 'restore')]);
    expect([200, 404]).toContain(back.status);
    expect(gone).toBe(204);
    expect((await user.fetch(`/api/files/${id}`)).status).toBe(404);
    await expectBooksRight(processes.database);
  });
});

describe('the processing', () => {
  it('is paused and resumed', async () => {
    await withPending(async (id) => {
      expect(await (await act(id, 'pause')).json()).toMatchObject({ id, status: 'paused' });
      const again = await act(id, 'pause');
      expect(again.status).toBe(409);
      expect(await again.json()).toMatchObject({
        code: 'wrong_state',
        detail: expect.stringMatching(/possible now: resume, cancel$/),
      });
      await processes.start('worker');
      // A file that comes later is processed; this one is not.
      await settled();
      expect(await user.get(`/api/files/${id}/status`)).toMatchObject({ status: 'paused', attempts: 0 });
      expect(await (await act(id, 'resume')).json()).toMatchObject({ status: 'pending' });
      expect(await user.settled(id)).toMatchObject({ status: 'completed' });
      expect(await eventsOf(processes.database, id)).toEqual(
        expect.arrayContaining(['file.paused', 'file.pending', 'file.completed']),
      );
      await processes.stop('worker');
    });
  });

  it('is canceled, and two retries at once begin one run', async () => {
    await withPending(async (id) => {
      expect(await (await act(id, 'cancel')).json()).toMatchObject({ status: 'canceled' });
      expect(statuses(await Promise.all([act(id, 'retry'), act(id, 'retry')]))).toEqual([200, 409]);
      await processes.start('worker');
      expect(await user.settled(id)).toMatchObject({ status: 'completed', attempts: 1 });
      const events = await eventsOf(processes.database, id);
      expect(events.filter((type) => type === 'file.pending' || type === 'file.completed')).toEqual([
        'file.pending',
        'file.completed',
      ]);
      await processes.stop('worker');
    });
  });

  it('of a file that failed is retried without the steps that are done', async () => {
    const id = await user.upload(Buffer.from('a file'), { filename: 'a.txt', sha256: 'a'.repeat(64) });
    expect(await user.settled(id)).toMatchObject({ status: 'failed', error: { code: 'checksum_mismatch' } });
    expect(await (await act(id, 'retry')).json()).toMatchObject({ status: 'pending', error: null });
    expect(await user.settled(id)).toMatchObject({ status: 'failed', error: { code: 'checksum_mismatch' } });
    const events = await eventsOf(processes.database, id);
    expect(events.filter((type) => type === 'file.failed')).toHaveLength(2);
  });

  it('is repeated as a whole, with a priority, while the file can be read', async () => {
    const file = await settled();
    const path = `/api/files/${file.id}`;
    const process = (body: object) => send(user, 'POST', `${path}/process`, body);
    for (const body of [{ settings: { size: 1 } }, { priority: 'urgent' }, { priority: 1 }, { other: 1 }]) {
      expect(await problemOf(await process(body))).toEqual([400, 'invalid_request']);
    }
    await processes.stop('worker');
    expect(await (await process({ priority: 'low' })).json()).toMatchObject({
      status: 'pending',
      progress: 0,
      steps: {},
      completedAt: null,
    });
    expect((await user.fetch(`${path}/content`)).status).toBe(200);
    expect(await problemOf(await process({}))).toEqual([409, 'wrong_state']);
    const later = await user.upload(Buffer.from('later'), { filename: 'b.txt' });
    await processes.start('worker');
    const again = await user.settled(file.id);
    expect(again).toMatchObject({ status: 'completed', attempts: 1, steps: expect.anything() });
    expect(Object.keys(again.steps)).toEqual(Object.keys(file.steps));
    expect(again.warnings).toEqual(file.warnings);
    await user.settled(later);
    const { rows } = await processes.database.query('SELECT priority FROM files WHERE id = $1', [file.id]);
    expect(rows).toEqual([{ priority: 3 }]);
  });

  it('that fails to reach the queue is begun by the relay, with its priority', async () => {
    const file = await settled();
    await processes.stop('worker');
    const answer = await send(user, 'POST', `/api/files/${file.id}/process`, { priority: 'high' });
    expect(answer.status).toBe(200);
    // The job is lost.
    await processes.database.query(`DELETE FROM bullmq.job WHERE id LIKE $1 || '-%'`, [file.id]);
    await processes.start('worker');
    expect(await user.settled(file.id)).toMatchObject({ status: 'completed' });
    const { rows } = await processes.database.query(
      `SELECT priority FROM bullmq.job WHERE id LIKE $1 || '-%'`,
      [file.id],
    );
    expect(rows).toEqual([{ priority: 1 }]);
  });

  it.each([
    ['pause', 'paused', 'resume'],
    ['cancel', 'canceled', 'retry'],
  ])('hears of %s while it runs', async (action, status, goOn) => {
    // Whichever moment of the processing it meets, the file ends in one of two ways.
    const ids = await Promise.all(
      Array.from({ length: 12 }, () => user.upload(Buffer.alloc(300_000, 'x'), { filename: 'x.txt' })),
    );
    const answers = await Promise.all(ids.map((id) => act(id, action)));
    await Promise.all(
      ids.map(async (id, index) => {
        const answer = answers[index] as Response;
        if (answer.status === 409) return user.settled(id);
        expect(await answer.json()).toMatchObject({ status });
        expect(await user.get(`/api/files/${id}`)).toMatchObject({ status });
        expect((await act(id, goOn)).status).toBe(200);
        return user.settled(id);
      }),
    );
    const files: FileJson[] = await Promise.all(ids.map((id) => user.get(`/api/files/${id}`)));
    expect(files.map((file) => file.status)).toEqual(ids.map(() => 'completed'));
  });

  describe('without a worker', () => {
    const actions = ['retry', 'cancel', 'pause', 'resume', 'process'];
    /** A file for each action. */
    let ids: string[];
    beforeAll(async () => {
      ids = (await Promise.all(actions.map(() => settled()))).map(({ id }) => id);
      await processes.stop('worker');
    });
    afterAll(() => processes.start('worker'));

    it.each(actions)(
      '%s answers 409 only in a wrong state, and 404 for the files of others and in the trash',
      async (action) => {
        const id = ids[actions.indexOf(action)] ?? '';
        const answers = [];
        for (const status of ['pending', 'paused', 'canceled', 'failed', 'infected', 'completed']) {
          await setStatus(id, status);
          const answer = await act(id, action);
          const { detail = '' } = await answer.json();
          answers.push([status, answer.status]);
          if (answer.status === 409) expect(detail).not.toMatch(new RegExp(`possible now: .*${action}`));
        }
        const allowed: Record<string, string[]> = {
          retry: ['canceled', 'failed'],
          cancel: ['pending', 'paused'],
          pause: ['pending'],
          resume: ['paused'],
          process: ['canceled', 'failed', 'infected', 'completed'],
        };
        const expected = answers.map(([status]) => [
          status,
          allowed[action]?.includes(String(status)) ? 200 : 409,
        ]);
        expect(answers).toEqual(expected);
        expect(await problemOf(await act(id, action, admin))).toEqual([404, 'not_found']);
        expect(await problemOf(await act(randomUUID(), action))).toEqual([404, 'not_found']);
        await trash(user, id);
        expect(await problemOf(await act(id, action))).toEqual([404, 'not_found']);
      },
    );
  });

  it('of an infected file can be repeated', async () => {
    const { id } = await settled();
    await processes.database.query(`UPDATE files SET status = 'infected', clean = false WHERE id = $1`, [id]);
    expect((await user.fetch(`/api/files/${id}/content`)).status).toBe(403);
    expect((await act(id, 'process')).status).toBe(200);
    expect(await user.settled(id)).toMatchObject({ status: 'completed' });
    expect((await user.fetch(`/api/files/${id}/content`)).status).toBe(200);
  });
});
