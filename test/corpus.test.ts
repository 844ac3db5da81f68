import { createHash } from 'node:crypto';
import sharp from 'sharp';
import { registerUser, type TestUser } from './support/client.js';
import { CORNERS, CORPUS, type CorpusFile } from './support/corpus.js';
import { type Processes, startProcesses } from './support/processes.js';

/* Every file of the corpus goes through a real server and a real worker. */

const SIDES = { large: 1200, medium: 600, small: 200 };

let processes: Processes;
let user: TestUser;
/** By filename. All are uploaded before the first is waited for, so that the worker is never idle. */
const uploads = new Map<string, { id: string; content: Buffer }>();

beforeAll(async () => {
  // Half of the default, so that a bomb can be small.
  processes = await startProcesses({ PARSER_MEMORY: '512MiB' });
  user = await registerUser(() => processes.url);
  for (const { filename, declared, make } of CORPUS) {
    const content = await make();
    const metadata = { filename, ...(declared ? { filetype: declared } : {}) };
    uploads.set(filename, { id: await user.upload(content, metadata), content });
  }
});

afterAll(() => processes?.close());

test('the corpus has at least 40 files of 20 formats', () => {
  expect(new Set(CORPUS.map(({ filename }) => filename)).size).toBe(CORPUS.length);
  expect(CORPUS.length).toBeGreaterThanOrEqual(40);
  expect(new Set(CORPUS.map(({ type }) => type)).size).toBeGreaterThanOrEqual(20);
});

test.each(CORPUS.map((file) => [file.filename, file] as const))('%s', async (filename, expected) => {
  const { id, content } = uploads.get(filename) ?? { id: '', content: Buffer.alloc(0) };
  const file = await user.settled(id);
  const warnings = file.warnings.map(({ step, code }) => `${step} ${code}`);
  expect({ filename: file.filename, status: file.status, type: file.detectedType, warnings }).toEqual({
    filename,
    status: expected.status ?? 'completed',
    type: expected.type,
    warnings: expected.warnings ?? [],
  });
  expect(file.sha256).toBe(createHash('sha256').update(content).digest('hex'));
  const { width, height } = file.metadata?.image ?? {};
  expect([width, height]).toEqual(expected.size ?? [undefined, undefined]);
  expect(Object.keys(file.links.thumbnails ?? {}).sort()).toEqual(
    expected.shown || expected.drawn ? Object.keys(SIDES) : [],
  );
  for (const [name, side] of Object.entries(expected.shown ? SIDES : {}))
    await checkThumbnail(id, name, side, expected);
});

async function checkThumbnail(
  id: string,
  name: string,
  side: number,
  { shown, corners }: CorpusFile,
): Promise<void> {
  const answer = await user.fetch(`/api/files/${id}/thumbnails/${name}`);
  expect(answer.status).toBe(200);
  const picture = sharp(Buffer.from(await answer.arrayBuffer())).removeAlpha();
  const { data, info } = await picture.raw().toBuffer({ resolveWithObject: true });
  const scale = Math.min(1, side / Math.max(...(shown ?? [1])));
  expect([info.width, info.height]).toEqual(shown?.map((length) => Math.round(length * scale)));
  if (corners === 'none') return;
  const colourAt = (across: number, down: number) => {
    const at =
      (Math.floor(info.height * down) * info.width + Math.floor(info.width * across)) * info.channels;
    return [...data.subarray(at, at + 3)];
  };
  expectColour(colourAt(0.25, 0.25), CORNERS.topLeft);
  expectColour(colourAt(0.75, 0.25), CORNERS.topRight);
  if (corners === 'top') return;
  expectColour(colourAt(0.25, 0.75), CORNERS.bottomLeft);
  expectColour(colourAt(0.75, 0.75), CORNERS.bottomRight);
}

/** As far as the colours survive CMYK, of which neither side has a profile. */
function expectColour(found: number[], wanted: string): void {
  const far = Buffer.from(wanted.slice(1), 'hex').map((value, index) =>
    Math.abs(value - (found[index] ?? 255)),
  );
  expect(Math.max(...far)).toBeLessThan(90);
}
