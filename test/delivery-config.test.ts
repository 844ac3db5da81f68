import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { loadConfig } from '../core/config.js';
import { ConfigError } from '../core/config-error.js';
import { readNamedTarget, targetOfType } from '../core/delivery/config.js';
import { TemplateError } from '../core/delivery/template.js';

/* DELIVER_TO and DELIVER_DESTINATIONS: what a start takes, and what it refuses with a clear error. */

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'landfall-destinations-'));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

const S3 = {
  S3_BUCKET: 'own',
  S3_ENDPOINT: 'http://127.0.0.1:9000',
  S3_ACCESS_KEY_ID: 'own-id',
  S3_SECRET_ACCESS_KEY: 'own-secret',
  S3_PREFIX: 'in',
  S3_SSE: 'AES256',
};

let files = 0;
async function destinations(text: string): Promise<Record<string, string>> {
  const file = join(folder, `${++files}.yaml`);
  await writeFile(file, text);
  return { DELIVER_DESTINATIONS: file };
}

const read = (env: Record<string, string>) => {
  const { delivery } = loadConfig(env);
  if (!delivery) throw new Error('nothing is delivered');
  return delivery;
};

test('nothing set: nothing is delivered', () => {
  expect(loadConfig({ DELIVER_TO: '' }).delivery).toBeUndefined();
});

test('a bucket of the own store has its address and keys, and no prefix', () => {
  const [rule] = read({ ...S3, DELIVER_TO: 's3://photos/{owner}/{id}/{filename}' }).rules;
  expect(rule).toMatchObject({
    type: undefined,
    target: {
      destination: {
        kind: 's3',
        name: 's3://photos',
        s3: {
          bucket: 'photos',
          endpoint: S3.S3_ENDPOINT,
          prefix: '',
          credentials: { accessKeyId: 'own-id' },
          sse: 'AES256',
        },
      },
    },
  });
});

test('a folder is what stands before the first placeholder', () => {
  const [rule] = read({ DELIVER_TO: '/srv/in/{owner}/x/{filename}' }).rules;
  expect(rule?.target?.destination).toEqual({ kind: 'folder', name: 'folder', folder: '/srv/in' });
  expect(rule?.target?.path.segments).toHaveLength(3);
});

test('targets by type: the type itself, its range, all others', () => {
  const config = read({
    ...S3,
    DELIVER_TO:
      'image/*=s3://images/{id}, image/gif = none, application/pdf=/srv/in/{id}=x,s3://others/a=b/{id}',
  });
  const nameOf = (type: string) => targetOfType(config, type)?.text;
  expect(nameOf('image/png')).toBe('s3://images/{id}');
  expect(nameOf('image/gif')).toBeUndefined();
  expect(nameOf('application/pdf')).toBe('/srv/in/{id}=x');
  expect(nameOf('text/plain; charset=utf-8')).toBe('s3://others/a=b/{id}');
  const some = read({ DELIVER_TO: 'image/*=/srv/in/{id}' });
  expect(targetOfType(some, 'text/plain')).toBeUndefined();
});

test('destinations of a file, with keys from variables', async () => {
  const config = read({
    ...S3,
    ...(await destinations(`
archive:
  endpoint: https://s3.example.org/
  region: eu-central-1
  bucket: archive
  accessKeyIdFrom: ARCHIVE_ID
  secretAccessKeyFrom: ARCHIVE_SECRET
  pathStyle: false
  prefix: landfall
  encryption: aws:kms
  kmsKeyId: some-key
  storageClass: STANDARD_IA
  contentDisposition: attachment
  headers:
    Cache-Control: max-age=60
    X-Amz-Meta-Owner: "{owner}"
  tags:
    project: "{metadata.project}"
beside: { bucket: beside }
disk: { folder: /srv/disk/ }
`)),
    ARCHIVE_ID: 'archive-id',
    ARCHIVE_SECRET: 'archive-secret',
    DELIVER_TO: 'archive:{owner}/{id}',
  });
  expect(config.rules[0]?.target?.destination).toMatchObject({
    name: 'archive',
    s3: {
      endpoint: 'https://s3.example.org',
      region: 'eu-central-1',
      bucket: 'archive',
      credentials: { accessKeyId: 'archive-id', secretAccessKey: 'archive-secret' },
      forcePathStyle: false,
      prefix: 'landfall/',
      sse: 'aws:kms',
      kmsKeyId: 'some-key',
    },
    storageClass: 'STANDARD_IA',
    disposition: 'attachment',
    headers: [['CacheControl', [{ text: 'max-age=60' }]]],
    metadata: [['owner', [{ placeholder: 'owner' }]]],
    tags: [['project', [{ placeholder: 'metadata.project' }]]],
  });
  expect(config.destinations.get('beside')).toMatchObject({
    s3: { endpoint: S3.S3_ENDPOINT, credentials: { accessKeyId: 'own-id' }, prefix: '', sse: undefined },
  });
  expect(config.destinations.get('disk')).toEqual({ kind: 'folder', name: 'disk', folder: '/srv/disk' });

  expect(readNamedTarget(config, 'disk:{id}')?.destination.name).toBe('disk');
  expect(readNamedTarget(config, 'none')).toBeUndefined();
  for (const text of [
    'other:{id}',
    '/etc/{id}',
    's3://own/{id}',
    'disk',
    'disk:',
    'disk:../{id}',
    'disk:{x}',
    '',
  ]) {
    expect(() => readNamedTarget(config, text)).toThrow(TemplateError);
  }
});

