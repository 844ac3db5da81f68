import { randomBytes } from 'node:crypto';
import exifr from 'exifr';
import sharp from 'sharp';
import { checkHookMetadata } from '../core/uploads/description.js';
import { type FileJson, registerUser, type TestUser } from './support/client.js';
import { concatenate } from './support/concatenated-upload.js';
import {
  makeGif,
  makeJpeg,
  makePhotograph,
  makePng,
  makeTruncatedJpeg,
  makeWebp,
} from './support/fixtures.js';
import { say } from './support/ietf-client.js';
import { expectProblem, FORM_TYPE, filePart, filesOf, form, part, post } from './support/plain-client.js';
import { type Processes, startProcesses } from './support/processes.js';
import { createBucket, type TestBucket } from './support/s3.js';
import { send } from './support/sign-in.js';
import { until } from './support/until.js';

/* Optimised images: from the settings of an upload to the answer of GET /optimized. optimize.test.ts has what they look like. */

let bucket: TestBucket;
let processes: Processes;
let user: TestUser;
let photograph: Buffer;

beforeAll(async () => {
  bucket = await createBucket();
  // Images of one type are optimised without being asked for.
  processes = await startProcesses({ ...bucket.env, OPTIMIZE: 'image/webp=quality:50,maxWidth:100' });
  user = await registerUser(() => processes.url);
  photograph = await makePhotograph();
});

afterAll(async () => {
  await processes?.close();
  await bucket?.drop();
});

const SMALL = { maxWidth: 300, format: 'webp' };

/** Uploads by tus. */
async function upload(content: Buffer, settings?: object | null, filename = 'photo.jpg'): Promise<FileJson> {
  const described = settings === undefined ? {} : { settings: JSON.stringify(settings) };
  return user.settled(await user.upload(content, { filename, ...described }));
}

async function again(id: string, body: object): Promise<FileJson> {
  const answer = await send(user, 'POST', `/api/files/${id}/process`, body);
  expect([answer.status, (await answer.json()).status]).toEqual([200, 'pending']);
  return user.settled(id);
}

const optimizedOf = (id: string, init?: RequestInit) => user.fetch(`/api/files/${id}/optimized`, init);

async function expectNone(id: string, detail: RegExp): Promise<void> {
  expect(await expectProblem(await optimizedOf(id), 404, 'not_found')).toMatch(detail);
}

async function metadataOf(id: string) {
  const answer = await optimizedOf(id);
  expect(answer.status).toBe(200);
  return sharp(Buffer.from(await answer.arrayBuffer())).metadata();
}

test('an image whose upload has settings gets an optimised form, and the file says what that saves', async () => {
  const file = await upload(photograph, { ...SMALL, quality: 70 });
  expect(file).toMatchObject({ status: 'completed', settings: { ...SMALL, quality: 70 }, warnings: [] });
  expect(file.steps.optimize).toMatchObject({ state: 'done' });
  const answer = await optimizedOf(file.id);
  expect(answer.status).toBe(200);
  const bytes = Buffer.from(await answer.arrayBuffer());
  expect(await sharp(bytes).metadata()).toMatchObject({ format: 'webp', width: 300, height: 480 });
  const { optimized } = file.metadata;
  const ratio = Math.round((bytes.length / photograph.length) * 10_000) / 10_000;
  expect(optimized).toEqual({
    result: 'made',
    originalSize: photograph.length,
    size: bytes.length,
    ratio,
    durationMs: expect.any(Number),
    width: 300,
    height: 480,
    format: 'webp',
    settings: {
      quality: 70,
      maxWidth: 300,
      maxHeight: null,
      fit: 'inside',
      format: 'webp',
      metadata: 'strip',
      lossless: false,
    },
  });
  const expected = {
    'Content-Type': 'image/webp',
    'Content-Length': String(bytes.length),
    'X-Original-Size': String(photograph.length),
    'X-Compression-Ratio': String(ratio),
    'X-Processing-Time': String(optimized.durationMs),
  };
  const head = await optimizedOf(file.id, { method: 'HEAD' });
  for (const one of [answer, head]) {
    for (const [name, value] of Object.entries(expected))
      expect([name, one.headers.get(name)]).toEqual([name, value]);
    for (const name of Object.keys(expected).slice(2)) {
      expect(one.headers.get('Access-Control-Expose-Headers')).toContain(name);
    }
  }
  const etag = answer.headers.get('ETag') ?? '';
  expect((await optimizedOf(file.id, { headers: { 'If-None-Match': etag } })).status).toBe(304);
  const range = await optimizedOf(file.id, { headers: { Range: 'bytes=8-11' } });
  expect([range.status, await range.text()]).toEqual([206, 'WEBP']);
  const { derived } = await user.get(`/api/files/${file.id}`);
  expect(derived).toMatchObject([
    { name: 'optimized', contentType: 'image/webp', size: bytes.length, width: 300, height: 480 },
  ]);
  expect((await fetch(processes.url + derived[0].link)).status).toBe(200);
});

