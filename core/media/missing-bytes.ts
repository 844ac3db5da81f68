/*
 * How long a picture says it is. Many decoders refuse a file that ends too early. With zeros for the missing bytes they
 * decode the part that is there.
 */

/** By media type: the length in bytes that the headers tell; 0: they do not tell. A header beyond the end throws. */
const LENGTHS: Record<string, (bytes: Buffer) => number> = {
  'image/webp': (bytes) => bytes.readUInt32LE(4) + 8,
  'image/avif': boxesEnd,
  'image/heic': boxesEnd,
  'image/heif': boxesEnd,
  'image/heic-sequence': boxesEnd,
  'image/heif-sequence': boxesEnd,
  'image/jp2': tilesEnd,
  'image/jpx': tilesEnd,
  'image/j2c': tilesEnd,
  'image/bmp': bitmapEnd,
  'image/vnd.adobe.photoshop': compositeEnd,
};

/**
 * The picture with zeros for the bytes that are missing at its end.
 * @param mime its detected type @param atMost bytes of the result
 * @returns undefined: it is complete, or does not tell its length, or would be too long
 */
export function fillMissing(bytes: Buffer, mime: string, atMost: number): Buffer | undefined {
  const length = lengthOf(bytes, mime);
  if (length <= bytes.length || length > atMost) return undefined;
  const filled = Buffer.concat([bytes, Buffer.alloc(length - bytes.length)]);
  if (LENGTHS[mime] === tilesEnd) filled.writeUInt16BE(MARKER.end, length - 2);
  return filled;
}

function lengthOf(bytes: Buffer, mime: string): number {
  try {
    return LENGTHS[mime]?.(bytes) ?? 0;
  } catch {
    // The header itself is not complete.
    return 0;
  }
}

/** ISO/IEC 14496-12, 4.2: a box begins with its length; 0: it goes to the end of the file, 1: 64 bits follow. */
function boxesEnd(bytes: Buffer): number {
  let at = 0;
  while (at + 8 <= bytes.length) {
    const length = bytes.readUInt32BE(at);
    if (length === 0) return 0;
    at += length === 1 ? Number(bytes.readBigUInt64BE(at + 8)) : Math.max(8, length);
  }
  return at;
}

const MARKER = { codestream: 0xff4f, tile: 0xff90, end: 0xffd9 };

/** ITU-T T.800, A.4: after the main header come tile-parts, each with its length; 0: to the end of the codestream. */
function tilesEnd(bytes: Buffer): number {
  let at = bytes.indexOf(Buffer.from([0xff, 0x4f, 0xff, 0x51]));
  if (at < 0 || bytes.readUInt16BE(at) !== MARKER.codestream) return 0;
  at += 2;
  while (bytes.readUInt16BE(at) !== MARKER.tile) at += 2 + bytes.readUInt16BE(at + 2);
  while (at + 12 <= bytes.length && bytes.readUInt16BE(at) === MARKER.tile) {
    const length = bytes.readUInt32BE(at + 6);
    if (length === 0) return 0;
    at += length;
  }
  // The marker that ends the codestream.
  return at + 2;
}

/** The rows of a bitmap; what its header says of the whole file where they are compressed. */
function bitmapEnd(bytes: Buffer): number {
  const [size, start, header] = [bytes.readUInt32LE(2), bytes.readUInt32LE(10), bytes.readUInt32LE(14)];
  if (header < 40) return size;
  const [width, height] = [bytes.readInt32LE(18), Math.abs(bytes.readInt32LE(22))];
  const [bits, compression] = [bytes.readUInt16LE(28), bytes.readUInt32LE(30)];
  // BI_RGB and BI_BITFIELDS. Rows are padded to 4 bytes.
  if (compression !== 0 && compression !== 3) return size;
  return start + Math.ceil((width * bits) / 32) * 4 * height;
}

/** Adobe Photoshop File Formats Specification: after four sections with their lengths comes the composite picture. */
function compositeEnd(bytes: Buffer): number {
  const isLarge = bytes.readUInt16BE(4) === 2;
  const [channels, height, width] = [bytes.readUInt16BE(12), bytes.readUInt32BE(14), bytes.readUInt32BE(18)];
  const depth = bytes.readUInt16BE(22);
  let at = 26;
  at += 4 + bytes.readUInt32BE(at);
  at += 4 + bytes.readUInt32BE(at);
  at += isLarge ? 8 + Number(bytes.readBigUInt64BE(at)) : 4 + bytes.readUInt32BE(at);
  const rows = channels * height;
  const compression = bytes.readUInt16BE(at);
  at += 2;
  if (compression === 0) return at + Math.ceil((width * depth) / 8) * rows;
  if (compression !== 1) return 0;
  // The lengths of all compressed rows come first.
  const countSize = isLarge ? 4 : 2;
  let end = at + rows * countSize;
  for (let row = 0; row < rows; row++) {
    const place = at + row * countSize;
    end += isLarge ? bytes.readUInt32BE(place) : bytes.readUInt16BE(place);
  }
  return end;
}
