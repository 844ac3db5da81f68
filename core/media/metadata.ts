import exifr from 'exifr';
import { decoding, readHeader, tooLarge } from './image.js';
import { toPlainJson } from './plain-json.js';
import type { TaskInput } from './tasks.js';

/**
 * What an image says of itself: dimensions and tags, without decoding a pixel.
 * @throws {AppError} unreadable; too_much_memory when the header would have to be looked for behind the given bytes
 */
export function readMetadata(input: TaskInput): Promise<Record<string, unknown>> {
  return decoding(describe(input)).catch((error: unknown) => {
    throw input.bytes.length === input.size ? error : tooLarge(input);
  });
}

async function describe({ bytes, limits }: TaskInput): Promise<Record<string, unknown>> {
  const header = await readHeader(bytes, limits);
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
    ...(await readTags(bytes, header.exif)),
    xmp: await readXmp(header.xmp),
  });
}

/** EXIF, GPS and IPTC. Tags that cannot be read are no reason to refuse an image. */
async function readTags(bytes: Buffer, block: Buffer | undefined): Promise<Record<string, unknown>> {
  const options = {
    mergeOutput: false,
    tiff: true,
    exif: true,
    gps: true,
    iptc: true,
    xmp: false,
    icc: false,
  };
  let tags = await exifr.parse(bytes, options).catch(() => undefined);
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