describe('settings come', () => {
  const query = `settings=${encodeURIComponent(JSON.stringify(SMALL))}`;
  const field = (settings: string) => part('Content-Disposition: form-data; name="settings"', settings);
  const inForm = { 'Content-Type': FORM_TYPE };
  const expectSmall = async (id: string) => {
    const { settings, metadata } = await user.settled(id);
    expect(settings).toEqual(SMALL);
    expect(metadata.optimized).toMatchObject({ format: 'webp', width: 300 });
  };

  test('in the query of a plain upload', async () => {
    const [file] = await filesOf(await post(user, photograph, {}, `?filename=a.jpg&${query}`));
    await expectSmall(file?.id ?? '');
  });

  test('in the query of a form, for all its files', async () => {
    const body = form(filePart('a.jpg', photograph), filePart('b.jpg', photograph));
    for (const { id } of await filesOf(await post(user, body, inForm, `?${query}`))) await expectSmall(id);
  });

  test('in a field before the files of a form, which may have line breaks', async () => {
    const body = form(
      part('Content-Disposition: form-data; name="other"', 'x'),
      field(JSON.stringify(SMALL, null, 2)),
      filePart('a.jpg', photograph),
      filePart('b.jpg', photograph),
    );
    const files = await filesOf(await post(user, body, inForm));
    expect(files).toHaveLength(2);
    for (const { id } of files) await expectSmall(id);
  });

  test('with a resumable upload for HTTP', async () => {
    const answer = await say(processes.url, user, 'POST', `/api/files?${query}`, {
      body: photograph,
      headers: { 'Upload-Complete': '?1', 'Content-Type': 'image/jpeg' },
    });
    expect(answer?.status).toBe(201);
    await expectSmall(answer?.headers.location?.split('/').at(-1) ?? '');
  });

  test('with an upload straight to the store', async () => {
    const begun = await send(user, 'POST', '/api/uploads/presign', {
      size: photograph.length,
      settings: SMALL,
    });
    expect(begun.status).toBe(200);
    const { id, parts } = await begun.json();
    expect((await fetch(parts[0].url, { method: 'PUT', body: photograph as BodyInit })).status).toBe(200);
    expect((await send(user, 'POST', '/api/uploads/complete', { id })).status).toBe(201);
    await expectSmall(id);
  });

  test('with the final upload of a concatenation', async () => {
    const paths = await Promise.all(
      [photograph.subarray(0, 1000), photograph.subarray(1000)].map(async (content) => {
        const path = await user.create(content.length, { 'Upload-Concat': 'partial' });
        expect((await user.tus('PATCH', path, { 'Upload-Offset': '0' }, content as BodyInit)).status).toBe(
          204,
        );
        return path;
      }),
    );
    await expectSmall(await concatenate(user, paths, { settings: JSON.stringify(SMALL) }));
  });

  test('from a hook in place of those of the client', () => {
    const { metadata } = checkHookMetadata({ settings: '{ "quality": 3 }' });
    expect(metadata).toEqual({ settings: '{"quality":3}' });
    expect(() => checkHookMetadata({ settings: '{"quality":0}' })).toThrow(/quality must be/);
  });

  test('and are refused at once if they are wrong', async () => {
    const guest = await registerUser(() => processes.url);
    const wrong = '{"quality":101,"size":1}';
    const header = `settings ${Buffer.from(wrong).toString('base64')}`;
    const tus = await guest.tus('POST', '/uploads', { 'Upload-Length': '5', 'Upload-Metadata': header });
    expect([tus.status, await tus.text()]).toEqual([
      400,
      expect.stringMatching(/quality must be a whole number from 1 to 100; size is no setting/),
    ]);
    const encoded = `settings=${encodeURIComponent(wrong)}`;
    const ietf = await say(processes.url, guest, 'POST', `/api/files?${encoded}`, {
      body: photograph,
      headers: { 'Upload-Complete': '?1' },
    });
    expect([ietf?.status, ietf?.body]).toEqual([400, expect.stringContaining('quality must be')]);
    const refused: [Promise<Response>, RegExp][] = [
      [post(guest, photograph, {}, `?${encoded}`), /settings: quality must be/],
      [post(guest, form(field(wrong), filePart('a.jpg', photograph)), inForm), /settings: quality must be/],
      [post(guest, form(field('x'.repeat(5000)), filePart('a.jpg')), inForm), /at most 4096 bytes/],
      [post(guest, photograph, {}, '?settings=quality:80'), /settings must be JSON/],
      [
        send(guest, 'POST', '/api/uploads/presign', { size: 5, settings: { fit: 'x' } }),
        /settings\.fit in the body: must be one of inside, cover/,
      ],
    ];
    for (const [answer, detail] of refused) {
      expect(await expectProblem(await answer, 400, 'invalid_request')).toMatch(detail);
    }
    expect((await guest.get('/api/files')).items).toEqual([]);
    expect((await guest.get('/api/uploads')).items).toEqual([]);
    // The file before the field is stored, and the answer says so.
    const late = await post(guest, form(filePart('a.txt', 'words'), field('{}')), inForm);
    expect(await expectProblem(late, 400, 'invalid_request')).toMatch(/must come before the files/);
  });
});

