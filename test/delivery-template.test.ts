import {
  type DeliveredFile,
  MAX_KEY,
  parsePath,
  parseTemplate,
  renderPath,
  renderText,
  TemplateError,
} from '../core/delivery/template.js';

/* Templates of keys and paths: which are taken, and that no file can leave its folder. */

const FILE: DeliveredFile = {
  id: '0193a1b2-0000-7000-8000-00000000000a',
  ownerId: '0193a1b2-0000-7000-8000-00000000000b',
  filename: 'Été à Paris.JPG',
  type: 'image/jpeg',
  createdAt: new Date('2026-03-04T23:59:59.999Z'),
  sha256: 'ab'.repeat(32),
  metadata: { project: 'blue/green', empty: null },
};

const render = (template: string, file: Partial<DeliveredFile> = {}) =>
  renderPath(parsePath(template), { ...FILE, ...file });

test.each([
  ['{owner}/{yyyy}/{mm}/{dd}/{id}/{filename}', `${FILE.ownerId}/2026/03/04/${FILE.id}/Été à Paris.JPG`],
  ['{sha256}.{ext}', `${FILE.sha256}.jpg`],
  ['a b/{type}/x-{id}', `a b/image-jpeg/x-${FILE.id}`],
  [
    '{metadata.project}/{metadata.empty}/{metadata.absent}/{metadata.toString}/{id}',
    `blue_green/_/_/_/${FILE.id}`,
  ],
])('%s', (template, path) => {
  expect(render(template)).toBe(path);
});

test.each([
  ['', 'something between two slashes'],
  ['/a', 'neither begin nor end'],
  ['a/', 'neither begin nor end'],
  ['a//{id}', 'something between two slashes'],
  ['../{id}', '. and ..'],
  ['{id}/./x', '. and ..'],
  ['a\\{id}', 'backslashes'],
  ['a\n{id}', 'control characters'],
  ['\u202e{id}', 'control characters'],
  ['{owned}/{id}', '{owned} is not a placeholder'],
  ['{}', '{} is not a placeholder'],
  ['{ID}', '{ID} is not a placeholder'],
  ['{toString}', '{toString} is not a placeholder'],
  ['{metadata.}', '{metadata.} is not a placeholder'],
  ['{metadata.a,b}', '{metadata.a,b} is not a placeholder'],
  ['{id', 'braces'],
  ['id}', 'braces'],
  ['{{id}}', 'braces'],
  ['{sha256}{sha256}{sha256}{sha256}', 'longer than 255 bytes'],
  [`${'x'.repeat(220)}{filename}`, 'longer than 255 bytes'],
  [Array(5).fill('{filename}').join('/'), `at most ${MAX_KEY}`],
])('%j is refused', (template, words) => {
  expect(() => parsePath(template)).toThrow(TemplateError);
  expect(() => parsePath(template)).toThrow(words);
});

test('a prefix counts for the length of keys', () => {
  const template = '{filename}/{filename}/{filename}/{id}';
  expect(parsePath(template, 200).isUnique).toBe(true);
  expect(() => parsePath(template, 300)).toThrow(TemplateError);
});

test.each([
  ['{owner}/{id}/{filename}', true, false],
  ['{sha256}', false, false],
  ['{owner}/{filename}', false, true],
  ['id/{filename}', false, true],
])('%s: unique %s, may collide %s', (template, isUnique, mayCollide) => {
  expect(parsePath(template)).toMatchObject({ isUnique, mayCollide });
});

/** Names that clients may try. */
const HOSTILE = [
  '..',
  '.',
  '...',
  '../../etc/passwd',
  '..\\..\\x',
  '/etc/passwd',
  'C:\\x',
  '.htaccess',
  '.landfall-x',
  ' ',
  '\u0000',
  'a\u0000b\r\n\u2028c',
  '\u202egpj.exe',
  '\ud800',
  '%2e%2e%2f',
  '‥',
  'é'.repeat(300),
  '😀'.repeat(200),
  `${'n'.repeat(400)}.tar.gz`,
  `a.${'e'.repeat(400)}`,
  'x/'.repeat(300),
];

test.each(HOSTILE)('%j stays a part of one segment, of limited length', (hostile) => {
  const template = 'in/{metadata.a}/{filename}/{type}/{ext}-{filename}-{metadata.a}/{filename}';
  const path = render(template, { filename: hostile, type: hostile, metadata: { a: hostile } });
  const segments = path.split('/');
  expect(segments).toHaveLength(6);
  expect(path.startsWith('in/')).toBe(true);
  for (const segment of segments) {
    expect(segment).not.toMatch(/^\.|[\p{Cc}\u2028\u2029\u202e/\\]/u);
    expect(segment.isWellFormed()).toBe(true);
    expect(segment.length).toBeGreaterThan(0);
    expect(Buffer.byteLength(segment)).toBeLessThanOrEqual(255);
  }
  expect(Buffer.byteLength(path)).toBeLessThanOrEqual(MAX_KEY);
});

test('a long name keeps its extension, and whole characters', () => {
  const name = render('{filename}', { filename: `${'é'.repeat(200)}.jpeg` });
  expect(name).toMatch(/^é+\.jpeg$/);
  // Room is kept for the id of a file whose name is taken.
  expect(Buffer.byteLength(name)).toBeLessThanOrEqual(255 - 37);
  expect(render('{id}/{filename}', { filename: 'x'.repeat(255) })).toBe(`${FILE.id}/${'x'.repeat(255)}`);
});

test('a suffix stands before the extension and fits in', () => {
  const path = parsePath('{owner}/{filename}');
  expect(renderPath(path, FILE, FILE.id)).toBe(`${FILE.ownerId}/Été à Paris-${FILE.id}.JPG`);
  const long = renderPath(path, { ...FILE, filename: `${'é'.repeat(255)}.pdf` }, FILE.id);
  expect(long.endsWith(`-${FILE.id}.pdf`)).toBe(true);
  expect(Buffer.byteLength(long.split('/')[1] ?? '')).toBeLessThanOrEqual(255);
});

test('in other texts values stay as they are, without control characters', () => {
  const template = parseTemplate('{filename} of {metadata.project}{metadata.absent}');
  expect(renderText(template, { ...FILE, filename: '../a\r\nb' })).toBe('../ab of blue/green');
});