test('the file may be JSON', async () => {
  const config = read(await destinations('{"disk": {"folder": "/srv/disk"}}'));
  expect([...config.destinations.keys()]).toEqual(['disk']);
});

test.each([
  [{ DELIVER_TO: 's3://photos/{id}' }, 'S3_BUCKET, which is not set'],
  [{ ...S3, DELIVER_TO: 's3://photos/{owned}' }, '{owned} is not a placeholder'],
  [{ ...S3, DELIVER_TO: 's3://photos' }, 'must be s3://bucket/key'],
  [{ ...S3, DELIVER_TO: 's3://Photos/{id}' }, 'must be s3://bucket/key'],
  [{ DELIVER_TO: 'relative/{id}' }, 'must be s3://bucket/key'],
  [{ DELIVER_TO: '/{id}' }, 'must be a folder'],
  [{ DELIVER_TO: '/srv/in' }, 'must be a folder'],
  [{ DELIVER_TO: '/srv/../etc/{id}' }, '. and ..'],
  [{ DELIVER_TO: '/srv/in/{id}/' }, 'neither begin nor end'],
  [{ DELIVER_TO: 'archive:{id}' }, 'no destination archive; DELIVER_DESTINATIONS has none'],
  [{ DELIVER_TO: 'image/*=/srv/a/{id},image/*=/srv/b/{id}' }, 'image/* is named twice'],
  [{ DELIVER_TO: '/srv/a/{id},/srv/b/{id}' }, 'every other type is named twice'],
  [{ DELIVER_TO: '*/*=/srv/a/{id}' }, '*/* is not a type'],
  [{ DELIVER_TO: 'image/*=' }, 'must be s3://bucket/key'],
  [{ DELIVER_DESTINATIONS: '/does/not/exist.yaml' }, 'cannot be read (ENOENT)'],
])('%j is refused', (env, words) => {
  expect(() => loadConfig(env)).toThrow(ConfigError);
  expect(() => loadConfig(env)).toThrow(words);
});

test.each([
  ['a: [', 'is no YAML'],
  ['- a', 'must be an object'],
  ['A: { folder: /x }', 'a name must be'],
  ['a: 1', 'the destination'],
  ['a: { bucket: B }', 'bucket: must be the name'],
  ['a: { bucket: bucket, buckett: x }', 'buckett'],
  ['a: { folder: relative }', 'folder: must be an absolute path'],
  ['a: { folder: /x, bucket: bucket }', 'bucket'],
  ['a: { bucket: bucket, endpoint: "ftp://x" }', 'endpoint: must be an http'],
  ['a: { bucket: bucket, prefix: ../x/ }', 'prefix: must not'],
  ['a: { bucket: bucket, secretAccessKey: THE-SECRET }', 'go together'],
  ['a: { bucket: bucket, secretAccessKeyFrom: NOT_SET_HERE }', 'NOT_SET_HERE is not set'],
  ['a: { bucket: bucket, encryption: rot13 }', 'encryption: must be'],
  ['a: { bucket: bucket, kmsKeyId: x }', 'needs encryption'],
  ['a: { bucket: bucket, storageClass: "a b" }', 'storageClass'],
  ['a: { bucket: bucket, tags: { "a\\n": b } }', 'tags'],
  ['a: { bucket: bucket, tags: { a: "{b}" } }', 'tags.a: {b} is not a placeholder'],
  ['a: { bucket: bucket, headers: { Content-Type: text/html } }', 'Content-Type: there are'],
  ['a: { bucket: bucket, headers: { X-Amz-Meta-Landfall-Id: x } }', 'X-Amz-Meta-Landfall-Id'],
  ['a: { bucket: bucket, contentDisposition: x }', 'contentDisposition: must be'],
])('a file with %j is refused, without a key in the message', async (text, words) => {
  const env = await destinations(text);
  expect(() => loadConfig(env)).toThrow(ConfigError);
  expect(() => loadConfig(env)).toThrow(words);
  expect(() => loadConfig(env)).not.toThrow('THE-SECRET');
});

test('the examples of the documentation are taken', async () => {
  const text = await readFile('docs/delivery.md', 'utf8');
  const [yaml = ''] = [...text.matchAll(/```yaml\n(.*?)```/gs)].map(([, example]) => example ?? '');
  const env = { ...S3, ...(await destinations(yaml)), ARCHIVE_KEY_ID: 'a', ARCHIVE_SECRET: 'b' };
  const targets = [...text.matchAll(/^DELIVER_TO=(.*)$/gm)].map(([, target]) => target ?? '');
  expect(targets.length).toBeGreaterThan(1);
  for (const DELIVER_TO of targets) expect(read({ ...env, DELIVER_TO }).destinations.size).toBe(3);
});
