import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { stat } from 'node:fs/promises';
import { type ClientRequest, request as httpRequest, type IncomingMessage } from 'node:http';
import { Readable } from 'node:stream';
import * as tus from 'tus-js-client';
import { idOf, registerUser, type TestUser } from './support/client.js';
import { uploadPathOf } from './support/objects.js';
import { type Processes, startProcesses } from './support/processes.js';
import { until } from './support/until.js';

const MiB = 2 ** 20;

let processes: Processes;
let user: TestUser;

beforeAll(async () => {
  processes = await startProcesses();
  user = await registerUser(() => processes.url);
});

afterAll(() => processes?.close());

const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');

/** A PATCH that the test can hold in the middle of its body. */
interface OpenPatch {
  send(bytes: Uint8Array | string): Promise<void>;
  end(): void;
  /** Closes the connection without the rest of the body. */
  cut(): void;
  answer: Promise<IncomingMessage>;
}

const open: ClientRequest[] = [];

afterEach(() => {
  for (const request of open.splice(0)) request.on('error', () => {}).destroy();
});

/** Begins a PATCH that says it has `length` bytes. */
function openPatch(path: string, offset: number, length: number): OpenPatch {
  const { hostname, port } = new URL(processes.url);
  const request = httpRequest({
    hostname,
    port,
    path,
    method: 'PATCH',
    agent: false,
    headers: {
      Authorization: `Bearer ${user.token}`,
      'Tus-Resumable': '1.0.0',
      'Content-Type': 'application/offset+octet-stream',
      'Content-Length': length,
      'Upload-Offset': offset,
    },
  });
  open.push(request);
  const answer = once(request, 'response').then(([message]) => message.resume());
  answer.catch(() => {});
  return {
    send: (bytes) => new Promise((resolve) => request.write(bytes, () => resolve())),
    end: () => request.end(),
    cut: () => request.on('error', () => {}).destroy(),
    answer,
  };
}

/** Waits until the server has written so many bytes of an upload. */
async function arrived(path: string, bytes: number): Promise<void> {
  const file = await uploadPathOf(processes, idOf(path));
  await until(
    `${bytes} bytes on disk`,
    async () => ((await stat(file).catch(() => undefined))?.size ?? 0) >= bytes,
  );
}

async function offsetOf(path: string): Promise<number> {
  const answer = await user.tus('HEAD', path);
  expect(answer.status).toBe(200);
  return Number(answer.headers.get('Upload-Offset'));
}

async function sendRest(path: string, content: Uint8Array, offset: number): Promise<void> {
  const answer = await user.tus(
    'PATCH',
    path,
    { 'Upload-Offset': String(offset) },
    content.subarray(offset) as BodyInit,
  );
  expect(answer.status).toBe(204);
  expect(answer.headers.get('Upload-Offset')).toBe(String(content.length));
}

async function expectContent(path: string, content: Uint8Array): Promise<void> {
  const file = await user.settled(idOf(path));
  expect(file).toMatchObject({ status: 'completed', size: content.length, sha256: sha256(content) });
}

test('tus-js-client resumes an aborted upload', async () => {
  const content = randomBytes(20 * MiB);
  const options = {
    endpoint: `${processes.url}/uploads`,
    headers: { Authorization: `Bearer ${user.token}` },
    chunkSize: 8 * MiB,
    retryDelays: null,
  };
  const url = await new Promise<string>((resolve, reject) => {
    const upload = new tus.Upload(content, {
      ...options,
      onProgress: (sent) => {
        if (sent > 10 * MiB) upload.abort().then(() => resolve(upload.url ?? ''), reject);
      },
      onError: reject,
    });
    upload.start();
  });
  const path = new URL(url).pathname;
  const offset = await offsetOf(path);
  expect(offset).toBeGreaterThanOrEqual(8 * MiB);
  expect(offset).toBeLessThan(content.length);

  const offsets: number[] = [];
  await user.tusUpload(content, {
    uploadUrl: url,
    chunkSize: 8 * MiB,
    onBeforeRequest: (request) => {
      if (request.getMethod() === 'PATCH') offsets.push(Number(request.getHeader('Upload-Offset')));
    },
  });
  expect(offsets[0]).toBe(offset);
  await expectContent(path, content);
});

test.each([1, 1000, 100_000, 3 * MiB])(
  'of a connection that breaks, %d bytes that had arrived are kept',
  async (sent) => {
    const content = randomBytes(4 * MiB);
    const path = await user.create(content.length);
    const patching = openPatch(path, 0, content.length);
    await patching.send(content.subarray(0, sent));
    await arrived(path, sent);
    patching.cut();
    expect(await offsetOf(path)).toBe(sent);
    await sendRest(path, content, sent);
    await expectContent(path, content);
  },
);

test('an upload of unknown length goes on after a break, too', async () => {
  const content = randomBytes(MiB);
  const path = await user.create(null);
  const patching = openPatch(path, 0, content.length);
  await patching.send(content.subarray(0, 1000));
  await arrived(path, 1000);
  patching.cut();
  expect(await offsetOf(path)).toBe(1000);
  const rest = { 'Upload-Offset': '1000', 'Upload-Length': String(content.length) };
  expect((await user.tus('PATCH', path, rest, content.subarray(1000) as BodyInit)).status).toBe(204);
  await expectContent(path, content);
});

