import { createHash, randomBytes } from 'node:crypto';
import { request } from 'node:http';
import { setTimeout as pause } from 'node:timers/promises';
import { findUpload } from './support/aftermath.js';
import { expectBooksRight, setQuota, usageOf, userWithQuota } from './support/books.js';
import { idOf, registerUser, type TestUser } from './support/client.js';
import { FORMS, type Form } from './support/forms.js';
import { sendHalf } from './support/half-open.js';
import { runPasses } from './support/passes.js';
import { type PostgresProxy, startPostgresProxy } from './support/postgres-proxy.js';
import { type Processes, startProcesses } from './support/processes.js';
import { until } from './support/until.js';
import { makeDue } from './support/uploads.js';

/*
 * Uploads of unknown length: the server reserves room as the bytes come, and stops the upload where no room is left.
 */

const KIB = 1024;
const MIB = 1024 ** 2;

let form: Form;
let postgres: PostgresProxy;
let processes: Processes;
let admin: TestUser;

const newUser = (maxBytes: number | null) => userWithQuota(() => processes.url, admin, { maxBytes });

const elsewhere = (user: TestUser) => user.at(() => processes.urlOf('server-2'));

/** Sends what `body` yields in chunks that leave one by one, as a camera would. */
function stream(
  user: TestUser,
  path: string,
  offset: number,
  body: Iterable<Uint8Array> | AsyncIterable<Uint8Array>,
  headers: Record<string, string> = {},
): Promise<{ status: number; text: string }> {
  return new Promise((resolve, reject) => {
    const sent = request(`${processes.url}${path}`, {
      method: 'PATCH',
      headers: {
        Authorization: `Bearer ${user.token}`,
        'Tus-Resumable': '1.0.0',
        'Upload-Offset': String(offset),
        'Content-Type': 'application/offset+octet-stream',
        ...headers,
      },
    });
    let answered = false;
    sent.on('response', (response) => {
      answered = true;
      let text = '';
      response.setEncoding('utf8').on('data', (chunk) => {
        text += chunk;
      });
      response.on('end', () => resolve({ status: response.statusCode ?? 0, text }));
      response.on('error', reject);
    });
    sent.on('error', (error) => {
      if (!answered) reject(error);
    });
    const over = closed(sent);
    void (async () => {
      for await (const chunk of body) {
        if (answered || sent.destroyed) return;
        // As a real client, which takes no more than the connection does.
        if (!sent.write(chunk)) {
          await Promise.race([new Promise((drained) => sent.once('drain', drained)), over]);
        }
      }
      sent.end();
    })();
  });
}

const closed = (sent: ReturnType<typeof request>) =>
  new Promise<void>((resolve) => sent.once('close', () => resolve()).once('response', () => resolve()));

/** `content` in pieces of `size` bytes, with a moment between them now and then. */
async function* pieces(content: Uint8Array, size: number, every = Number.POSITIVE_INFINITY) {
  for (let from = 0; from < content.byteLength; from += size) {
    yield content.subarray(from, from + size);
    if ((from / size) % every === every - 1) await pause(1);
  }
}

async function offsetOf(user: TestUser, path: string): Promise<number> {
  const answer = await user.tus('HEAD', path);
  expect(answer.status).toBe(200);
  return Number(answer.headers.get('Upload-Offset'));
}

const patch = (user: TestUser, path: string, offset: number, body: Uint8Array, headers = {}) =>
  user.tus('PATCH', path, { 'Upload-Offset': String(offset), ...headers }, body as BodyInit);

const reservedOf = async (path: string) => Number((await findUpload(processes, idOf(path))).reserved_bytes);

async function expectContent(user: TestUser, path: string, content: Uint8Array): Promise<void> {
  const file = await user.settled(idOf(path));
  expect(file).toMatchObject({
    status: 'completed',
    size: content.byteLength,
    sha256: createHash('sha256').update(content).digest('hex'),
  });
}