describe('without settings', () => {
  test('an image is not optimised, and says why', async () => {
    const file = await upload(photograph);
    expect(file.steps.optimize).toMatchObject({ state: 'skipped', reason: 'no settings ask for it' });
    expect(file).toMatchObject({ settings: null, warnings: [] });
    await expectNone(file.id, /no settings ask for it/);
    expect((await upload(await makeGif({ width: 9, height: 9 }), null)).steps.optimize?.state).toBe(
      'skipped',
    );
  });

  test('an image of a type that OPTIMIZE names is optimised; its own settings count more', async () => {
    const webp = await sharp(randomBytes(300 * 200 * 3), { raw: { width: 300, height: 200, channels: 3 } })
      .webp({ quality: 90 })
      .toBuffer();
    const file = await upload(webp, undefined, 'a.webp');
    expect(file.metadata.optimized.settings).toMatchObject({ quality: 50, maxWidth: 100 });
    expect(await metadataOf(file.id)).toMatchObject({ format: 'webp', width: 100 });
    const own = await upload(webp, { maxWidth: 50 }, 'a.webp');
    expect(own.metadata.optimized.settings).toMatchObject({ quality: 50, maxWidth: 50 });
    expect(await metadataOf(own.id)).toMatchObject({ width: 50 });
  });

  test('and with settings alike, what is no image is left alone', async () => {
    const file = await upload(Buffer.from('some words'), { format: 'webp' }, 'a.txt');
    expect(file).toMatchObject({ status: 'completed', settings: { format: 'webp' } });
    expect(file.steps.optimize).toMatchObject({
      state: 'skipped',
      reason: 'not an image that can be optimised',
    });
    await expectNone(file.id, /not an image/);
  });
});

test('the place is gone, and the title is not, if only the place is to go', async () => {
  const file = await upload(photograph, { metadata: 'strip-gps', quality: 60 });
  expect(file.metadata.gps.latitude).toBeCloseTo(48.858, 2);
  const bytes = Buffer.from(await (await optimizedOf(file.id)).arrayBuffer());
  expect(await exifr.gps(bytes)).toBeUndefined();
  expect(await exifr.parse(bytes)).toMatchObject({ Make: 'Landfall' });
  const copy = await upload(bytes, undefined, 'copy.jpg');
  expect(copy.metadata).not.toHaveProperty('gps');
  expect(JSON.stringify(copy.metadata.xmp)).toContain('Le phare');
});

test('the original stays if the result is not smaller', async () => {
  const tiny = await sharp(randomBytes(64 * 64 * 3), { raw: { width: 64, height: 64, channels: 3 } })
    .jpeg({ quality: 10, mozjpeg: true })
    .toBuffer();
  const file = await upload(tiny, { quality: 100 });
  expect(file.steps.optimize).toMatchObject({ state: 'done' });
  expect(file.metadata.optimized).toMatchObject({
    result: 'original',
    reason: expect.stringMatching(/the original \d+$/),
    originalSize: tiny.length,
    size: tiny.length,
    ratio: 1,
    format: 'jpeg',
  });
  await expectNone(file.id, /There is no optimised form: the result has \d+ bytes/);
});

test('an image that is cut off gets a warning and no optimised form', async () => {
  const file = await upload(await makeTruncatedJpeg(), { format: 'webp' });
  expect(file.status).toBe('completed');
  expect(file.warnings).toContainEqual({
    step: 'optimize',
    code: 'unreadable',
    detail: expect.stringMatching(/premature end/i),
  });
  await expectNone(file.id, /premature end/i);
});