test('an upload is finished although each connection breaks right after its bytes', async () => {
  const content = randomBytes(2 * MiB);
  const path = await user.create(content.length);
  let offset = 0;
  for (let round = 0; round < 40 && offset < content.length; round++) {
    const patching = openPatch(path, offset, content.length - offset);
    await patching.send(content.subarray(offset, offset + 200_000));
    patching.cut();
    const now = await offsetOf(path);
    expect(now).toBeGreaterThanOrEqual(offset);
    offset = now;
  }
  if (offset < content.length) throw new Error(`only ${offset} bytes after 40 connections`);
  await expectContent(path, content);
});

describe('a half-open connection', () => {
  test('makes way for a HEAD and a PATCH, and its bytes are kept', async () => {
    const content = randomBytes(2 * MiB);
    const path = await user.create(content.length);
    const dead = openPatch(path, 0, content.length);
    await dead.send(content.subarray(0, MiB));
    await arrived(path, MiB);

    // A HEAD that waits too long for the lease would get 423.
    expect(await offsetOf(path)).toBe(MiB);
    await sendRest(path, content, MiB);
    await expectContent(path, content);
  });

  test('makes way for a PATCH that comes without a HEAD', async () => {
    const path = await user.create(6);
    const dead = openPatch(path, 0, 6);
    await dead.send('abc');
    await arrived(path, 3);
    expect((await user.tus('PATCH', path, { 'Upload-Offset': '3' }, 'def')).status).toBe(204);
    await expectContent(path, Buffer.from('abcdef'));
  });

  test('makes way for a DELETE', async () => {
    const path = await user.create(6);
    const dead = openPatch(path, 0, 6);
    await dead.send('abc');
    await arrived(path, 3);
    expect((await user.tus('DELETE', path)).status).toBe(204);
    expect((await user.tus('HEAD', path)).status).toBe(410);
  });
});

test('of two PATCHes at the same offset the bytes of one count, never a mixture', async () => {
  for (let round = 0; round < 5; round++) {
    const length = 4 * MiB;
    const path = await user.create(length);
    const answers = await Promise.all(
      ['a', 'b'].map(async (letter) => {
        const body = Readable.toWeb(Readable.from(Array(64).fill(Buffer.alloc(length / 64, letter))));
        const answer = await user.tus('PATCH', path, { 'Upload-Offset': '0' }, body as never);
        return { letter, status: answer.status, offset: Number(answer.headers.get('Upload-Offset')) };
      }),
    );
    const taken = answers.filter(({ status }) => status === 204);
    const refused = answers.filter(({ status }) => status !== 204);
    const winner = taken.find(({ offset }) => offset > 0);
    expect(refused.every(({ status }) => status === 409)).toBe(true);
    const offset = await offsetOf(path);
    expect(offset).toBe(winner?.offset);

    const content = Buffer.concat([Buffer.alloc(offset, winner?.letter), Buffer.alloc(length - offset, 'c')]);
    if (offset < length) await sendRest(path, content, offset);
    await expectContent(path, content);
  }
});

test('many PATCHes and HEADs at once neither lose nor invent a byte', async () => {
  const content = randomBytes(MiB);
  const path = await user.create(content.length);
  let offset = 0;
  while (offset < content.length) {
    const end = Math.min(offset + 300_000, content.length);
    const answers = await Promise.all([
      ...Array.from({ length: 4 }, () =>
        user.tus(
          'PATCH',
          path,
          { 'Upload-Offset': String(offset) },
          content.subarray(offset, end) as BodyInit,
        ),
      ),
      ...Array.from({ length: 4 }, () => user.tus('HEAD', path)),
    ]);
    for (const { status } of answers) expect([200, 204, 409]).toContain(status);
    offset = await offsetOf(path);
  }
  await expectContent(path, content);
});

describe('SIGTERM', () => {
  test('in mid-upload ends the server in good order, and the received bytes are kept', async () => {
    const content = randomBytes(2 * MiB);
    const path = await user.create(content.length);
    const patching = openPatch(path, 0, content.length);
    await patching.send(content.subarray(0, MiB + 1));
    await arrived(path, MiB + 1);

    // A server that takes too long to stop ends with 1.
    expect(await processes.stop('server')).toBe(0);
    await processes.start('server');
    expect(await offsetOf(path)).toBe(MiB + 1);
    await sendRest(path, content, MiB + 1);
    await expectContent(path, content);
  });

  test('lets an upload finish whose last bytes arrive soon', async () => {
    const path = await user.create(6);
    const patching = openPatch(path, 0, 6);
    await patching.send('abc');
    await arrived(path, 3);
    const stopping = processes.stop('server');
    await patching.send('def');
    patching.end();
    expect((await patching.answer).statusCode).toBe(204);
    expect(await stopping).toBe(0);
    await processes.start('server');
    await expectContent(path, Buffer.from('abcdef'));
  });

  test('does not fail an upload whose client tries again', async () => {
    const content = randomBytes(20 * MiB);
    let restarting: Promise<void> | undefined;
    const restart = async () => {
      expect(await processes.stop('server')).toBe(0);
      await processes.start('server');
    };
    const id = await user.tusUpload(content, {
      chunkSize: 4 * MiB,
      // On a busy machine the server takes long to start.
      retryDelays: Array(60).fill(500),
      onProgress: (sent) => {
        if (sent > 6 * MiB) restarting ??= restart();
      },
    });
    await restarting;
    await expectContent(`/uploads/${id}`, content);
  });
});
