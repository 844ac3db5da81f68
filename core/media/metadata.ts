import exifr from 'exifr';
import type { Metadata } from 'sharp';
import { isRawType, readCameraRaw } from './camera-raw.js';
import { coderFor, ICON, typeOf } from './decodable.js';
import { readExif } from './exif.js';
import { isBitmapIcon, readIcon } from './icon.js';
import { decoding, readHeader } from './image.js';
import { type Coder, readMagickHeader } from './imagemagick.js';
import { fillMissing } from './missing-bytes.js';
import { toPlainJson } from './plain-json.js';
import { heldBytes, type ParserLimits, type TaskInput, tooLarge } from './task-input.js';
import { decodeText } from './text.js';

/**
 * Reads the dimensions and tags of an image, without decoding pixels.
 * @throws {AppError} unreadable; too_much_memory when the header is beyond the given first bytes
 */
export function readMetadata(input: TaskInput): Promise<Record<string, unknown>> {
  return decoding(describe(input)).catch((error: unknown) => {
    throw input.bytes.length === input.size ? error : tooLarge(input.size, input.bytes.length);
  });
}

async function describe(input: TaskInput): Promise<Record<string, unknown>> {
  const { mime, ext } = await typeOf(input);
  const bytes = fillMissing(input.bytes, mime, heldBytes(input.limits)) ?? input.bytes;
  if (isRawType(mime)) return describeRaw(bytes, ext);
  if (mime === ICON) return describeIcon(bytes, input.limits);
  const coder = coderFor(mime);
  // libvips reads the header of a HEIC, although it does not decode its pixels, but not of a sequence.
  const isStill = coder === 'HEIC' && !mime.endsWith('-sequence');
  if (coder && !isStill) return describeForeign(bytes, coder, ext, input.limits);
  const header = await readHeader(bytes);
  return toPlainJson({
    image: imageOf(header),
    // A TIFF file has the structure of an EXIF block.
    ...readExif(header.exif ?? findPngExif(bytes) ?? bytes),
    iptc: await readIptc(bytes),
    xmp: await readXmp(header.xmp),
  });
}

function imageOf(header: Metadata): Record<string, unknown> {
  return {
    format: header.format,
    // Dimensions after the EXIF orientation has been applied.
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
  };
}

async function describeRaw(bytes: Buffer, format: string): Promise<Record<string, unknown>> {
  const { blocks, xmp, orientation, ...size } = readCameraRaw(bytes);
  return toPlainJson({
    image: { format, ...(size.width > 0 ? shown(size, orientation) : {}), orientation },
    ...(blocks.main ? readExif(blocks.main, blocks) : {}),
    xmp: await readXmp(xmp),
  });
}

/** The facts of the largest picture, and how many there are. */
async function describeIcon(bytes: Buffer, limits: ParserLimits): Promise<Record<string, unknown>> {
  const icon = readIcon(bytes);
  if (!icon) throw new Error('it holds no picture');
  const { largest, pages } = icon;
  const image = isBitmapIcon(icon)
    ? (await describeForeign(largest, 'ICO', 'ico', limits)).image
    : imageOf(await readHeader(largest));
  return toPlainJson({ image: { ...(image as object), format: 'ico', pages } });
}

/** By the header that ImageMagick reads. */
async function describeForeign(
  bytes: Buffer,
  coder: Coder,
  format: string,
  limits: ParserLimits,
): Promise<Record<string, unknown>> {
  const { exif, xmp, width, height, space, ...image } = await readMagickHeader(bytes, coder, limits);
  return toPlainJson({
    image: { format, ...shown({ width, height }, image.orientation), colorSpace: space, ...image },
    ...(exif ? readExif(exif) : {}),
    xmp: await readXmp(xmp),
  });
}

/** Dimensions after the orientation has been applied: from 5 on, the picture lies on its side. */
function shown({ width, height }: { width: number; height: number }, orientation: number) {
  return orientation >= 5 ? { width: height, height: width } : { width, height };
}

/** The eXIf chunk of a PNG. It may come after the pixels, where libvips does not look. */
function findPngExif(bytes: Buffer): Buffer | undefined {
  if (bytes.toString('latin1', 1, 4) !== 'PNG') return undefined;
  for (let at = 8; at + 8 <= bytes.length; ) {
    const length = bytes.readUInt32BE(at);
    if (bytes.toString('latin1', at + 4, at + 8) === 'eXIf') return bytes.subarray(at + 8, at + 8 + length);
    at += length + 12;
  }
  return undefined;
}

/** IPTC texts of press agencies, in JPEG and TIFF only. Errors are ignored: unreadable tags must not fail an image. */
async function readIptc(bytes: Buffer): Promise<Record<string, unknown> | undefined> {
  const options = { mergeOutput: false, iptc: true, xmp: false, exif: false, gps: false };
  const found = await exifr.parse(bytes, options).catch(() => undefined);
  return found?.iptc && mapTexts(found.iptc, (text) => decodeText(Buffer.from(text, 'latin1')));
}

/** Decodes texts again, because exifr reads every text as Latin-1. */
function mapTexts(
  tags: Record<string, unknown>,
  change: (text: string) => string | undefined,
): Record<string, unknown> {
  const changed = (value: unknown) => (typeof value === 'string' ? change(value) : value);
  return Object.fromEntries(
    Object.entries(tags).map(([name, value]) => [
      name,
      Array.isArray(value) ? value.map(changed) : changed(value),
    ]),
  );
}

/** Properties by the prefix of their namespace; the packet chooses those itself, so they stay among themselves. */
async function readXmp(packet: Buffer | undefined): Promise<Record<string, unknown> | undefined> {
  if (!packet) return undefined;
  const found = await exifr.sidecar(packet, { mergeOutput: false }).catch(() => undefined);
  const { xmlns, ...properties } = (found ?? {}) as Record<string, unknown>;
  return properties;
}
