import { rename } from 'node:fs/promises';
import { createTestClamd, type TestClamd } from './support/clamd.js';
import { type FileJson, registerUser, type TestUser } from './support/client.js';
import { fileKeyOf, filePathOf } from './support/objects.js';
import { type Processes, startProcesses } from './support/processes.js';
import { send } from './support/sign-in.js';
import { until } from './support/until.js';

/* Scans of stored files with newer signatures. */

const OLD = { name: 'Landfall.Old', text: 'landfall-old-threat' };
const NEW = { name: 'Landfall.New', text: 'landfall-new-threat' };

let clamd: TestClamd;
let processes: Processes;
let admin: TestUser;
let user: TestUser;

beforeAll(async () => {
  clamd = await createTestClamd();
  await clamd.load(1, [OLD]);
  await clamd.start();
  processes = await startProcesses({ CLAMAV_HOST: clamd.host });
  admin = await registerUser(() => processes.url);
  user = await registerUser(() => processes.url);
});

afterAll(async () => {
  await processes?.close();
  await clamd?.close();
});

const newFile = async (text: string): Promise<FileJson> => {
  const file = await user.settled(await user.upload(Buffer.from(text)));
  expect(file.status).toBe('completed');
  return file;
};
const look = (id: string): Promise<FileJson> => user.get(`/api/files/${id}`);
const contentOf = async (id: string) => {
  const answer = await user.fetch(`/api/files/${id}/content`);
  return answer.ok ? answer.text() : (await answer.json()).code;
};
const rescan = async (path: string, body: object = {}) => {
  const answer = await send(admin, 'POST', `/api/admin${path}`, body);
  return { status: answer.status, ...(await answer.json()) };
};
const ended = (id: string) =>
  until('the rescan to end', async () => {
    const now = await admin.get(`/api/admin/rescans/${id}`);
    return now.state !== 'running' && now;
  });
const versionOf = (file: FileJson) => Number(file.metadata.scan.version.split('/')[1]);

it('an admin lets one file be scanned, which keeps its status unless a threat is found', async () => {
  const harmless = await newFile('harmless');
  const bad = await newFile(`bad ${NEW.text}`);
  await clamd.load(2, [OLD, NEW]);

  const first = await rescan(`/files/${harmless.id}/rescan`);
  expect(first).toMatchObject({ status: 202, fileId: harmless.id, state: 'running' });
  expect(await ended(first.id)).toMatchObject({ state: 'done', scanned: 1, infected: 0, failed: 0 });
  const now = await look(harmless.id);
  expect(now).toMatchObject({ status: 'completed', completedAt: harmless.completedAt, attempts: 1 });
  expect([versionOf(harmless), versionOf(now)]).toEqual([1, 2]);
  expect(await contentOf(bad.id)).toContain(NEW.text);

  const second = await rescan(`/files/${bad.id}/rescan`);
  expect(await ended(second.id)).toMatchObject({ scanned: 1, infected: 1 });
  expect(await look(bad.id)).toMatchObject({
    status: 'infected',
    error: { step: 'scan', code: 'infected', detail: 'Found: Landfall.New.UNOFFICIAL' },
    links: { content: null },
  });
  expect(await contentOf(bad.id)).toBe('infected');
  await until('the quarantine', async () => (await fileKeyOf(processes, bad.id)).startsWith('quarantine/'));
  const events = await user.get(`/api/files/${bad.id}/events`);
  expect(events.items.map(({ type }: { type: string }) => type)).toContain('file.infected');

  expect(await rescan(`/files/${bad.id}/rescan`)).toMatchObject({ status: 409, code: 'wrong_state' });
});

it('duplicates of a file that turns out infected are infected with it', async () => {
  await clamd.load(3, [OLD]);
  const text = `twins ${NEW.text}`;
  const [first, second] = [await newFile(text), await newFile(text)];
  await clamd.load(4, [OLD, NEW]);
  await ended((await rescan(`/files/${second.id}/rescan`)).id);
  expect([(await look(first.id)).status, (await look(second.id)).status]).toEqual(['infected', 'infected']);
});