test('files with the same bytes have settings of their own', async () => {
  const content = await makePhotograph({ width: 500, height: 300 });
  const [small, large] = [await upload(content, { maxWidth: 50 }), await upload(content, { maxWidth: 100 })];
  expect(large.duplicateOf).toBe(small.id);
  expect((await metadataOf(small.id)).width).toBe(50);
  expect((await metadataOf(large.id)).width).toBe(100);
  const none = await upload(content);
  expect(none.duplicateOf).toBe(small.id);
  await expectNone(none.id, /no settings ask for it/);
});

describe('a file that is processed again', () => {
  const typesOf = async (id: string): Promise<string[]> => {
    const { items } = await user.get(`/api/files/${id}/events`);
    return items.map(({ type, data }: { type: string; data: { step?: string } }) => data.step ?? type);
  };

  test('with other settings runs only the step that they concern', async () => {
    const file = await upload(photograph, SMALL);
    const { events, ...before } = { ...file, events: (await typesOf(file.id)).length };
    const other = await again(file.id, { settings: { maxWidth: 200, format: 'png' } });
    expect((await typesOf(file.id)).slice(events)).toEqual([
      'file.pending',
      'file.processing',
      'optimize',
      'file.completed',
    ]);
    expect(other.steps).toMatchObject({ ...before.steps, optimize: { state: 'done' } });
    expect(other.metadata).toMatchObject({
      image: before.metadata.image,
      optimized: { format: 'png', width: 200 },
    });
    expect(await metadataOf(file.id)).toMatchObject({ format: 'png', width: 200 });
    expect((await user.get(`/api/files/${file.id}`)).derived).toHaveLength(1);
  });

  test('keeps no earlier form that the new settings do not make', async () => {
    const file = await upload(photograph, SMALL);
    const none = await again(file.id, { settings: { lossless: true } });
    expect(none.metadata.optimized).toMatchObject({ result: 'original' });
    await expectNone(file.id, /a JPEG cannot be encoded without loss/);
    expect(await user.get(`/api/files/${file.id}`)).toMatchObject({
      derived: [],
      settings: { lossless: true },
    });
    await again(file.id, { settings: SMALL });
    expect((await metadataOf(file.id)).format).toBe('webp');
    const without = await again(file.id, { settings: null });
    expect(without).toMatchObject({ settings: null, steps: { optimize: { state: 'skipped' } } });
    expect(without.metadata).not.toHaveProperty('optimized');
    await expectNone(file.id, /no settings ask for it/);
    // The thumbnails are those of the first run.
    expect((await user.fetch(`/api/files/${file.id}/thumbnails/small`)).status).toBe(200);
  });

  test('without settings runs all steps, by the settings that it has', async () => {
    const file = await upload(photograph, SMALL);
    const { length } = await typesOf(file.id);
    const repeated = await again(file.id, { priority: 'high' });
    expect(repeated.settings).toEqual(SMALL);
    expect((await typesOf(file.id)).slice(length)).toEqual(
      expect.arrayContaining(['verify', 'sniff', 'scan', 'metadata', 'thumbnails', 'optimize']),
    );
    expect((await metadataOf(file.id)).format).toBe('webp');
  });

  test('loses the warning of a step that runs again', async () => {
    const file = await upload(await makeTruncatedJpeg(), SMALL);
    const { warnings } = await again(file.id, { settings: null });
    expect(warnings).toEqual(file.warnings.filter(({ step }) => step !== 'optimize'));
    expect(warnings.length).toBe(file.warnings.length - 1);
  });

  test('can be one of many', async () => {
    const files = [await upload(photograph), await upload(await makePng({ width: 40, height: 30 }), SMALL)];
    const ids = files.map(({ id }) => id);
    const answer = await send(user, 'POST', '/api/files/batch', {
      ids,
      action: 'process',
      settings: { format: 'avif', maxWidth: 20 },
    });
    const { items } = await answer.json();
    expect(items).toMatchObject([{ status: 200 }, { status: 200 }]);
    for (const id of ids) {
      expect((await user.settled(id)).metadata.optimized).toMatchObject({ format: 'avif', width: 20 });
    }
  });

  test('is not, if its settings are wrong', async () => {
    const { id } = await upload(Buffer.from('words'), undefined, 'a.txt');
    const refused: [string, object, RegExp][] = [
      [
        `/api/files/${id}/process`,
        { settings: { quality: 0 } },
        /^settings\.quality in the body: must be a whole/,
      ],
      [
        `/api/files/${id}/process`,
        { settings: { size: 0 } },
        /^settings in the body: has size, but there are only/,
      ],
      [`/api/files/${id}/process`, { settings: 'x' }, /^settings in the body: must be an object/],
      ['/api/files/batch', { ids: [id], action: 'process', settings: { fit: 'cover' } }, /^settings\.fit/],
      ['/api/files/batch', { ids: [id], action: 'retry', settings: {} }, /^settings in the body: belongs to/],
    ];
    for (const [path, body, detail] of refused) {
      const answer = await send(user, 'POST', path, body);
      expect(await expectProblem(answer, 400, 'invalid_request')).toMatch(detail);
    }
    expect((await user.get(`/api/files/${id}`)).status).toBe('completed');
  });
});

