import { randomBytes } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import sharp, { type Sharp } from 'sharp';
import { SCALE } from './figures.js';

/* Files as people send them: mostly photographs, some pictures of other formats, text and bytes of no known type. */

export interface MixedFile {
  path: string;
  name: string;
  type: string;
}

interface Kind {
  type: string;
  extension: string;
  count: number;
  make(index: number): Promise<Buffer>;
}

/** Blurred noise with some grain compresses and decodes nearly as photographs do. */
async function makePixels(width: number, height: number): Promise<Sharp> {
  const noise = { type: 'gaussian', mean: 128, sigma: 60 } as const;
  const [w, h] = [Math.ceil(width / 4), Math.ceil(height / 4)];
  const base = await sharp({ create: { width: w, height: h, channels: 3, background: '#777', noise } })
    .blur(2)
    .resize(width, height)
    .raw()
    .toBuffer();
  // Each file differs in its content, and so in its hash.
  randomBytes(16).copy(base);
  return sharp(base, { raw: { width, height, channels: 3 } });
}

const KINDS: Kind[] = [
  {
    type: 'image/jpeg',
    extension: 'jpg',
    count: 250,
    // Of 12 and of 2 megapixels.
    make: async (index) => {
      const image = index % 2 ? await makePixels(4000, 3000) : await makePixels(1600, 1200);
      return image
        .jpeg({ quality: 85 })
        .withExif({ IFD0: { Make: 'Landfall', Model: 'Bench' } })
        .toBuffer();
    },
  },
  {
    type: 'image/png',
    extension: 'png',
    count: 60,
    make: async () => (await makePixels(1280, 800)).png({ compressionLevel: 3 }).toBuffer(),
  },
  {
    type: 'image/webp',
    extension: 'webp',
    count: 60,
    make: async () => (await makePixels(1600, 1200)).webp({ effort: 1 }).toBuffer(),
  },
  {
    type: 'image/gif',
    extension: 'gif',
    count: 20,
    make: async () => (await makePixels(400, 300)).gif({ effort: 1 }).toBuffer(),
  },
  {
    type: 'text/plain',
    extension: 'txt',
    count: 60,
    make: async () => Buffer.from(randomBytes(10_000).toString('base64').replaceAll(/.{60}/g, '$&\n')),
  },
  {
    type: 'application/octet-stream',
    extension: 'bin',
    count: 50,
    make: async () => randomBytes(1024 ** 2),
  },
];

/** Writes the files into a folder. @returns them in the order in which they are sent: the kinds are mixed */
export async function makeMixedFiles(folder: string): Promise<MixedFile[]> {
  const files: (MixedFile & { place: number })[] = [];
  for (const { type, extension, count, make } of KINDS) {
    const number = Math.ceil(count * SCALE);
    for (let index = 0; index < number; index++) {
      const name = `${extension}-${index}.${extension}`;
      const path = join(folder, name);
      await writeFile(path, await make(index));
      files.push({ path, name, type, place: (index + 0.5) / number });
    }
  }
  return files.sort((a, b) => a.place - b.place);
}
