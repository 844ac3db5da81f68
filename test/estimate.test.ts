import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { open, rename } from 'node:fs/promises';
import { promisify } from 'node:util';
import { registerUser } from './support/client.js';
import { uploadPathOf } from './support/objects.js';
import { type Processes, startProcesses } from './support/processes.js';
import { until } from './support/until.js';

/*
 * The times that users are given for processing: the estimate while it runs, and the time of each step
 * afterwards.
 */

const PIECE = 64 * 1024;

let processes: Processes;

beforeAll(async () => {
  processes = await startProcesses({}, ['server']);
});
afterAll(() => processes?.close());

test('a file has an estimate while it is read, and its steps take no longer than the whole', async () => {
  const user = await registerUser(() => processes.url);
  const content = randomBytes(100 * PIECE);
  const id = await user.upload(content, { filename: 'slow.bin' });
  // A pipe in the object's place makes the read as slow as the test fills it.
  const path = await uploadPathOf(processes, id);
  await rename(path, `${path}.kept`);
  await promisify(execFile)('mkfifo', [path]);
  await processes.start('worker');
  const pipe = await until('the file to be read', () =>
    open(path, constants.O_WRONLY | constants.O_NONBLOCK).catch(() => undefined),
  );
  const status = () => user.get(`/api/files/${id}/status`);
  let sent = 0;
  const told = await until('an estimate', async () => {
    if (sent < content.length / 2) sent += (await pipe.write(content, sent, PIECE)).bytesWritten;
    const { etaSeconds } = await status();
    return etaSeconds === null ? undefined : { etaSeconds };
  });
  expect(Number.isInteger(told.etaSeconds) && told.etaSeconds >= 1).toBe(true);
  while (sent < content.length) {
    sent += await pipe
      .write(content, sent, content.length - sent)
      .then(({ bytesWritten }) => bytesWritten)
      .catch((error) => (error.code === 'EAGAIN' ? 0 : Promise.reject(error)));
  }
  await pipe.close();

  const file = await user.settled(id);
  expect(file.status).toBe('completed');
  expect((await status()).etaSeconds).toBe(0);
  const { items } = await user.get(`/api/files/${id}/events`);
  const at = (type: string) =>
    Date.parse(items.find((item: { type: string }) => item.type === type).createdAt);
  const took = Object.values(file.steps).map(({ ms }) => ms);
  // The time of each step is rounded, by up to a millisecond.
  const all = at('file.completed') - at('file.processing') + took.length;
  expect(took.reduce((sum, ms) => sum + ms)).toBeLessThanOrEqual(all);
  expect(file.steps.verify?.ms).toBeGreaterThan(file.steps.sniff?.ms ?? 0);
  const steps = items.filter(({ type }: { type: string }) => type === 'file.step');
  for (const { data } of steps) expect(data).toMatchObject(file.steps[data.step] ?? {});
});
