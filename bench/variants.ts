import { get } from 'node:http';
import sharp from 'sharp';
import { median } from './figures.js';
import { startLandfall } from './standalone.js';
import { atMost, row } from './table.js';

/** Renderings of each format in turns; each has a size of its own, so that it is rendered anew. */
const TURNS = 15;

/** Downloads of a kept image and of plain content, in turns. */
const DOWNLOADS = 400;

/** The first width; the others are larger by a pixel each. */
const WIDTH = 800;

type Headers = Record<string, string>;

/**
 * Measures how long a client waits for an image that is rendered when it asks, against bare sharp on the same bytes in this
 * process, with the same settings and with all cores; and how long for one that is kept, against a file of the same size.
 */
export async function benchVariants(): Promise<Record<string, string>[]> {
  const landfall = await startLandfall({ IMAGE_SIZES: '4000' });
  const headers = { Authorization: `Bearer ${landfall.token}` };
  try {
    const photograph = await makePhotograph();
    const id = await upload(landfall.url, headers, photograph, 'image/jpeg');
    const rows = [];
    for (const format of ['webp', 'jpeg', 'avif'] as const) {
      rows.push(await benchCold(landfall.url, headers, id, photograph, format));
    }
    rows.push(await benchKept(landfall.url, headers, id));
    return rows;
  } finally {
    await landfall.stop();
  }
}

type Format = 'webp' | 'jpeg' | 'avif';

async function benchCold(url: string, headers: Headers, id: string, original: Buffer, format: Format) {
  const cold: number[] = [];
  const bare: number[] = [];
  for (let turn = -1; turn < TURNS; turn++) {
    const width = WIDTH + turn + 1;
    const address = await signImage(url, headers, id, { w: width, format });
    const ours = await time(() => download(`${url}${address}`));
    const theirs = await time(() => renderBare(original, width, format));
    for (const { result } of [ours, theirs]) await checkWidth(result, width);
    // The first turn warms up both.
    if (turn < 0) continue;
    cold.push(ours.ms);
    bare.push(theirs.ms);
  }
  return row(
    `12 megapixels to ${WIDTH} pixels of ${format}, rendered when asked for, ms`,
    { landfall: median(cold), sharp: median(bare) },
    0,
    atMost(1.2, 'sharp'),
  );
}

async function benchKept(url: string, headers: Headers, id: string) {
  const address = `${url}${await signImage(url, headers, id, { w: WIDTH, format: 'webp' })}`;
  const kept = await download(address);
  const twin = await upload(url, headers, kept, 'image/webp');
  const { links } = (await (await must(fetch(`${url}/api/files/${twin}`, { headers }))).json()) as {
    links: { content: string };
  };
  const plain = `${url}${links.content}`;
  const image: number[] = [];
  const content: number[] = [];
  for (let turn = -20; turn < DOWNLOADS; turn++) {
    const ours = await time(() => download(address));
    const theirs = await time(() => download(plain));
    if (turn < 0) continue;
    image.push(ours.ms);
    content.push(theirs.ms);
  }
  return row(
    `the same image of ${Math.round(kept.length / 1024)} KiB, kept, ms`,
    { landfall: median(image), content: median(content) },
    2,
    atMost(1.2, 'content'),
  );
}

/** Blurred noise with some grain, which compresses and decodes nearly as a photograph does. */
async function makePhotograph(): Promise<Buffer> {
  const noise = { type: 'gaussian', mean: 128, sigma: 60 } as const;
  const small = { create: { width: 1000, height: 750, channels: 3, background: '#777', noise } } as const;
  return sharp(await sharp(small).blur(2).png().toBuffer())
    .resize(4000, 3000)
    .jpeg({ quality: 85 })
    .toBuffer();
}

/** As core/media/render.ts, without limits and without a process of its own. */
function renderBare(original: Buffer, width: number, format: Format): Promise<Buffer> {
  const image = sharp(original)
    .autoOrient()
    .resize({ width, withoutEnlargement: true })
    .toColourspace('srgb');
  if (format === 'webp') return image.webp({ quality: 80, effort: 2 }).toBuffer();
  if (format === 'avif') return image.avif({ quality: 50, effort: 1 }).toBuffer();
  return image.jpeg({ quality: 80 }).toBuffer();
}

async function checkWidth(image: Buffer, expected: number): Promise<void> {
  const { width } = await sharp(image).metadata();
  if (width !== expected) throw new Error(`${width} pixels instead of ${expected}`);
}

async function time<T>(work: () => Promise<T>): Promise<{ result: T; ms: number }> {
  const began = performance.now();
  const result = await work();
  return { result, ms: performance.now() - began };
}

function download(url: string): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    get(url, (answer) => {
      const chunks: Buffer[] = [];
      answer.on('data', (chunk: Buffer) => chunks.push(chunk));
      answer.once('error', reject);
      answer.once('end', () => {
        if (answer.statusCode === 200) resolve(Buffer.concat(chunks));
        else reject(new Error(`${answer.statusCode} ${Buffer.concat(chunks)}`));
      });
    }).once('error', reject);
  });
}

async function signImage(url: string, headers: Headers, id: string, parameters: object): Promise<string> {
  const answer = await must(
    fetch(`${url}/api/files/${id}/image/link`, {
      method: 'POST',
      headers: { ...headers, 'Content-Type': 'application/json' },
      body: JSON.stringify(parameters),
    }),
  );
  return ((await answer.json()) as { url: string }).url;
}

/** Uploads a file and waits until it is processed. @returns its id */
async function upload(url: string, headers: Headers, body: Buffer, type: string): Promise<string> {
  const sent = await must(
    fetch(`${url}/api/files`, { method: 'POST', headers: { ...headers, 'Content-Type': type }, body }),
  );
  const { files } = (await sent.json()) as { files: { id: string }[] };
  const id = files[0]?.id ?? '';
  for (;;) {
    const answer = await must(fetch(`${url}/api/files/${id}/status`, { headers }));
    const { status } = (await answer.json()) as { status: string };
    if (status === 'completed') return id;
    if (status !== 'pending' && status !== 'processing') throw new Error(`the file is ${status}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

async function must(answer: Promise<Response>): Promise<Response> {
  const response = await answer;
  if (!response.ok) throw new Error(`${response.url}: ${response.status} ${await response.text()}`);
  return response;
}
