/*
 * The header of a movie in the ISO base media file format (ISO/IEC 14496-12), which MP4, M4A, MOV and 3GP files have: the box
 * `moov`, wherever it stands. It tells durations and dimensions, without any video being decoded.
 */

export interface Movie {
  /** The boxes `ftyp` and `moov`, which are all that a reader of tags needs. */
  header: Buffer;
  /** Undefined: not told, as in a recording that was never ended. */
  durationSeconds?: number;
  /** The first video track; undefined: there is none. */
  video?: MovieVideo;
}

interface MovieVideo {
  /** Pixels, as they are shown: after the rotation. */
  width: number;
  height: number;
  /** Degrees clockwise by which the stored picture is turned for display: 0, 90, 180, 270. */
  rotation: number;
  /** Four letters of its sample description, such as `avc1`. */
  format: string;
}

interface Box {
  type: string;
  /** The whole box, and what follows its size and type. */
  whole: Buffer;
  content: Buffer;
}

/** More boxes of one level than any movie has. */
const MOST_BOXES = 10_000;

/** @returns undefined if the movie header is missing or cut off */
export function readMovie(bytes: Buffer): Movie | undefined {
  const boxes = boxesOf(bytes);
  const moov = boxes.find(({ type }) => type === 'moov');
  if (!moov) return undefined;
  const header = Buffer.concat(
    boxes.filter(({ type }) => type === 'ftyp' || type === 'moov').map(({ whole }) => whole),
  );
  const parts = boxesOf(moov.content);
  const mvhd = parts.find(({ type }) => type === 'mvhd');
  const video = parts.filter(({ type }) => type === 'trak').flatMap(readTrack)[0];
  return { header, ...readDuration(mvhd?.content), ...(video ? { video } : {}) };
}

/** Section 8.2.2. All bits set: "if the duration cannot be determined". */
function readDuration(mvhd: Buffer | undefined): Pick<Movie, 'durationSeconds'> {
  if (!mvhd || mvhd.length < 32) return {};
  const isLong = mvhd[0] === 1;
  const scale = mvhd.readUInt32BE(isLong ? 20 : 12);
  const duration = isLong ? Number(mvhd.readBigUInt64BE(24)) : mvhd.readUInt32BE(16);
  const isKnown = scale > 0 && duration > 0 && duration < (isLong ? 2 ** 63 : 0xffff_ffff);
  return isKnown ? { durationSeconds: duration / scale } : {};
}

function readTrack({ content }: Box): MovieVideo[] {
  const tkhd = find(content, 'tkhd');
  const hdlr = find(content, 'mdia', 'hdlr');
  const isVideo = hdlr?.toString('latin1', 8, 12) === 'vide';
  if (!isVideo || !tkhd) return [];
  // Section 8.3.2: times of four or eight bytes, and then the matrix, the width and the height at the same distance.
  const matrix = tkhd[0] === 1 ? 52 : 40;
  if (tkhd.length < matrix + 44) return [];
  const [width, height] = [36, 40].map((at) => Math.round(tkhd.readUInt32BE(matrix + at) / 0x1_0000)) as [
    number,
    number,
  ];
  const rotation = readRotation(tkhd.subarray(matrix));
  const format = find(content, 'mdia', 'minf', 'stbl', 'stsd')?.toString('latin1', 12, 16) ?? '';
  const isUpright = rotation % 180 === 0;
  return [{ width: isUpright ? width : height, height: isUpright ? height : width, rotation, format }];
}

/** The matrix holds fixed-point numbers: cosine, sine, 0, negative sine, cosine. */
function readRotation(matrix: Buffer): number {
  const degrees = (Math.atan2(matrix.readInt32BE(4), matrix.readInt32BE(0)) * 180) / Math.PI;
  return (((Math.round(degrees / 90) * 90) % 360) + 360) % 360;
}

/** The content of a box inside of others; undefined: one of them is missing. */
function find(bytes: Buffer, ...path: string[]): Buffer | undefined {
  return path.reduce<Buffer | undefined>(
    (found, type) => found && boxesOf(found).find((box) => box.type === type)?.content,
    bytes,
  );
}

/** The boxes of one level that are there as a whole. Section 4.2: a size of 1 means eight further bytes, 0 the rest. */
function boxesOf(bytes: Buffer): Box[] {
  const boxes: Box[] = [];
  for (let at = 0; at + 8 <= bytes.length && boxes.length < MOST_BOXES; ) {
    const short = bytes.readUInt32BE(at);
    const isLong = short === 1 && at + 16 <= bytes.length;
    const start = isLong ? 16 : 8;
    const size = isLong ? Number(bytes.readBigUInt64BE(at + 8)) : short === 0 ? bytes.length - at : short;
    if (size < start || at + size > bytes.length) break;
    const whole = bytes.subarray(at, at + size);
    boxes.push({ type: bytes.toString('latin1', at + 4, at + 8), whole, content: whole.subarray(start) });
    at += size;
  }
  return boxes;
}
