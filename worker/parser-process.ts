import { access, constants } from 'node:fs/promises';
import exifr from 'exifr';
import sharp, { type Metadata } from 'sharp';
import type { ErrorCode } from '../core/errors.js';
import type { BlobReference } from '../core/storage/storage.js';
import {
  type ParserAnswer,
  type ParserLimits,
  type ParserTask,
  type Thumbnail,
  TOO_MUCH_MEMORY,
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

// Cameras write local time without a zone. Whatever zone this machine is in must not move it.
process.env.TZ = 'UTC';

/** What sharp and exifr read from: a path, or the whole object where it is not on this machine. */
type Input = string | Buffer;

const open = (input: Input) =>
  sharp(input, { limitInputPixels: limits.maxImagePixels, failOn: 'error', sequentialRead: true });

/** Dimensions and tags, without decoding a pixel. */
async function readHeader(input: Input): Promise<Metadata> {
  const header = await sharp(input, { limitInputPixels: false, failOn: 'error' }).metadata();
  if (header.width * header.height > limits.maxImagePixels) {
    throw new ParserError(
      'too_many_pixels',
      `${header.width} × ${header.height} pixels; at most ${limits.maxImagePixels} in all are decoded`,
    );
  }
  return header;
}

async function readMetadata(input: Input): Promise<Record<string, unknown>> {
  const header = await readHeader(input);
  return toPlainJson({
    image: {
      format: header.format,
      // As shown, that is after the EXIF orientation has been applied.
      width: header.autoOrient.width,
      height: header.autoOrient.height,
      orientation: header.orientation ?? 1,
      colorSpace: header.space,
      channels: header.channels,
      depth: header.depth,
      hasAlpha: header.hasAlpha,
      hasProfile: header.hasProfile,
      density: header.density,
      pages: header.pages,
    },
    ...(await readTags(input, header.exif)),
    xmp: await readXmp(header.xmp),
  });
}

/** EXIF, GPS and IPTC. Tags that cannot be read are no reason to refuse an image. */
async function readTags(input: Input, block: Buffer | undefined): Promise<Record<string, unknown>> {
  const options = {
    mergeOutput: false,
    tiff: true,
    exif: true,
    gps: true,
    iptc: true,
    xmp: false,
    icc: false,
  };
  let tags = await exifr.parse(input, options).catch(() => undefined);
  if (!tags?.ifd0 && block) {
    // exifr knows no WebP and no GIF and does not find all that AVIF holds. sharp hands out the EXIF block of
    // them all; in some formats it begins with "Exif\0\0".
    const tiff = block.subarray(block.toString('latin1', 0, 4) === 'Exif' ? 6 : 0);
    tags = await exifr.parse(tiff, options).catch(() => undefined);
  }
  const { ifd0, exif, gps, iptc } = tags ?? {};
  return { ifd0, exif, iptc, gps: gps && { ...gps, altitude: readAltitude(gps) } };
}

/** Metres above the sea, negative below it. @param gps GPSAltitudeRef is 1 there (EXIF 2.32, 4.6.6) */
function readAltitude(gps: { GPSAltitude?: number; GPSAltitudeRef?: Uint8Array }): number | undefined {
  return gps.GPSAltitude && gps.GPSAltitudeRef?.[0] === 1 ? -gps.GPSAltitude : gps.GPSAltitude;
}

/** Properties by the prefix of their namespace; the packet chooses those itself, so they stay among themselves. */
async function readXmp(packet: Buffer | undefined): Promise<Record<string, unknown> | undefined> {
  if (!packet) return undefined;
  const found = await exifr.sidecar(packet, { mergeOutput: false }).catch(() => undefined);
  const { xmlns, ...properties } = (found ?? {}) as Record<string, unknown>;
  return properties;
}

/** Decodes once, at the largest size (JPEGs are scaled while decoding), and makes the smaller ones from that. */
async function makeThumbnails(input: Input): Promise<Thumbnail[]> {
  await readHeader(input);
  const [largest] = SIZES;
  const base = await open(input)
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

/** Whoever cannot even open the object cannot say that its content is bad. */
const UNAVAILABLE: ParserAnswer = {
  ok: false,
  code: 'unavailable',
  detail: 'The stored bytes cannot be read',
};

/** A store that does not answer is not the fault of the file: less than the worker's own limit, in milliseconds. */
const FETCH_MS = Math.min(20_000, limits.timeoutSeconds * 500);

async function run({ task, source }: ParserTask): Promise<ParserAnswer> {
  let input: Input;
  try {
    input = await load(source);
  } catch (error) {
    if (error instanceof ParserError) return { ok: false, code: error.code, detail: error.message };
    return UNAVAILABLE;
  }
  try {
    return {
      ok: true,
      result: task === 'metadata' ? await readMetadata(input) : await makeThumbnails(input),
    };
  } catch (error) {
    if (error instanceof ParserError) return { ok: false, code: error.code, detail: error.message };
    if (!(await isReadable(source))) return UNAVAILABLE;
    return { ok: false, code: 'unreadable', detail: explain(error, input) };
  }
}

async function isReadable(source: BlobReference): Promise<boolean> {
  if (source.kind === 'url') return true;
  return access(source.path, constants.R_OK).then(
    () => true,
    () => false,
  );
}

/** The path of the object, or its bytes if it is not on this machine. */
async function load(source: BlobReference): Promise<Input> {
  if (source.kind === 'file') return source.path;
  const response = await fetch(source.url, { signal: AbortSignal.timeout(FETCH_MS) });
  if (!response.ok) throw new Error(`the store answers ${response.status}`);
  // Decoding takes more than the bytes themselves.
  const size = Number(response.headers.get('Content-Length'));
  if (size > limits.memory / 2) {
    await response.body?.cancel();
    throw new ParserError(
      'too_much_memory',
      `${size} bytes; at most ${limits.memory / 2} are read into memory`,
    );
  }
  return Buffer.from(await response.arrayBuffer());
}

/** What the decoder says, in one line and without the path. */
function explain(error: unknown, input: Input): string {
  const message = error instanceof Error ? error.message : String(error);
  const [, codec] = /has not been built in: (\w+)/.exec(message) ?? [];
  if (codec) return `Images compressed as ${codec} cannot be decoded here`;
  const lines = (typeof input === 'string' ? message.replaceAll(input, 'the file') : message).split('\n');
  // libheif looks for the end of a file by seeking behind it; that is no error.
  const line = lines.find((candidate) => !candidate.includes('bad seek')) ?? lines[0] ?? '';
  // Such as "VipsJpeg: premature end of JPEG image".
  return `The image cannot be decoded: ${line.replace(/^\w+: /, '')}`;
}

process.on('message', (task: ParserTask) => {
  run(task).then((answer) => process.send?.(answer));
});

// The worker decides when this ends; Ctrl-C in a terminal goes to every process of the group.
process.on('SIGINT', () => {});
process.on('SIGTERM', () => {});

/** By a signal, because process.exit() waits for the native code that is at work. */
const end = (signal: NodeJS.Signals) => process.kill(process.pid, signal);

process.on('disconnect', () => end('SIGKILL'));

setInterval(() => {
  // A worker that died while this was starting has left before anyone listened.
  if (!process.connected) end('SIGKILL');
  if (process.memoryUsage.rss() > limits.memory) end(TOO_MUCH_MEMORY);
}, MEMORY_CHECK_MS);