describe.each(FORMS)('over %s', (_name, openForm) => {
  beforeAll(async () => {
    form = await openForm();
    postgres = await startPostgresProxy();
    processes = await startProcesses(form.env, ['server', 'server-2', 'worker'], postgres.reach);
    admin = await registerUser(() => processes.url);
  });
  afterEach(() => expectBooksRight(processes.database));
  afterAll(async () => {
    await processes?.close();
    await postgres?.close();
    await form?.close();
  });

  test.each([
    ['in one piece', MIB, Number.POSITIVE_INFINITY],
    ['in small pieces', 700, 20],
  ])('an upload %s is cut at the quota, and goes on once there is more room', async (_how, size, every) => {
    const quota = 300_001;
    const content = randomBytes(600_000);
    const user = await newUser(quota);
    const path = await user.create(null);
    const answer = await stream(user, path, 0, pieces(content, size, every));
    expect(answer).toEqual({
      status: 413,
      text: `${quota} of ${quota} bytes are in use: delete something first\n`,
    });
    // Every byte that fitted is kept, and not one more.
    expect(await offsetOf(user, path)).toBe(quota);
    expect(await usageOf(user)).toEqual({ bytes: quota, files: 1 });
    expect((await stream(user, path, quota, [content.subarray(quota)])).status).toBe(413);
    expect(await offsetOf(elsewhere(user), path)).toBe(quota);

    await setQuota(admin, user, { maxBytes: content.byteLength });
    const rest = content.subarray(quota);
    const ended = await patch(user, path, quota, rest, { 'Upload-Length': String(content.byteLength) });
    expect(ended.status).toBe(204);
    await expectContent(user, path, content);
    expect(await usageOf(user)).toEqual({ bytes: content.byteLength, files: 1 });
  });

  test('a client that sends far more than fits still gets the answer', async () => {
    const quota = 200_000;
    const user = await newUser(quota);
    const path = await user.create(null);
    const content = Buffer.alloc(64 * MIB);
    const answer = await stream(user, path, 0, pieces(content, 64 * KIB));
    expect(answer.status).toBe(413);
    expect(await offsetOf(user, path)).toBe(quota);
  });

  test('two uploads at a time over two servers never exceed the quota together', async () => {
    const quota = 3 * MIB + 12_345;
    const content = [randomBytes(2 * MIB), randomBytes(2 * MIB)];
    const user = await newUser(quota);
    const users = [user, elsewhere(user)];
    const paths = await Promise.all(users.map((one) => one.create(null)));
    let done = false;
    const watch = (async () => {
      while (!done) {
        await expectBooksRight(processes.database);
        expect((await usageOf(user)).bytes).toBeLessThanOrEqual(quota);
      }
    })();
    const answers = await Promise.all(
      paths.map((path, n) =>
        stream(
          (users[n] as TestUser).at(() => processes.urlOf(n === 0 ? 'server' : 'server-2')),
          path,
          0,
          pieces(content[n] as Buffer, 20_000, 10),
        ),
      ),
    );
    done = true;
    await watch;
    // At least one upload was cut. The other got all its bytes, or was cut too at the end of the quota.
    expect(answers.some(({ status }) => status === 413)).toBe(true);
    const offsets = await Promise.all(paths.map((path) => offsetOf(user, path)));
    const sum = offsets.reduce((a, b) => a + b, 0);
    expect(sum).toBeLessThanOrEqual(quota);
    expect(await usageOf(user)).toEqual({ bytes: sum, files: 2 });

    await setQuota(admin, user, { maxBytes: null });
    for (const [n, path] of paths.entries()) {
      const whole = content[n] as Buffer;
      const offset = offsets[n] as number;
      const length = { 'Upload-Length': String(whole.byteLength) };
      expect((await patch(user, path, offset, whole.subarray(offset), length)).status).toBe(204);
      await expectContent(user, path, whole);
    }
  });

  test('a small quota serves two uploads at a time: neither reserves all the room ahead', async () => {
    const user = await newUser(MIB);
    const [slow, fast] = await Promise.all([user.create(null), user.create(null)]);
    const half = sendHalf(processes.url, user, slow, {
      offset: 0,
      length: 200_000,
      sent: randomBytes(100_000),
    });
    await until('the slow one to have reserved', async () => (await reservedOf(slow)) > 0);
    const content = randomBytes(500_000);
    expect((await patch(elsewhere(user), fast, 0, content)).status).toBe(204);
    half.destroy();
    await until('the slow one to have given back', async () => (await reservedOf(slow)) === 100_000);
    expect(await usageOf(user)).toEqual({ bytes: 600_000, files: 2 });
  });

  test('a length that is declared later and does not fit changes nothing', async () => {
    const user = await newUser(100_000);
    const path = await user.create(null);
    const content = randomBytes(100_000);
    expect((await patch(user, path, 0, content.subarray(0, 40_000))).status).toBe(204);
    const before = await findUpload(processes, idOf(path));
    const tooLong = await patch(user, path, 40_000, content.subarray(40_000), { 'Upload-Length': '100001' });
    expect([tooLong.status, await tooLong.text()]).toEqual([
      413,
      '40000 of 100000 bytes are in use, and this upload has 100001: delete something first\n',
    ]);
    expect(await findUpload(processes, idOf(path))).toMatchObject({
      offset: 40_000,
      length: null,
      status: 'uploading',
      reserved_bytes: before.reserved_bytes,
      expires_at: before.expires_at,
    });
    expect((await user.tus('HEAD', path)).headers.get('Upload-Defer-Length')).toBe('1');
    const tooShort = await patch(user, path, 40_000, Buffer.alloc(0), { 'Upload-Length': '39999' });
    expect([tooShort.status, await tooShort.text()]).toEqual([400, expect.stringMatching(/39999.*40000/)]);
    expect(await usageOf(user)).toEqual({ bytes: 40_000, files: 1 });

    const fits = await patch(user, path, 40_000, content.subarray(40_000), { 'Upload-Length': '100000' });
    expect(fits.status).toBe(204);
    await expectContent(user, path, content);
    expect(await usageOf(user)).toEqual({ bytes: 100_000, files: 1 });
  });

  test('room that was reserved ahead is given back after each PATCH, also after a broken one', async () => {
    const user = await newUser(null);
    const path = await user.create(null);
    expect((await patch(user, path, 0, randomBytes(50_000))).status).toBe(204);
    expect(await reservedOf(path)).toBe(50_000);
    const half = sendHalf(processes.url, user, path, {
      offset: 50_000,
      length: 90_000,
      sent: randomBytes(20_000),
    });
    await until('room to be reserved', async () => (await reservedOf(path)) > 16 * MIB);
    half.destroy();
    await until('it to be given back', async () => (await reservedOf(path)) === 70_000);
    expect(await usageOf(user)).toEqual({ bytes: 70_000, files: 1 });
    expect(await offsetOf(user, path)).toBe(70_000);
  });

  test.each(['the upload goes on', 'it is terminated', 'it expires'])(
    'what a killed server had reserved ahead is given back when %s',
    async (how) => {
      const user = await newUser(null);
      const path = await user.create(null);
      const id = idOf(path);
      sendHalf(processes.url, user, path, { offset: 0, length: 90_000, sent: randomBytes(20_000) });
      await until('room to be reserved', async () => (await reservedOf(path)) > 16 * MIB);
      await processes.kill('server');
      await processes.start('server');
      expect((await usageOf(user)).bytes).toBeGreaterThan(16 * MIB);
      if (how === 'the upload goes on') {
        const offset = await offsetOf(user, path);
        expect((await patch(user, path, offset, randomBytes(100))).status).toBe(204);
        expect(await usageOf(user)).toEqual({ bytes: offset + 100, files: 1 });
      } else {
        if (how === 'it is terminated') expect((await user.tus('DELETE', path)).status).toBe(204);
        else {
          await makeDue(processes.database, id);
          await runPasses(processes, async () => (await findUpload(processes, id)).status === 'expired');
        }
        expect(await usageOf(user)).toEqual({ bytes: 0, files: 0 });
      }
    },
  );

  test('it costs one reservation in 16 MiB, and one at the end', async () => {
    const user = await newUser(null);
    const path = await user.create(null);
    const content = Buffer.alloc(40 * MIB);
    const statements = () =>
      postgres.statements.filter(({ text }) => /SET reserved_bytes = reserved_bytes \+ bytes/.test(text))
        .length;
    const before = statements();
    expect((await patch(user, path, 0, content)).status).toBe(204);
    expect(statements() - before).toBeLessThanOrEqual(4);
    expect(await reservedOf(path)).toBe(content.byteLength);
    // There must be some, or the filter matches nothing.
    expect(statements() - before).toBeGreaterThanOrEqual(3);
  });
});
