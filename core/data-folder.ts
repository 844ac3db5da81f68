import { randomBytes } from 'node:crypto';
import { access, constants, mkdir, open, readFile, rename } from 'node:fs/promises';
import { dirname } from 'node:path';
import { ConfigError } from './config-error.js';
import { hasCode } from './errors.js';

/**
 * Creates the data folder if needed and checks that it can be written.
 * @throws {ConfigError} naming DATA_DIR
 */
export async function ensureDataFolder(dataDir: string): Promise<void> {
  try {
    // Private to its user. Root's folder may be passed through but not listed: PostgreSQL refuses to run as root, so
    // another user has to reach its cluster.
    await mkdir(dataDir, { recursive: true, mode: process.getuid?.() === 0 ? 0o711 : 0o700 });
    await access(dataDir, constants.R_OK | constants.W_OK | constants.X_OK);
  } catch (error) {
    const reason =
      hasCode(error, 'EEXIST') || hasCode(error, 'ENOTDIR') ? 'is not a folder' : 'cannot be written';
    const code = error instanceof Error && 'code' in error ? ` (${error.code})` : '';
    throw new ConfigError(`DATA_DIR=${dataDir}: ${reason}${code}`, { cause: error });
  }
}

/** The random text (43 characters) of this file. Creates the file, readable only for its owner, when it is missing. */
export async function keepSecret(file: string): Promise<string> {
  const kept = await readOptional(file);
  if (kept) return kept.trim();
  const secret = randomBytes(32).toString('base64url');
  await writeDurably(file, `${secret}\n`);
  return secret;
}

/** The file's text; undefined when there is no such file. @throws {ConfigError} naming DATA_DIR: not allowed */
export async function readOptional(file: string): Promise<string | undefined> {
  return readFile(file, 'utf8').catch((error: unknown) => {
    if (hasCode(error, 'ENOENT')) return undefined;
    if (!hasCode(error, 'EACCES')) throw error;
    throw new ConfigError(`DATA_DIR: this user may not read ${file}: start as its owner`, { cause: error });
  });
}

/** Writes a file (mode 0600). After a crash or a power cut it has either its old text or the new one, never a part. */
export async function writeDurably(file: string, text: string): Promise<void> {
  const next = `${file}.${randomBytes(4).toString('hex')}.new`;
  const handle = await open(next, 'wx', 0o600);
  try {
    await handle.writeFile(text);
    await handle.sync();
  } finally {
    await handle.close();
  }
  await rename(next, file);
  await syncFolder(dirname(file));
}

/** Makes files that were created in this folder, or renamed into it, survive a power cut. */
export async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
