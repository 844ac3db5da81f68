import { collectPeaks, type Waveform } from '../../core/media/peaks.js';
import type { WorkFolder } from '../work-folders.js';
import { inputArgs, type Probed } from './probe.js';
import { type Ffmpeg, GLOBAL_ARGS, THREADS, unreadable } from './run.js';

/** Bytes of a sample of 16 bits. */
const WIDTH = 2;

export interface SoundInput {
  ffmpeg: Pick<Ffmpeg, 'stream'>;
  folder: WorkFolder;
  signal: AbortSignal;
  probed: Probed;
  audio: Probed['audio'] & object;
}

/** Decodes all sound of a track, with all its channels, and keeps only the peaks. @throws {AppError} as Ffmpeg.read() */
export async function readPeaks({ ffmpeg, folder, signal, probed, audio }: SoundInput): Promise<Waveform> {
  const { sampleRate = 48_000, channels = 1 } = audio.facts;
  const args = [
    ...[...GLOBAL_ARGS, '-threads', String(THREADS), ...inputArgs(probed.demuxer)],
    ...['-map', `0:${audio.index}`, '-vn', '-sn', '-dn', '-ar', String(sampleRate), '-ac', String(channels)],
    ...['-c:a', 'pcm_s16le', '-f', 's16le', 'pipe:1'],
  ];
  const peaks = collectPeaks();
  let samples = 0;
  let rest: Buffer = Buffer.alloc(0);
  await ffmpeg.stream({ program: 'ffmpeg', args, folder, signal }, (chunk) => {
    const bytes = rest.length > 0 ? Buffer.concat([rest, chunk]) : chunk;
    const length = Math.floor(bytes.length / WIDTH);
    // A copy, because the samples must begin at an even address. All of these machines are little-endian.
    const piece = new Int16Array(Uint8Array.from(bytes.subarray(0, length * WIDTH)).buffer);
    peaks.push(Float32Array.from(piece, (value) => value / 2 ** 15));
    samples += length;
    rest = bytes.subarray(length * WIDTH);
  });
  if (samples === 0) throw unreadable('there is no sound');
  return peaks.end(sampleRate * channels);
}
