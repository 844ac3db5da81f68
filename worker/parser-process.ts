import exifr from 'exifr';
import sharp from 'sharp';
import type { ErrorCode } from '../core/errors.js';
import {
  EXIT_TOO_MUCH_MEMORY,
  type ParserAnswer,
  type ParserLimits,
  type ParserTask,
  type Thumbnail,
} from './parser-protocol.js';
import { toPlainJson } from './plain-json.js';

/*
 * A process that decodes what strangers have sent, so that nothing it does can hurt the worker: the worker kills
 * it when it takes too long, it ends itself when it takes too much memory, and a crash is only its own.
 */

/** Longest side in pixels. */
const SIZES = [
  { name: 'large', side: 1200 },
  { name: 'medium', side: 600 },
  { name: 'small', side: 200 },
] as const;

const QUALITY = 78;

/** libwebp's effort, 0 to 6: 2 takes a third of the default's time for some percent more bytes. */
const EFFORT = 2;

const MEMORY_CHECK_MS = 50;

const limits = JSON.parse(process.argv[2] ?? '{}') as ParserLimits;

class ParserError extends Error {
  constructor(
    readonly code: ErrorCode,
    message: string,
  ) {
    super(message);
  }
}

// One image at a time and one thread for it: the worker runs as many of these processes as there are cores.
sharp.concurrency(1);
sharp.cache(false);

const open = (path: string) =>
  sharp(path, { limitInputPixels: limits.maxImagePixels, failOn: 'error', sequentialRead: true });

async function readMetadata(path: string): Promise<Record<string, unknown>> {
  const image = await open(path).metadata();
  checkPixels(image.width, image.height);
  const tags = await readTags(path, image.exif);
  const { gps, ...others } = tags;
  return toPlainJson({
    image: {
      format: image.format,
      // As shown, that is after the EXIF orientation has been applied.
      width: image.autoOrient.width,
      height: image.autoOrient.height,
      orientation: image.orientation ?? 1,
      colorSpace: image.space,
      channels: image.channels,
      depth: image.depth,
      hasAlpha: image.hasAlpha,
      hasProfile: image.hasProfile,
      density: image.density,
      pages: image.pages,
    },
    ...others,
    gps: gps && {
      latitude: gps.latitude,
      longitude: gps.longitude,
      altitude: gps.GPSAltitude,
      ...gps,
    },
  });
}

/** EXIF, GPS, IPTC and XMP. Tags that cannot be read are no reason to refuse an image. */
async function readTags(
  path: string,
  exif: Buffer | undefined,
): Promise<Record<string, Record<string, unknown>>> {
  const options = {
    mergeOutput: false,
    tiff: true,
    exif: true,
    gps: true,
    iptc: true,
    xmp: true,
    icc: false,
  };
  try {
    return (await exifr.parse(path, options)) ?? {};
  } catch {
    // exifr knows no WebP and no GIF; sharp hands out their EXIF block, which begins with "Exif\0\0".
    const block = exif?.subarray(exif.toString('latin1', 0, 4) === 'Exif' ? 6 : 0);
    return block ? ((await exifr.parse(block, options).catch(() => undefined)) ?? {}) : {};
  }
}

/** Decodes once, at the largest size (JPEGs are scaled while decoding), and makes the smaller ones from that. */
async function makeThumbnails(path: string): Promise<Thumbnail[]> {
  const { width, height } = await open(path).metadata();
  checkPixels(width, height);
  const [largest] = SIZES;
  const base = await open(path)
    .autoOrient()
    .resize({ width: largest.side, height: largest.side, fit: 'inside', withoutEnlargement: true })
    .toColourspace('srgb')
    .raw()
    .toBuffer({ resolveWithObject: true });
  const raw = { width: base.info.width, height: base.info.height, channels: base.info.channels };
  const thumbnails: Thumbnail[] = [];
  for (const { name, side } of SIZES) {
    const made = await sharp(base.data, { raw })
      .resize({ width: side, height: side, fit: 'inside', withoutEnlargement: true })
      .webp({ quality: QUALITY, effort: EFFORT })
      .toBuffer({ resolveWithObject: true });
    thumbnails.push({ name, bytes: made.data, width: made.info.width, height: made.info.height });
  }
  return thumbnails;
}

function checkPixels(width: number, height: number): void {
  if (width * height <= limits.maxImagePixels) return;
  throw new ParserError(
    'too_many_pixels',
    `${width} × ${height} pixels; at most ${limits.maxImagePixels} in all are decoded`,
  );
}

async function run({ task, source }: ParserTask): Promise<ParserAnswer> {
  try {
    const result = task === 'metadata' ? await readMetadata(source.path) : await makeThumbnails(source.path);
    return { ok: true, result };
  } catch (error) {
    if (error instanceof ParserError) return { ok: false, code: error.code, detail: error.message };
    const message = error instanceof Error ? error.message : String(error);
    if (/pixel limit/i.test(message)) return { ok: false, code: 'too_many_pixels', detail: message };
    return {
      ok: false,
      code: 'unreadable',
      detail: message.replaceAll(source.path, 'the file').split('\n')[0] ?? '',
    };
  }
}

process.on('message', (task: ParserTask) => {
  run(task).then((answer) => process.send?.(answer));
});

// The worker decides when this ends; Ctrl-C in a terminal goes to every process of the group.
process.on('SIGINT', () => {});
process.on('SIGTERM', () => {});
process.on('disconnect', () => process.exit(0));

setInterval(() => {
  if (process.memoryUsage.rss() > limits.memory) process.exit(EXIT_TOO_MUCH_MEMORY);
}, MEMORY_CHECK_MS);
