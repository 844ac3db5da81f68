import { createHash, randomBytes } from 'node:crypto';
import type { ClientRequest } from 'node:http';
import { findUpload } from './support/aftermath.js';
import { idOf, registerUser, type TestUser } from './support/client.js';
import { concatenate } from './support/concatenated-upload.js';
import { IETF } from './support/dialects.js';
import { FORMS, type Form } from './support/forms.js';
import { sendHalf as openHalf, whenRead } from './support/half-open.js';
import { open, PARTIAL, say } from './support/ietf-client.js';
import { type Processes, startProcesses } from './support/processes.js';
import { until } from './support/until.js';

/*
 * Two servers over the same database and the same bytes, with nothing in front of them: each request may come to
 * either.
 */

const MIB = 1024 ** 2;

let form: Form;
let processes: Processes;
let first: TestUser;
let second: TestUser;

const patch = (user: TestUser, path: string, offset: number, body: Buffer) =>
  user.tus('PATCH', path, { 'Upload-Offset': String(offset) }, body as BodyInit);

async function offsetAt(user: TestUser, path: string): Promise<number> {
  const answer = await user.tus('HEAD', path);
  expect(answer.status).toBe(200);
  return Number(answer.headers.get('Upload-Offset'));
}

async function expectContent(id: string, content: Buffer): Promise<void> {
  expect(await first.settled(id)).toMatchObject({ status: 'completed', attempts: 1 });
  const answer = await second.fetch(`/api/files/${id}/content`);
  expect(content.equals(Buffer.from(await answer.arrayBuffer()))).toBe(true);
}

/** Begins a PATCH to the first server, whose second half does not come. */
const sendHalf = (path: string, length: number, sent: Buffer) =>
  openHalf(processes.url, first, path, { offset: 0, length, sent });

/** The status of a request; undefined when it was not answered. */
function statusOf(request: ClientRequest): Promise<number | undefined> {
  return new Promise((resolve) => {
    request
      .once('response', (response) => resolve(response.statusCode))
      .once('close', () => resolve(undefined));
  });
}

/** Waits until the first server holds the lease. */
async function whenHeld(id: string): Promise<void> {
  await until('the first server to hold the lease', async () => {
    return (await findUpload(processes, id)).lease_holder === 'server';
  });
}

