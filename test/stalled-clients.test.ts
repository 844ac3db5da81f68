import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdir, symlink } from 'node:fs/promises';
import { type IncomingMessage, request } from 'node:http';
import { dirname } from 'node:path';
import { text } from 'node:stream/consumers';
import { gzipSync } from 'node:zlib';
import { idOf, registerUser, type TestUser } from './support/client.js';
import { FORMS, type Form } from './support/forms.js';
import { sendHalf } from './support/half-open.js';
import { uploadPathOf } from './support/objects.js';
import { FORM_TYPE, filePart, MIB } from './support/plain-client.js';
import { type Processes, startProcesses } from './support/processes.js';

/* Clients that stop sending without closing, while their bytes cannot be stored, get the error at once. */

/** Enough bytes that the store commits in the middle. */
const CONTENT = randomBytes(44 * MIB);

const OCTETS = { 'Tus-Resumable': '1.0.0', 'Content-Type': 'application/offset+octet-stream' };
const CHUNKED = { 'Transfer-Encoding': 'chunked' };

interface Stalled {
  method: string;
  path: string;
  headers: Record<string, string>;
  content?: Buffer;
}

const KINDS: [what: string, make: (user: TestUser) => Promise<Stalled>][] = [
  [
    'PATCH of a known length',
    async (user) => ({
      method: 'PATCH',
      path: await user.create(64 * MIB),
      headers: { ...OCTETS, 'Upload-Offset': '0', 'Content-Length': String(64 * MIB) },
    }),
  ],
  [
    'PATCH of a deferred length',
    async (user) => ({
      method: 'PATCH',
      path: await user.create(null),
      headers: { ...OCTETS, ...CHUNKED, 'Upload-Offset': '0' },
    }),
  ],
  [
    'creation with upload',
    async () => ({
      method: 'POST',
      path: '/uploads',
      headers: { ...OCTETS, ...CHUNKED, 'Upload-Defer-Length': '1' },
    }),
  ],
  [
    'plain POST with Content-Length',
    async () => ({ method: 'POST', path: '/api/files', headers: { 'Content-Length': String(64 * MIB) } }),
  ],
  ['plain POST in chunks', async () => ({ method: 'POST', path: '/api/files', headers: CHUNKED })],
  [
    'form',
    async () => ({
      method: 'POST',
      path: '/api/files',
      headers: { ...CHUNKED, 'Content-Type': FORM_TYPE },
      content: filePart('a', CONTENT).subarray(0, -2),
    }),
  ],
  [
    'compressed POST',
    async () => ({
      method: 'POST',
      path: '/api/files',
      headers: { ...CHUNKED, 'Content-Encoding': 'gzip' },
      content: gzipSync(CONTENT, { level: 1 }).subarray(0, -100),
    }),
  ],
];

describe.each(FORMS)('over %s', (_name, openForm) => {
  let form: Form;
  let processes: Processes;
  let user: TestUser;

  beforeAll(async () => {
    form = await openForm();
    processes = await startProcesses(form.env, ['server']);
    user = await registerUser(() => processes.url);
    await processes.database.query(`
      CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not today'; END $$;
      CREATE TRIGGER refuse BEFORE UPDATE ON uploads
        FOR EACH ROW WHEN (NEW."offset" > 0) EXECUTE FUNCTION refuse();`);
  });
  afterAll(async () => {
    await processes?.close();
    await form?.close();
  });

  test.each(KINDS)(
    'a failure in the middle is answered though no more bytes come: %s',
    async (_what, make) => {
      const { method, path, headers, content = CONTENT } = await make(user);
      const half = request(`${processes.url}${path}`, {
        method,
        headers: { Authorization: `Bearer ${user.token}`, ...headers },
      });
      half.on('error', () => {});
      half.write(content);
      const [answer] = (await once(half, 'response')) as [IncomingMessage];
      expect([500, 503]).toContain(answer.statusCode);
      expect(await text(answer)).not.toContain('not today');
      half.destroy();
    },
  );
});

test('files: a full disk is answered with 507 though no more bytes come', async () => {
  const processes = await startProcesses({}, ['server']);
  try {
    const user = await registerUser(() => processes.url);
    const path = await user.create(64 * MIB);
    const file = await uploadPathOf(processes, idOf(path));
    await mkdir(dirname(file), { recursive: true });
    await symlink('/dev/full', file);
    const half = sendHalf(processes.url, user, path, {
      offset: 0,
      length: 64 * MIB,
      sent: randomBytes(1000),
    });
    const [answer] = (await once(half, 'response')) as [IncomingMessage];
    expect(answer.statusCode).toBe(507);
    half.destroy();
  } finally {
    await processes.close();
  }
});
