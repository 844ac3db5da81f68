/*
 * Whether bytes are MPEG audio: consecutive frames. A frame begins with eleven set bits, but so do other bytes (a byte
 * order mark of UTF-16, letters of Windows-1251). So the next frame must begin where the first one ends.
 */

/** Bit rates in kbit/s by index: layers 1, 2, 3 of MPEG-1, then layer 1 and layers 2 and 3 of MPEG-2. */
const RATES = [
  [0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448],
  [0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384],
  [0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320],
  [0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256],
  [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160],
];

/** Samples a second of MPEG-1; MPEG-2 has half of them, MPEG-2.5 a quarter. */
const SAMPLES = [44_100, 48_000, 32_000];

/** How many frames are checked. */
const ENOUGH = 4;

/**
 * How many frames of MPEG audio, or of AAC (ADTS), stand at the start, up to four, before the end or before zeros; 0:
 * something else follows.
 */
export function countFrames(head: Uint8Array): number {
  let at = 0;
  for (let frames = 0; frames < ENOUGH; frames++) {
    if (frames > 0 && head.subarray(at, at + 6).every((byte) => byte === 0)) return frames;
    if (frames > 0 && at + 6 > head.length) return frames;
    const length = frameLength(head, at);
    if (length === undefined) return 0;
    at += length;
  }
  return ENOUGH;
}

/** Length of a frame in bytes; undefined: there is no frame. */
function frameLength(head: Uint8Array, at: number): number | undefined {
  const [sync = 0, first = 0, second = 0, third = 0, fourth = 0, fifth = 0] = head.subarray(at, at + 6);
  if (sync !== 0xff || (first & 0xe0) !== 0xe0) return undefined;
  const layer = 4 - ((first >> 1) & 3);
  if (layer === 4) {
    // ISO/IEC 13818-7, 6.2: layer is always 0, and the sync word has twelve bits.
    const length = ((third & 3) << 11) | (fourth << 3) | (fifth >> 5);
    return (first & 0xf0) === 0xf0 && length > 7 ? length : undefined;
  }
  const version = (first >> 3) & 3;
  const isFirst = version === 3;
  const rate = RATES[isFirst ? layer - 1 : layer === 1 ? 3 : 4]?.[second >> 4];
  const divisor = [4, 0, 2, 1][version] ?? 0;
  const samples = SAMPLES[(second >> 2) & 3];
  // A rate of 0 leaves the length open ("free format"), which is practically unused.
  if (!rate || !samples || divisor === 0) return undefined;
  const padding = (second >> 1) & 1;
  const perSecond = samples / divisor;
  if (layer === 1) return (Math.floor((12_000 * rate) / perSecond) + padding) * 4;
  const factor = layer === 3 && !isFirst ? 72_000 : 144_000;
  return Math.floor((factor * rate) / perSecond) + padding;
}