describe.each(FORMS)('over %s', (_name, openForm) => {
  beforeAll(async () => {
    form = await openForm();
    processes = await startProcesses(form.env, ['server', 'server-2', 'worker']);
    first = await registerUser(() => processes.url);
    second = first.at(() => processes.urlOf('server-2'));
  });
  afterAll(async () => {
    await processes?.close();
    await form?.close();
  });

  test('an upload that was begun on one server goes on on the other, back and forth', async () => {
    const content = randomBytes(4 * 1024 ** 2);
    const step = 256 * 1024;
    const path = await first.create(content.length);
    for (let offset = 0; offset < content.length; offset += step) {
      const [user, other] = offset % (2 * step) === 0 ? [first, second] : [second, first];
      const answer = await patch(user, path, offset, content.subarray(offset, offset + step));
      expect([answer.status, answer.headers.get('Upload-Offset')]).toEqual([204, String(offset + step)]);
      expect(await offsetAt(other, path)).toBe(offset + step);
    }
    await expectContent(idOf(path), content);
  });

  test('one of two requests that write at once succeeds, each time', async () => {
    const length = 2 * 1024 ** 2;
    const path = await first.create(length);
    const stored: Buffer[] = [];
    for (let offset = 0; offset < length; ) {
      const bodies = [100_000, 130_000].map((size) => randomBytes(Math.min(size, length - offset)));
      const answers = await Promise.all(
        [first, second].map((user, index) => patch(user, path, offset, bodies[index] ?? Buffer.alloc(0))),
      );
      expect(answers.map((answer) => answer.status).sort()).toEqual([204, 409]);
      const winner = bodies[answers.findIndex((answer) => answer.status === 204)] ?? Buffer.alloc(0);
      stored.push(winner);
      offset += winner.length;
      expect(await offsetAt(second, path)).toBe(offset);
    }
    await expectContent(idOf(path), Buffer.concat(stored));
  });

  test.each(['HEAD', 'PATCH'])(
    'a half-open connection on one server makes way for a %s on the other',
    async (method) => {
      const content = randomBytes(200_000);
      const path = await first.create(content.length);
      const half = sendHalf(path, content.length, content.subarray(0, 150_000));
      await whenHeld(idOf(path));
      await whenRead(half);

      if (method === 'PATCH') {
        // The client does not know the offset: it gets 409, and the bytes that arrived are kept.
        expect((await patch(second, path, 0, content)).status).toBe(409);
      }
      const offset = await offsetAt(second, path);
      expect(offset).toBe(150_000);
      expect((await patch(second, path, offset, content.subarray(offset))).status).toBe(204);
      half.destroy();
      await expectContent(idOf(path), content);
    },
  );

  test('a half-open connection with a checksum makes way, too, and nothing of it counts', async () => {
    const content = randomBytes(200_000);
    const headers = { 'Upload-Checksum': `md5 ${createHash('md5').update(content).digest('base64')}` };
    const path = await first.create(content.length);
    const body = { offset: 0, length: content.length, sent: content.subarray(0, 150_000) };
    const half = openHalf(processes.url, first, path, body, headers);
    const status = statusOf(half);
    await whenHeld(idOf(path));
    expect(await offsetAt(second, path)).toBe(0);
    expect(await status).toBe(423);
    const answer = await second.tus('PATCH', path, { 'Upload-Offset': '0', ...headers }, content as BodyInit);
    expect(answer.status).toBe(204);
    await expectContent(idOf(path), content);
  });

  test.each(['HEAD', 'PATCH', 'DELETE'])(
    'a half-open creation by the IETF draft makes way for a %s on the other server, and gets no answer',
    async (method) => {
      const content = randomBytes(200_000);
      const half = open(first.url(), first, 'POST', '/uploads', {
        headers: { 'Upload-Complete': '?1', 'Content-Length': String(content.length) },
      });
      const path = `/uploads/${idOf(await half.told('location'))}`;
      half.outgoing.write(content.subarray(0, 150_000));
      // The client of the PATCH does not know the offset.
      const state = { 'Content-Type': PARTIAL, 'Upload-Offset': '200000', 'Upload-Complete': '?1' };
      const headers = method === 'PATCH' ? state : {};
      const [newer, older] = await Promise.all([
        say(second.url(), second, method, path, { headers }),
        half.answer,
      ]);
      expect([newer?.status, older]).toEqual([{ HEAD: 204, PATCH: 409, DELETE: 204 }[method], undefined]);
      if (method === 'DELETE') {
        expect(await say(first.url(), first, 'HEAD', path)).toMatchObject({ status: 410 });
        return;
      }
      const offset = Number(newer?.headers['upload-offset']);
      expect(offset).toBeLessThanOrEqual(150_000);
      const rest = { offset, body: content.subarray(offset), isLast: true };
      expect(await IETF.send(second, path, rest)).toEqual({ offset: content.length, isComplete: true });
      await expectContent(idOf(path), content);
    },
  );

  test('partial uploads sent to one server become a file on the other', async () => {
    const content = randomBytes(9 * MIB);
    const paths: string[] = [];
    for (const bytes of [content.subarray(0, 6 * MIB), content.subarray(6 * MIB)]) {
      const path = await first.create(bytes.length, { 'Upload-Concat': 'partial' });
      expect((await patch(first, path, 0, bytes)).status).toBe(204);
      paths.push(path);
    }
    await expectContent(await concatenate(second, paths), content);
  });

  test('a final upload that is created while another server takes the last byte becomes a file', async () => {
    const content = randomBytes(1000);
    for (let round = 0; round < 10; round++) {
      const partial = await first.create(content.length, { 'Upload-Concat': 'partial' });
      const [answer, id] = await Promise.all([
        patch(first, partial, 0, content),
        concatenate(second, [partial]),
      ]);
      expect(answer.status).toBe(204);
      // One of the two requests has made it.
      expect((await first.fetch(`/api/files/${id}`)).status).toBe(200);
      await expectContent(id, content);
    }
  });

  test('a server that stands still loses its lease, and changes nothing when it wakes up', async () => {
    const length = 12 * MIB;
    const original = randomBytes(length);
    const content = Buffer.from(original);
    // These bytes are enough for a part, so the first server stands still while it sends one.
    const sent = original.subarray(0, 9 * MIB);
    const path = await first.create(length);
    const id = idOf(path);
    const half = sendHalf(path, length, sent);
    await whenHeld(id);
    // From now on the first server may send parts that no row will name.
    if (form.bucket) {
      await until('a part to be announced', async () => (await findUpload(processes, id)).storage_state);
    }
    process.kill(processes.pid('server'), 'SIGSTOP');
    try {
      const offset = await offsetAt(second, path);
      // In S3 the late parts of the first server have numbers of their own, so the client may go on with
      // other bytes. In a folder both servers write to the same file.
      if (form.bucket) randomBytes(length - offset).copy(content, offset);
      const end = 10 * MIB;
      expect((await patch(second, path, offset, content.subarray(offset, end))).status).toBe(204);
      const before = await findUpload(processes, id);
      expect(before).toMatchObject({ offset: end, untidy: true });

      process.kill(processes.pid('server'), 'SIGCONT');
      // The first server still reads the rest of its body.
      half.end(original.subarray(sent.length));
      expect(await statusOf(half)).not.toBe(204);
      expect(await findUpload(processes, id)).toEqual(before);
    } finally {
      process.kill(processes.pid('server'), 'SIGCONT');
    }
    expect(await offsetAt(first, path)).toBe(10 * MIB);
    expect((await patch(first, path, 10 * MIB, content.subarray(10 * MIB))).status).toBe(204);
    await expectContent(id, content);
  });
});