describe('before an upload', () => {
  const settingsPath = '/api/processing/settings';

  test('the defaults and the allowed values of a type are told, however its slash is written', async () => {
    const webp = await user.get(`${settingsPath}/image/webp`);
    expect(webp).toMatchObject({ type: 'image/webp', asked: true, defaults: { quality: 50, maxWidth: 100 } });
    expect(await user.get(`${settingsPath}/image%2Fwebp`)).toEqual(webp);
    expect(webp.fields).toMatchObject({
      quality: { type: 'integer', minimum: 1, maximum: 100 },
      fit: { enum: ['inside', 'cover', 'contain', 'fill', 'outside'] },
      lossless: { type: 'boolean' },
    });
    const jpeg = await user.get(`${settingsPath}/IMAGE/JPG`);
    expect(jpeg).toMatchObject({
      type: 'image/jpeg',
      asked: false,
      defaults: { quality: 80, maxWidth: null },
    });
    const text = { type: 'text/plain', asked: false, defaults: null, fields: {} };
    expect(await user.get(`${settingsPath}/text/plain`)).toEqual(text);
    for (const path of ['/image', '/image%2F', '/image/%00', '/a%2Fb%2Fc']) {
      expect([path, (await user.fetch(settingsPath + path)).status]).toEqual([path, 404]);
    }
  });

  test('settings can be checked', async () => {
    const check = async (body: object) => {
      const answer = await send(user, 'POST', `${settingsPath}/validate`, body);
      return answer.status === 200 ? answer.json() : answer.status;
    };
    expect(await check({ settings: { format: 'png' }, type: 'image/webp' })).toEqual({
      valid: true,
      settings: {
        quality: 50,
        maxWidth: 100,
        maxHeight: null,
        fit: 'inside',
        format: 'png',
        metadata: 'strip',
        lossless: false,
      },
      problems: [],
    });
    expect(await check({ settings: {} })).toMatchObject({ valid: true, settings: { quality: 80 } });
    const wrong = await check({ settings: { quality: 'high', format: 'gif', size: 3 } });
    expect(wrong).toMatchObject({ valid: false, settings: null });
    expect(wrong.problems).toEqual(
      expect.arrayContaining([
        { field: 'quality', message: 'must be a whole number from 1 to 100' },
        { field: 'format', message: 'must be one of keep, jpeg, png, webp, avif' },
        { field: 'size', message: expect.stringContaining('is no setting') },
      ]),
    );
    expect(await check({ settings: 3 })).toMatchObject({ valid: false, problems: [{ field: '' }] });
    expect(await check({})).toMatchObject({ valid: false, problems: [{ field: '' }] });
    expect(await check({ settings: {}, type: 'text/plain' })).toBe(400);
  });

  test('the estimate goes by images that were optimised, once some are known', async () => {
    const png = await makePng({ width: 64, height: 64 });
    for (let n = 0; n < 5; n++) await upload(png, { format: 'jpeg' }, 'a.png');
    await upload(await makeJpeg({ width: 64, height: 64 }), undefined);
    const query = `size=${png.length}&type=image/png`;
    const basisOf = async (more: string) =>
      (await user.get(`/api/processing/estimate?${query}${more}`)).basis?.types;
    // The server reads the times anew every few seconds.
    await until(
      'an estimate by such images',
      async () => (await basisOf('&settings={"quality":70}')) === 'image/png; optimized',
    );
    expect(await basisOf('')).toMatch(/^image\/(png|\*)$/);
    for (const settings of ['{"quality":0}', 'x']) {
      const answer = await user.fetch(`/api/processing/estimate?${query}&settings=${settings}`);
      await expectProblem(answer, 400, 'invalid_request');
    }
    const webp = await makeWebp({ width: 64, height: 64 });
    expect((await upload(webp, undefined, 'a.webp')).steps.optimize?.state).toBe('done');
  });
});
