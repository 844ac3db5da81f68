import { randomBytes } from 'node:crypto';
import { rename } from 'node:fs/promises';
import { join } from 'node:path';
import { expectCompletedOnce } from '../support/aftermath.js';
import { type FileJson, idOf, registerUser, type TestUser } from '../support/client.js';
import { IETF, type Piece } from '../support/dialects.js';
import { FORMS, type Form } from '../support/forms.js';
import { type PostgresProxy, startPostgresProxy } from '../support/postgres-proxy.js';
import { type Processes, startProcesses } from '../support/processes.js';
import { type S3Proxy, startS3Proxy } from '../support/s3-proxy.js';
import { until } from '../support/until.js';

/*
 * The database or the store goes away while a client of the IETF draft sends. Apple's URLSession resumes when the connection
 * breaks, and not when it is answered with a 5xx. So a client that knows the address is cut off.
 */

const LENGTH = 300_000;
const FIRST = 100_000;

let form: Form;
let postgres: PostgresProxy;
let s3: S3Proxy | undefined;
let processes: Processes;
let user: TestUser;

const pieceOf = (content: Buffer, offset: number, end = LENGTH): Piece => ({
  offset,
  body: content.subarray(offset, end),
  isLast: end === LENGTH,
});

/** Each makes something go away, and returns what brings it back. */
const OUTAGES = {
  async database() {
    await postgres.away();
    return postgres.back;
  },
  async store() {
    if (s3) {
      await s3.away();
      return s3.back;
    }
    // As when a disk is not mounted any more.
    const folder = join(processes.dataDir, 'blobs');
    await rename(folder, `${folder}.away`);
    return () => rename(`${folder}.away`, folder);
  },
};

interface Sending {
  path: string;
  content: Buffer;
  /** In bytes. */
  offset: number;
  /** Sends the missing bytes. @returns undefined if the request was cut off */
  go(): ReturnType<typeof IETF.send>;
}

/** An upload whose POST is open. None of its bytes was sent. */
async function openWhole(): Promise<Sending> {
  const content = randomBytes(LENGTH);
  const first = pieceOf(content, 0);
  const { path, send } = await IETF.begin(user, { length: LENGTH, first });
  return { path, content, offset: 0, go: () => send(first) };
}

/** An upload that has its first piece, and goes on by PATCH. */
async function openInPieces(): Promise<Sending> {
  const content = randomBytes(LENGTH);
  const first = pieceOf(content, 0, FIRST);
  const { path, send } = await IETF.begin(user, { length: LENGTH, first });
  expect(await send(first)).toEqual({ offset: FIRST, isComplete: false });
  return { path, content, offset: FIRST, go: () => IETF.send(user, path, pieceOf(content, FIRST)) };
}

async function goOn({ path, content, offset }: Sending): Promise<void> {
  const told = await until('the server to tell the offset', () => IETF.ask(user, path));
  expect(told).toEqual({ offset, isComplete: false });
  const sent = await IETF.send(user, path, pieceOf(content, offset));
  expect(sent).toEqual({ offset: LENGTH, isComplete: true });
  await expectCompletedOnce(processes, user, idOf(path), content);
}

const listFiles = async (): Promise<string[]> =>
  (await user.get('/api/files')).items.map(({ id }: FileJson) => id).sort();

describe.each(FORMS)('on %s', (_name, openForm) => {
  beforeAll(async () => {
    form = await openForm();
    postgres = await startPostgresProxy();
    s3 = form.bucket && (await startS3Proxy(form.bucket.env.S3_ENDPOINT));
    const env = { ...form.env, ...(s3 ? { S3_ENDPOINT: s3.url } : {}) };
    processes = await startProcesses(env, ['server', 'worker'], postgres.reach);
    user = await registerUser(() => processes.url);
  });
  afterAll(async () => {
    await processes?.close();
    await s3?.close();
    await postgres?.close();
    await form?.close();
  });

  test.each(['database', 'store'] as const)(
    'when the %s goes away, requests are cut off, and their clients go on when it is back',
    async (which) => {
      const before = await listFiles();
      const uploads = [await openInPieces()];
      // A file that is open can be written to, wherever its folder goes.
      if (s3 || which === 'database') uploads.push(await openWhole());
      const bringBack = await OUTAGES[which]();
      // Each throws if the server answers with an error.
      const sent = await Promise.all(uploads.map(({ go }) => go()));
      expect(sent).toEqual(uploads.map(() => undefined));
      if (which === 'database') expect(await IETF.ask(user, uploads[0]?.path ?? '')).toBeUndefined();
      await bringBack();
      await Promise.all(uploads.map(goOn));
      const ids = uploads.map(({ path }) => idOf(path));
      expect(await listFiles()).toEqual([...before, ...ids].sort());
    },
  );
});
