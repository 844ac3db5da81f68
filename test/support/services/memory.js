// Finds a folder in memory for PostgreSQL, each of whose databases is 500 files, which some file systems create slowly.
import { readFile, statfs } from 'node:fs/promises';
import { tmpdir } from 'node:os';

const MEMORY = '/dev/shm';

/** Far more than the databases of the suites that run at a time, and the write-ahead log. */
const ROOM_BYTES = 2 * 1024 ** 3;

/** @returns {Promise<string>} where to make folders: in memory, or in tmpdir() where memory has no room for them */
export async function fastFolder() {
  const mounts = await readFile('/proc/mounts', 'utf8').catch(() => '');
  const [, options = 'noexec'] = new RegExp(`^\\S+ ${MEMORY} tmpfs (\\S+)`, 'm').exec(mounts) ?? [];
  // PostgreSQL's programs lie beside its data where the project's folder is private.
  if (options.split(',').includes('noexec')) return tmpdir();
  const { bavail, bsize } = await statfs(MEMORY);
  return bavail * bsize >= ROOM_BYTES ? MEMORY : tmpdir();
}
