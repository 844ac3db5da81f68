import { execFile } from 'node:child_process';
import { promisify } from 'node:util';

const ANSWER_MS = 10_000;

const SCRIPT = `
  const { default: { versions } } = await import(process.argv[1]);
  console.log(JSON.stringify({ sharp: versions.sharp, libvips: versions.vips }));
`;

const run = promisify(execFile);

export interface LibraryVersions {
  sharp: string;
  libvips: string;
  /** Null: the program is not on the PATH of this process, or does not run. */
  ffmpeg: string | null;
}

/**
 * The versions of what decodes files: of the library for images, asked in a process of its own, because the library never
 * becomes part of this one, and of ffmpeg. @throws when the library cannot be loaded
 */
export async function readLibraryVersions(): Promise<LibraryVersions> {
  const args = ['--input-type=module', '--eval', SCRIPT, import.meta.resolve('sharp')];
  const [{ stdout }, ffmpeg] = await Promise.all([
    run(process.execPath, args, { env: {}, timeout: ANSWER_MS }),
    readFfmpegVersion(['ffmpeg'], { PATH: process.env.PATH }).catch(() => null),
  ]);
  return { ...JSON.parse(stdout), ffmpeg };
}

/**
 * @param command of ffmpeg or ffprobe, with what runs it
 * @returns such as `7.1.1` @throws when the program is missing or does not run
 */
export async function readFfmpegVersion(
  [program = '', ...args]: string[],
  env: Record<string, string | undefined>,
): Promise<string> {
  const { stdout } = await run(program, [...args, '-version'], { env, timeout: ANSWER_MS });
  const [, version] = /^ff\w+ version (\S+)/.exec(stdout) ?? [];
  if (!version) throw new Error('The program does not tell a version of ffmpeg');
  return version;
}
