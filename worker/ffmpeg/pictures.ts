import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { AppError } from '../../core/errors.js';
import type { WorkFolder } from '../work-folders.js';
import { type Dimensions, inputArgs, type Probed } from './probe.js';
import { type Ffmpeg, GLOBAL_ARGS, THREADS, unreadable } from './run.js';

/* Pictures of a video: a poster, and a short silent clip. */

/** Where both begin, as a share of the duration: films begin with black pictures and titles. */
const BEGIN = 0.1;

/** Longest side in pixels; the poster is at most as large as the largest thumbnail. */
const POSTER_SIDE = 1200;
const CLIP_SIDE = 480;

/** The poster is the most typical of this many pictures. So it is rarely a black one. */
const CANDIDATES = 24;

/** Bytes. */
const MAX_POSTER = 8 * 1024 ** 2;
const MAX_CLIP = 4 * 1024 ** 2;

const CLIP_SECONDS = 5;
const CLIP_RATE = 15;

export interface VideoInput {
  ffmpeg: Pick<Ffmpeg, 'read'>;
  folder: WorkFolder;
  signal: AbortSignal;
  probed: Probed;
  video: Probed['video'] & object;
  maxImagePixels: number;
}

export interface Poster {
  /** A PNG, upright. */
  bytes: Buffer;
  /** Seconds at which it was found. */
  at: number;
}

/** @throws {AppError} as Ffmpeg.read() */
export async function makePoster(input: VideoInput): Promise<Poster> {
  const { width, height } = fitInto(input.video.shown, POSTER_SIDE);
  const filters = `scale=${width}:${height},setsar=1,thumbnail=${CANDIDATES}`;
  const output = ['-frames:v', '1', '-vf', filters, '-c:v', 'png', '-f', 'image2pipe', 'pipe:1'];
  const from = (seconds: number) => read(input, ['-ss', String(seconds)], output, MAX_POSTER);
  // Some files cannot be searched, some hold only one picture, and some lie about their duration.
  const at = beginOf(input.probed);
  const later = at > 0 ? await from(at).catch(unlessUnreadable) : undefined;
  if (later?.length) return { bytes: later, at };
  const first = await from(0);
  if (first.length === 0) throw unreadable('there is no picture');
  return { bytes: first, at: 0 };
}

export interface Clip extends Dimensions {
  bytes: Buffer;
}

/** @param at seconds @returns an MP4 file with H.264 @throws {AppError} as Ffmpeg.read() */
export async function makeClip(input: VideoInput, at: number): Promise<Clip> {
  const { width, height } = fitInto(input.video.shown, CLIP_SIDE);
  const filters = `scale=${width}:${height},setsar=1,fps=${CLIP_RATE},format=yuv420p`;
  const output = [
    ...['-vf', filters, '-c:v', 'h264', '-preset', 'veryfast', '-crf', '30', '-threads', String(THREADS)],
    ...['-map_metadata', '-1', '-map_chapters', '-1', '-movflags', '+faststart', '-fs', String(MAX_CLIP / 2)],
    // A file, because an MP4 that is written to a pipe is one that not every browser plays.
    ...['-f', 'mp4', 'file:clip.mp4'],
  ];
  await read(input, ['-ss', String(at), '-t', String(CLIP_SECONDS)], output, 0);
  const bytes = await readMade(join(input.folder.path, 'clip.mp4'), MAX_CLIP);
  return { bytes, width, height };
}

function read(
  { ffmpeg, folder, signal, probed, video, maxImagePixels }: VideoInput,
  from: string[],
  output: string[],
  maxOutput: number,
): Promise<Buffer> {
  const args = [
    ...[...GLOBAL_ARGS, '-threads', String(THREADS), '-max_pixels', String(maxImagePixels), ...from],
    ...[...inputArgs(probed.demuxer)],
    ...['-map', `0:${video.index}`, '-an', '-sn', '-dn', ...output],
  ];
  return ffmpeg.read({ program: 'ffmpeg', args, folder, signal }, maxOutput);
}

function beginOf({ durationSeconds = 0 }: Probed): number {
  return Math.round(durationSeconds * BEGIN * 1000) / 1000;
}

/** The dimensions within a square. Both are even, because H.264 halves the resolution of colours. */
function fitInto({ width, height }: Dimensions, side: number): Dimensions {
  const scale = Math.min(1, side / Math.max(width, height, 1));
  const even = (length: number) => Math.max(2, 2 * Math.round((length * scale) / 2));
  return { width: even(width), height: even(height) };
}

function unlessUnreadable(error: unknown): undefined {
  if (!(error instanceof AppError) || error.code !== 'unreadable') throw error;
}

/** Reads a file that a program has made. The program may have been taken over by the content: a link is not followed. */
async function readMade(path: string, most: number): Promise<Buffer> {
  const { O_RDONLY, O_NOFOLLOW, O_NONBLOCK } = constants;
  const file = await open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
  try {
    const found = await file.stat();
    if (!found.isFile() || found.nlink > 1 || found.size > most) {
      throw unreadable('the clip is not a file of a moderate size');
    }
    const bytes = Buffer.alloc(found.size);
    const { bytesRead } = await file.read(bytes);
    if (bytesRead === 0) throw unreadable('there is no picture');
    return bytes.subarray(0, bytesRead);
  } finally {
    await file.close();
  }
}
