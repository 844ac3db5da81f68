import { randomBytes } from 'node:crypto';
import { encodeMetadata, registerUser, type TestUser } from './support/client.js';
import { makePng } from './support/fixtures.js';
import { FORMS, type Form } from './support/forms.js';
import { say } from './support/ietf-client.js';
import { FORM_TYPE, filePart, filesOf, form as formOf, post } from './support/plain-client.js';
import { type Processes, startProcesses } from './support/processes.js';
import { send } from './support/sign-in.js';

/* GET /api/uploads/info: each thing that it names is tried, and the next one beyond it is refused. */

const MAX = 100_000;
const MAX_AUDIO = 1000;

let form: Form;
let processes: Processes;
let user: TestUser;

const readInfo = async () => (await fetch(`${processes.url}/api/uploads/info`)).json();
const options = () => fetch(`${processes.url}/uploads`, { method: 'OPTIONS' });

describe.each(FORMS)('over %s', (_name, openForm) => {
  beforeAll(async () => {
    form = await openForm();
    processes = await startProcesses({
      ...form.env,
      MAX_UPLOAD_SIZE: String(MAX),
      MAX_UPLOAD_SIZE_BY_TYPE: `audio/*=${MAX_AUDIO}`,
      UPLOAD_EXPIRY_HOURS: '7',
      TRASH_DAYS: '3',
      FILE_RETENTION_HOURS: '0',
    });
    user = await registerUser(() => processes.url);
  });
  afterAll(async () => {
    await processes?.close();
    await form?.close();
  });

  test('the limits of size and time', async () => {
    const { maxSize, maxSizeByType, expiryHours, trashDays, retentionHours } = await readInfo();
    expect({ maxSize, maxSizeByType, expiryHours, trashDays, retentionHours }).toEqual({
      maxSize: MAX,
      maxSizeByType: [{ type: 'audio/*', maxSize: MAX_AUDIO }],
      expiryHours: 7,
      trashDays: 3,
      retentionHours: null,
    });
    const statusOf = async (length: number, filetype: string) => {
      const headers = {
        'Upload-Length': String(length),
        'Upload-Metadata': encodeMetadata({ filetype }),
      };
      return (await user.tus('POST', '/uploads', headers)).status;
    };
    expect([await statusOf(maxSize, 'video/mp4'), await statusOf(maxSize + 1, 'video/mp4')]).toEqual([
      201, 413,
    ]);
    expect([await statusOf(MAX_AUDIO, 'audio/mpeg'), await statusOf(MAX_AUDIO + 1, 'audio/mpeg')]).toEqual([
      201, 413,
    ]);
    expect((await options()).headers.get('Upload-Limit')).toBe(`max-size=${maxSize}`);
  });

  test('the limits of metadata', async () => {
    const { maxKeys, maxBytes } = (await readInfo()).metadata;
    const statusOf = async (metadata: Record<string, string>) => {
      const headers = { 'Upload-Length': '1', 'Upload-Metadata': encodeMetadata(metadata) };
      return (await user.tus('POST', '/uploads', headers)).status;
    };
    const keys = (count: number) =>
      Object.fromEntries(Array.from({ length: count }, (_, index) => [`k${index}`, 'a']));
    expect([await statusOf(keys(maxKeys)), await statusOf(keys(maxKeys + 1))]).toEqual([201, 400]);
    const note = (bytes: number) => ({ note: 'x'.repeat(bytes - 'note'.length) });
    expect([await statusOf(note(maxBytes)), await statusOf(note(maxBytes + 1))]).toEqual([201, 400]);
  });

  test('the version, the extensions and the checksums of tus', async () => {
    const { tus } = await readInfo();
    const { headers } = await options();
    expect(tus).toEqual({
      version: headers.get('Tus-Version'),
      extensions: headers.get('Tus-Extension')?.split(','),
      checksumAlgorithms: headers.get('Tus-Checksum-Algorithm')?.split(','),
    });
    expect(tus.extensions).toContain('creation');
    expect(tus.checksumAlgorithms).toContain('sha256');
  });

  test('the versions and digests of the IETF draft', async () => {
    const { interopVersions, digestAlgorithms } = (await readInfo()).ietf;
    const ask = (version: number) =>
      say(processes.url, user, 'POST', '/uploads', {
        version,
        headers: { [version === 3 ? 'Upload-Incomplete' : 'Upload-Complete']: version === 3 ? '?1' : '?0' },
        body: Buffer.from('a'),
      });
    const echoed: number[] = [];
    for (let version = 0; version < 20; version++) {
      const answer = await ask(version);
      if (answer?.headers['upload-draft-interop-version'] === String(version)) echoed.push(version);
    }
    expect(interopVersions).toEqual(echoed);
    for (const algorithm of [...digestAlgorithms, 'md5']) {
      const answer = await say(processes.url, user, 'POST', '/uploads', {
        headers: {
          'Upload-Complete': '?0',
          'Content-Digest': `${algorithm}=:${randomBytes(3).toString('base64')}:`,
        },
        body: Buffer.from('a'),
      });
      // A digest of a wrong length is refused where the algorithm is verified, and ignored where it is not.
      expect([algorithm, answer?.status]).toEqual([algorithm, algorithm === 'md5' ? 201 : 400]);
    }
  });

  test('how many files a form may hold, and how a body may be coded', async () => {
    const { maxFiles, contentCodings } = (await readInfo()).plain;
    const send = (files: number) =>
      post(user, formOf(...Array.from({ length: files }, () => filePart('a.txt', 'a'))), {
        'Content-Type': FORM_TYPE,
      });
    expect((await send(maxFiles)).status).toBe(201);
    expect((await send(maxFiles + 1)).status).toBe(400);
    expect(contentCodings).toEqual(expect.arrayContaining(['gzip', 'deflate', 'br']));
    for (const coding of [...contentCodings, 'compress']) {
      const answer = await post(user, 'not coded', { 'Content-Encoding': coding });
      expect([coding, answer.status]).toEqual([coding, coding === 'compress' ? 415 : 400]);
    }
  });

  test('which files get metadata and thumbnails', async () => {
    const { formats } = await readInfo();
    expect(formats.accepted).toEqual(['*/*']);
    expect(formats.metadata).toEqual(
      expect.arrayContaining(['image/*', 'audio/*', 'video/*', 'text/*', 'application/pdf']),
    );
    expect(formats.thumbnails).toEqual(expect.arrayContaining(['image/*', 'application/pdf']));
    const [png] = await filesOf(await post(user, await makePng({ width: 4, height: 4 }), {}));
    const [own] = await filesOf(await post(user, randomBytes(9), { 'Content-Type': 'application/x-own' }));
    expect((await user.settled(png?.id ?? '')).steps).toMatchObject({
      metadata: { state: 'done' },
      thumbnails: { state: 'done' },
    });
    expect(await user.settled(own?.id ?? '')).toMatchObject({
      status: 'completed',
      steps: { metadata: { state: 'skipped' }, thumbnails: { state: 'skipped' } },
    });
  });

  test('whether parts go straight to the store', async () => {
    const { direct } = await readInfo();
    const presigned = await send(user, 'POST', '/api/uploads/presign', { size: 10 });
    expect(presigned.status).toBe(direct === null ? 409 : 200);
    if (direct === null) return;
    const { id } = await presigned.json();
    const statusOf = async (count: number) =>
      (await send(user, 'POST', '/api/uploads/presign', { id, parts: Array<number>(count).fill(1) })).status;
    expect([await statusOf(direct.maxAddresses), await statusOf(direct.maxAddresses + 1)]).toEqual([
      200, 400,
    ]);
  });

  test('a page of another origin may read it, without a token', async () => {
    const answer = await fetch(`${processes.url}/api/uploads/info`, {
      headers: { Origin: 'https://a.example' },
    });
    expect(answer.headers.get('Access-Control-Allow-Origin')).toBe('*');
    // Nothing in it depends on the caller.
    expect(await user.get('/api/uploads/info')).toEqual(await answer.json());
  });
});
