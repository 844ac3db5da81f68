import { collectPeaks, type Waveform } from './peaks.js';
import type { TaskInput } from './task-input.js';

/*
 * Uncompressed sound in a WAV file: RIFF chunks, of which `fmt ` tells how the samples in `data` are stored (Microsoft,
 * "Multiple channel audio data and WAVE files").
 */

/** Format tags of Microsoft. */
const INTEGERS = 1;
const FLOATS = 3;
const EXTENSIBLE = 0xfffe;

/** Samples that are converted at a time. */
const PIECE = 16 * 1024;

/** Reads one sample of the given place as a number from -1 to 1. */
type ReadSample = (bytes: Buffer, at: number) => number;

const READERS: Record<string, ReadSample> = {
  [`${INTEGERS}-8`]: (bytes, at) => (bytes.readUInt8(at) - 128) / 128,
  [`${INTEGERS}-16`]: (bytes, at) => bytes.readInt16LE(at) / 2 ** 15,
  [`${INTEGERS}-24`]: (bytes, at) => bytes.readIntLE(at, 3) / 2 ** 23,
  [`${INTEGERS}-32`]: (bytes, at) => bytes.readInt32LE(at) / 2 ** 31,
  [`${FLOATS}-32`]: (bytes, at) => bytes.readFloatLE(at),
  [`${FLOATS}-64`]: (bytes, at) => bytes.readDoubleLE(at),
};

/** The waveform of a WAV file. @returns null: it holds no sound, or compressed sound */
export function readWaveform({ bytes }: TaskInput): Waveform | null {
  const format = findChunk(bytes, 'fmt ');
  const data = findChunk(bytes, 'data');
  if (!format || format.length < 16 || !data) return null;
  const tag = format.readUInt16LE(0);
  // The first two bytes of the subformat are the tag of one that was there before.
  const kind = tag === EXTENSIBLE && format.length >= 26 ? format.readUInt16LE(24) : tag;
  const [channels, perSecond, bits] = [
    format.readUInt16LE(2),
    format.readUInt32LE(4),
    format.readUInt16LE(14),
  ];
  const read = READERS[`${kind}-${bits}`];
  if (!read || channels === 0 || perSecond === 0) return null;
  const width = bits / 8;
  const count = Math.floor(data.length / width);
  if (count === 0) return null;
  const peaks = collectPeaks();
  for (let at = 0; at < count; at += PIECE) {
    const length = Math.min(PIECE, count - at);
    peaks.push(Float64Array.from({ length }, (_, index) => read(data, (at + index) * width)));
  }
  return peaks.end(channels * perSecond);
}

/** The content of a chunk, or what is there of it: a program that writes to a pipe does not know the length. */
function findChunk(bytes: Buffer, name: string): Buffer | undefined {
  if (bytes.toString('latin1', 0, 4) !== 'RIFF') return undefined;
  for (let at = 12; at + 8 <= bytes.length; ) {
    const length = bytes.readUInt32LE(at + 4);
    const start = at + 8;
    if (bytes.toString('latin1', at, at + 4) === name) return bytes.subarray(start, start + length);
    at = start + length + (length % 2);
  }
  return undefined;
}
