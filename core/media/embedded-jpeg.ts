/*
 * JPEGs within other files: the previews of raw files and of broken pictures. They are found by their own structure,
 * wherever they lie.
 */

const START = Buffer.from([0xff, 0xd8, 0xff]);

/** Signatures are looked for no further once so many were found: a file of signatures only would take hours. */
const MAX_STARTS = 10_000;

/** Segments before the frame header. A colour profile may take 255. */
const MAX_SEGMENTS = 500;

export interface Jpeg {
  /** From its start to the end of the file. */
  bytes: Buffer;
  /** Pixels. */
  width: number;
  height: number;
}

/** The largest JPEG that begins at this position or later. */
export function findLargestJpeg(bytes: Buffer, from = 0): Jpeg | undefined {
  let largest: Jpeg | undefined;
  let at = bytes.indexOf(START, from);
  for (let count = 0; at >= 0 && count < MAX_STARTS; count++) {
    const size = readFrame(bytes, at);
    if (size && size.width * size.height > (largest ? largest.width * largest.height : 0)) {
      largest = { bytes: bytes.subarray(at), ...size };
    }
    at = bytes.indexOf(START, at + 1);
  }
  return largest;
}

/**
 * The size in the frame header of the JPEG at this position (ITU-T T.81, B.2.2); undefined: it is none, or it is
 * lossless, as are the sensor's data of some cameras.
 */
function readFrame(bytes: Buffer, start: number): { width: number; height: number } | undefined {
  let at = start + 2;
  for (let count = 0; count < MAX_SEGMENTS && at + 10 <= bytes.length && bytes[at] === 0xff; count++) {
    const marker = bytes[at + 1] ?? 0;
    const length = bytes.readUInt16BE(at + 2);
    if (marker >= 0xc0 && marker <= 0xc2) {
      const [precision, components] = [bytes[at + 4], bytes[at + 9] ?? 0];
      if (precision !== 8 || ![1, 3].includes(components) || length !== 8 + 3 * components) return undefined;
      return { height: bytes.readUInt16BE(at + 5), width: bytes.readUInt16BE(at + 7) };
    }
    // Tables, comments and the segments of programs. All else would begin the picture.
    const isBefore =
      marker === 0xc4 || marker === 0xdb || marker === 0xdd || marker === 0xfe || marker >> 4 === 0xe;
    if (!isBefore || length < 2) return undefined;
    at += 2 + length;
  }
  return undefined;
}

/** The EXIF block of a JPEG; undefined: it has none. */
export function exifOf(jpeg: Buffer): Buffer | undefined {
  for (let at = 2; at + 10 <= jpeg.length && jpeg[at] === 0xff && (jpeg[at + 1] ?? 0) >> 4 === 0xe; ) {
    const end = at + 2 + jpeg.readUInt16BE(at + 2);
    if (jpeg[at + 1] === 0xe1 && jpeg.toString('latin1', at + 4, at + 10) === 'Exif\0\0') {
      return jpeg.subarray(at + 10, end);
    }
    at = end;
  }
  return undefined;
}
