import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

/* Sound and video, made by ffmpeg when they are asked for. */

const run = promisify(execFile);

/** A tone of 440 Hz at an eighth of full volume, as ffmpeg makes it. */
export const tone = (seconds = 3, more = '') => [
  '-f',
  'lavfi',
  '-i',
  `sine=frequency=440:d=${seconds}${more}`,
];

/** A moving test picture, 25 pictures a second. */
export const picture = (size = '320x240', seconds = 3) => [
  ...['-f', 'lavfi', '-i', `testsrc=size=${size}:rate=25:d=${seconds}`],
];

/**
 * Runs ffmpeg in a new folder and returns the file that it writes.
 * @param extension of the file; it decides the format
 * @param inputs files that the folder is to hold
 */
export async function record(
  extension: string,
  args: string[],
  inputs: Record<string, Buffer> = {},
): Promise<Buffer> {
  const folder = await mkdtemp(join(tmpdir(), 'landfall-recording-'));
  try {
    for (const [name, bytes] of Object.entries(inputs)) await writeFile(join(folder, name), bytes);
    const output = `made.${extension}`;
    await run('ffmpeg', ['-nostdin', '-v', 'error', ...args, '-bitexact', output], { cwd: folder });
    return await readFile(join(folder, output));
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** What ffprobe tells about a file. */
export async function inspect(
  bytes: Buffer,
): Promise<{ streams: Record<string, unknown>[]; format: Record<string, unknown> }> {
  const folder = await mkdtemp(join(tmpdir(), 'landfall-recording-'));
  try {
    await writeFile(join(folder, 'file'), bytes);
    const { stdout } = await run(
      'ffprobe',
      ['-v', 'error', '-of', 'json', '-show_streams', '-show_format', 'file'],
      {
        cwd: folder,
      },
    );
    return JSON.parse(stdout);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** Writes into the header of an MP4 file that its picture is to be turned by a quarter, clockwise. */
export function turn(mp4: Buffer): Buffer {
  const turned = Buffer.from(mp4);
  const upright = Buffer.from('00010000000000000000000000000000000100000000000000000000', 'hex');
  // The first matrix is that of the movie, the second that of the track.
  const at = turned.indexOf(upright, turned.indexOf('tkhd'));
  const one = 0x1_0000;
  for (const [index, value] of [0, one, 0, -one, 0, 0].entries()) turned.writeInt32BE(value, at + 4 * index);
  return turned;
}
