import { readFile, stat } from 'node:fs/promises';
import { expectBlobsInOrder } from './support/aftermath.js';
import { createTestClamd, type TestClamd } from './support/clamd.js';
import { registerUser, type TestUser } from './support/client.js';
import { pathOf } from './support/folder.js';
import { fileKeyOf, filePathOf } from './support/objects.js';
import { type Processes, startProcesses } from './support/processes.js';
import { createBucket, type TestBucket } from './support/s3.js';
import { until } from './support/until.js';

/* Where the bytes of infected files go. */

const THREAT = { name: 'Landfall.Test', text: 'landfall-test-threat' };

describe.each(['files', 'S3'])('the bytes of an infected file among %s', (kind) => {
  let clamd: TestClamd;
  let bucket: TestBucket | undefined;
  let processes: Processes;
  let user: TestUser;
  let version = 100;

  beforeAll(async () => {
    clamd = await createTestClamd();
    await clamd.load(version, [THREAT]);
    await clamd.start();
    if (kind === 'S3') bucket = await createBucket();
    processes = await startProcesses({ CLAMAV_HOST: clamd.host, ...bucket?.env });
    user = await registerUser(() => processes.url);
  });

  afterAll(async () => {
    await processes?.close();
    await clamd?.close();
    await bucket?.drop();
  });

  const load = (...signatures: (typeof THREAT)[]) => clamd.load(++version, signatures);
  const read = (key: string) =>
    (bucket ? bucket.read(key) : readFile(pathOf(processes.dataDir, key))).then(String, () => undefined);
  const quarantined = (id: string) =>
    until(`file ${id} to be in quarantine`, async () => {
      const key = await fileKeyOf(processes, id);
      return key.startsWith('quarantine/') && key;
    });
  const process = (id: string) => user.fetch(`/api/files/${id}/process`, { method: 'POST' });
  const contentOf = async (id: string) => {
    const answer = await user.fetch(`/api/files/${id}/content`);
    return answer.ok ? answer.text() : (await answer.json()).code;
  };

  it('lie in quarantine, and nowhere else', async () => {
    const text = `bad ${THREAT.text}`;
    const id = await user.upload(Buffer.from(text));
    expect((await user.settled(id)).status).toBe('infected');
    const key = await quarantined(id);
    expect(await read(key)).toBe(text);
    expect(await contentOf(id)).toBe('infected');
    await expectBlobsInOrder(processes, bucket);
  });

  it('are moved for every file that shares them, and these files are infected too', async () => {
    await load({ name: 'Other', text: 'something else' });
    const text = `twins ${THREAT.text}`;
    const first = await user.settled(await user.upload(Buffer.from(text)));
    const second = await user.settled(await user.upload(Buffer.from(text)));
    expect([first.status, second.duplicateOf]).toEqual(['completed', first.id]);
    const before = await fileKeyOf(processes, first.id);
    await load(THREAT);
    const third = await user.settled(await user.upload(Buffer.from(text)));
    expect(third.status).toBe('infected');
    for (const { id } of [first, second, third]) {
      expect(await user.get(`/api/files/${id}`)).toMatchObject({
        status: 'infected',
        error: { step: 'scan', code: 'infected' },
      });
      expect(await contentOf(id)).toBe('infected');
      await quarantined(id);
    }
    await until('the old object to be deleted', async () => (await read(before)) === undefined);
    await expectBlobsInOrder(processes, bucket);
  });

  it('come back when a later scan finds nothing', async () => {
    const text = `mistaken for ${THREAT.text}`;
    const id = await user.upload(Buffer.from(text));
    expect((await user.settled(id)).status).toBe('infected');
    const away = await quarantined(id);
    await load({ name: 'Other', text: 'something else' });
    expect((await process(id)).status).toBe(200);
    expect((await user.settled(id)).status).toBe('completed');
    expect(await fileKeyOf(processes, id)).not.toContain('/');
    expect(await contentOf(id)).toBe(text);
    await until('quarantine to be left', async () => (await read(away)) === undefined);
    await expectBlobsInOrder(processes, bucket);
    await load(THREAT);
  });

  it('are moved by the next pass after a crash, and deleted with the file', async () => {
    const id = await user.upload(Buffer.from(`crash ${THREAT.text}`));
    await user.settled(id);
    const key = await quarantined(id);
    // As if the worker had died before it moved them.
    await processes.database.query('UPDATE files SET in_quarantine = false WHERE id = $1', [id]);
    await processes.stop('worker');
    await processes.start('worker');
    await until('the pass', async () => (await fileKeyOf(processes, id)) !== key);
    await user.fetch(`/api/files/${id}?permanent=1`, { method: 'DELETE' });
    await expectBlobsInOrder(processes, bucket);
  });

  it('cost no room among files while they move', async () => {
    if (bucket) return;
    const id = await user.upload(Buffer.from(`one object ${THREAT.text}`));
    await user.settled(id);
    await quarantined(id);
    const path = await filePathOf(processes, id);
    await until('the other name to be gone', async () => (await stat(path)).nlink === 1);
  });
});