it('a scan of all files leaves out those that the filter does not let pass', async () => {
  await clamd.load(5, [OLD]);
  const before = await newFile('scanned with 5');
  await clamd.load(6, [OLD]);
  const after = await newFile('scanned with 6');
  const outdated = await ended((await rescan('/rescan', { outdated: true })).id);
  expect(outdated).toMatchObject({ state: 'done', outdated: true, infected: 0, failed: 0 });
  expect(versionOf(await look(before.id))).toBe(6);
  expect((await look(after.id)).metadata.scan).toEqual(after.metadata.scan);
  // Nothing is left that has other signatures.
  expect(await ended((await rescan('/rescan', { outdated: true })).id)).toMatchObject({ scanned: 0 });
  const version = after.metadata.scan.version;
  const all = await ended((await rescan('/rescan', {})).id);
  expect(await ended((await rescan('/rescan', { version })).id)).toMatchObject({
    scanned: all.scanned,
    version,
  });
  const scannedBefore = '2020-01-01T00:00:00.000Z';
  expect(await ended((await rescan('/rescan', { scannedBefore })).id)).toMatchObject({
    scanned: 0,
    scannedBefore,
  });
  expect((await admin.get('/api/admin/rescans?limit=1')).items).toMatchObject([{ scannedBefore }]);
});

it('an unreadable file is passed over', async () => {
  const lost = await newFile('lost');
  const path = await filePathOf(processes, lost.id);
  await rename(path, `${path}.away`);
  // Reads of stored bytes are repeated for half a minute.
  expect(await ended((await rescan(`/files/${lost.id}/rescan`)).id)).toMatchObject({ scanned: 0, failed: 1 });
  await rename(`${path}.away`, path);
  expect((await look(lost.id)).status).toBe('completed');
});

it('a scan goes on where it was after a restart, and can be canceled', async () => {
  for (let n = 0; n < 4; n++) await newFile(`slow ${n} ${'x'.repeat(3000)}`);
  await processes.stop('worker');
  await processes.start('worker', { RESCAN_RATE: '2KiB' });
  const { id } = await rescan('/rescan', {});
  expect(await rescan('/rescan', {})).toMatchObject({ status: 409, code: 'wrong_state' });
  const part = await until('a part', async () => {
    const now = await admin.get(`/api/admin/rescans/${id}`);
    return now.scanned > 0 && now;
  });
  expect(part.state).toBe('running');
  await processes.stop('worker');
  const stopped = await admin.get(`/api/admin/rescans/${id}`);
  expect(stopped.state).toBe('running');
  await processes.start('worker');
  const done = await ended(id);
  expect(done.state).toBe('done');
  const { rows } = await processes.database.query('SELECT count(*)::int AS count FROM files WHERE clean');
  expect(done.scanned).toBe(rows[0].count);

  await processes.stop('worker');
  const waiting = await rescan('/rescan', {});
  const cancel = () => admin.fetch(`/api/admin/rescans/${waiting.id}`, { method: 'DELETE' });
  expect((await cancel()).status).toBe(204);
  expect((await cancel()).status).toBe(409);
  expect(await admin.get(`/api/admin/rescans/${waiting.id}`)).toMatchObject({
    state: 'canceled',
    scanned: 0,
  });
  await processes.start('worker');
});

it('new signatures cause a scan by themselves if the operator wants it', async () => {
  await clamd.load(7, [OLD]);
  const bad = await newFile(`late ${NEW.text}`);
  await processes.stop('worker');
  await clamd.load(8, [OLD, NEW]);
  await processes.start('worker', { CLAMAV_RESCAN: 'on' });
  await until('the file to be infected', async () => (await look(bad.id)).status === 'infected');
  const [latest] = (await admin.get('/api/admin/rescans?limit=1')).items;
  expect(latest).toMatchObject({ outdated: true, signatures: expect.stringContaining('/8/') });
  expect(await ended(latest.id)).toMatchObject({ state: 'done', infected: 1 });
});
