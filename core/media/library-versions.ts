import { execFile } from 'node:child_process';
import { promisify } from 'node:util';

const ANSWER_MS = 10_000;

const SCRIPT = `
  const { default: { versions } } = await import(process.argv[1]);
  console.log(JSON.stringify({ sharp: versions.sharp, libvips: versions.vips }));
`;

/**
 * The versions of the library that decodes images, asked in a process of its own: the library never becomes part of this
 * one. @throws when it cannot be loaded
 */
export async function readLibraryVersions(): Promise<{ sharp: string; libvips: string }> {
  const args = ['--input-type=module', '--eval', SCRIPT, import.meta.resolve('sharp')];
  const { stdout } = await promisify(execFile)(process.execPath, args, { env: {}, timeout: ANSWER_MS });
  return JSON.parse(stdout);
}
