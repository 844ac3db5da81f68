import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import exifr from 'exifr';
import sharp from 'sharp';

/*
 * The yardstick for the worker: sharp + exifr + SHA-256 on the same files in one process, four at a time. It stores
 * nothing and survives no crash. It prints the seconds that the work took.
 */

const folder = process.argv[2] ?? '';
const SIZES = [1200, 600, 200];
const IN_FLIGHT = 4;

/** Other files are hashed only. */
const IMAGE = /\.(jpg|png|webp|gif)$/;
const TAGGED = /\.(jpg|png)$/;

const files = readdirSync(folder).map((name) => join(folder, name));
// Process one file first: the worker has warmed up too before it is measured.
await processOne(files[0] ?? '');
for (const file of files) readFileSync(file);

const began = performance.now();
const rest = [...files];
await Promise.all(
  Array.from({ length: IN_FLIGHT }, async () => {
    for (let file = rest.pop(); file; file = rest.pop()) await processOne(file);
  }),
);
console.log((performance.now() - began) / 1000);

async function processOne(path: string): Promise<void> {
  const bytes = await readFile(path);
  createHash('sha256').update(bytes).digest('hex');
  if (!IMAGE.test(path)) return;
  // It knows neither WebP nor GIF.
  if (TAGGED.test(path))
    await exifr.parse(bytes, { tiff: true, exif: true, gps: true, iptc: true, xmp: true });
  const { data, info } = await sharp(bytes)
    .autoOrient()
    .resize({ width: SIZES[0] ?? 0, height: SIZES[0] ?? 0, fit: 'inside', withoutEnlargement: true })
    .raw()
    .toBuffer({ resolveWithObject: true });
  const raw = { width: info.width, height: info.height, channels: info.channels };
  for (const side of SIZES) {
    await sharp(data, { raw })
      .resize({ width: side, height: side, fit: 'inside', withoutEnlargement: true })
      .webp({ quality: 78, effort: 2 })
      .toBuffer();
  }
}
