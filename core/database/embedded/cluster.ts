import { execFile } from 'node:child_process';
import { chmod, chown, mkdir, mkdtemp, readdir, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { ConfigError } from '../../config-error.js';
import { keepSecret, readOptional, syncFolder, writeDurably } from '../../data-folder.js';
import { canTraverse, findPostgresBinaries, type User } from './binaries.js';

/** The folder for clusters that cannot be in the data folder. */
const ELSEWHERE = '/var/lib/landfall';

/** A fixed environment: a PGPORT or a locale of the caller must not affect PostgreSQL. */
export const POSTGRES_ENV = { LC_ALL: 'C', TZ: 'UTC' };

export interface Cluster {
  /** PostgreSQL's data directory. */
  folder: string;
  /** The folder around it, which also has PostgreSQL's log. */
  home: string;
  /** Folder with PostgreSQL's programs. */
  bin: string;
  /** The user that runs PostgreSQL; undefined: this process' own user. */
  user: User | undefined;
  /** Password of the superuser `landfall`. */
  password: string;
}

/**
 * The cluster of this data folder (a real path), created when there is none.
 * @throws {ConfigError} naming DATA_DIR where the cluster cannot be reached
 */
export async function openCluster(dataDir: string): Promise<Cluster> {
  const { home, user, exists } = await findHome(dataDir);
  const passwordFile = join(dataDir, 'postgres-password');
  if (exists && !(await readOptional(passwordFile))) {
    throw new ConfigError(
      `DATA_DIR=${dataDir}: the file postgres-password is missing: put it back from a backup`,
    );
  }
  const cluster = {
    folder: join(home, 'postgres'),
    home,
    bin: join(await findPostgresBinaries(home, user), 'bin'),
    user,
    password: await keepSecret(passwordFile),
  };
  if (!exists) await createCluster(cluster);
  return cluster;
}

async function findHome(dataDir: string): Promise<{ home: string; user: User | undefined; exists: boolean }> {
  const remembered = (await readOptional(join(dataDir, 'postgres-location')))?.trim();
  if (remembered && !(await findOwner(remembered))) {
    // With a new, empty database all files would seem to be lost.
    throw new ConfigError(
      `DATA_DIR=${dataDir}: its database was in ${remembered}, which is gone: put it back`,
    );
  }
  const home = remembered ?? dataDir;
  const owner = await findOwner(join(home, 'postgres'));
  const user = await chooseUser(owner);
  const self = process.getuid?.();
  if (!user && owner && self !== undefined && owner.uid !== self) {
    throw new ConfigError(`DATA_DIR=${dataDir}: its database belongs to another user (uid ${owner.uid})`);
  }
  if (await canTraverse(home, user)) return { home, user, exists: owner !== undefined };
  if (owner || remembered) {
    throw new ConfigError(
      `DATA_DIR=${dataDir}: uid ${user?.uid} cannot reach its database in ${home}: chmod o+x`,
    );
  }
  return { home: await createHomeElsewhere(dataDir), user, exists: false };
}

async function findOwner(path: string): Promise<User | undefined> {
  return stat(path).catch(() => undefined);
}

/** As root: the owner of the cluster, or `nobody` if there is no cluster yet. PostgreSQL refuses to run as root. */
async function chooseUser(owner: User | undefined): Promise<User | undefined> {
  if (process.getuid?.() !== 0) return undefined;
  if (owner && owner.uid !== 0) return { uid: owner.uid, gid: owner.gid };
  const passwd = (await readOptional('/etc/passwd')) ?? '';
  const [, uid, gid] = /^nobody:[^:]*:(\d+):(\d+):/m.exec(passwd) ?? [];
  return { uid: Number(uid ?? 65_534), gid: Number(gid ?? 65_534) };
}

async function createHomeElsewhere(dataDir: string): Promise<string> {
  try {
    await mkdir(ELSEWHERE, { recursive: true, mode: 0o755 });
    const home = await mkdtemp(join(ELSEWHERE, 'postgres-'));
    await chmod(home, 0o711);
    await writeDurably(join(dataDir, 'postgres-location'), `${home}\n`);
    return home;
  } catch (cause) {
    const reason =
      'cannot hold the database, because PostgreSQL cannot run as root and others cannot reach it';
    throw new ConfigError(`DATA_DIR=${dataDir}: ${reason}; nor can ${ELSEWHERE}`, { cause });
  }
}

/** Creates the cluster aside and renames it, so that an interrupted initdb leaves nothing that looks like a cluster. */
async function createCluster(cluster: Cluster): Promise<void> {
  const { folder, home } = cluster;
  for (const name of await readdir(home)) {
    if (name.startsWith('postgres-new-')) await rm(join(home, name), { recursive: true, maxRetries: 10 });
  }
  const unfinished = await mkdtemp(join(home, 'postgres-new-'));
  try {
    await rename(await initialize(cluster, unfinished), folder);
    await syncFolder(home);
  } finally {
    await rm(unfinished, { recursive: true });
  }
}

/** Runs initdb. Answers the new data directory, which lies in `unfinished`. */
async function initialize({ home, bin, user, password }: Cluster, unfinished: string): Promise<string> {
  const passwordFile = join(unfinished, 'password');
  await writeFile(passwordFile, password, { mode: 0o600 });
  if (user) await chown(passwordFile, user.uid, user.gid);
  if (user) await chown(unfinished, user.uid, user.gid);
  const data = join(unfinished, 'data');
  // PostgreSQL's own C.UTF-8 covers all of Unicode and is the same on every machine.
  const text = ['--encoding=UTF8', '--locale=C', '--locale-provider=builtin', '--builtin-locale=C.UTF-8'];
  const access = ['--auth=scram-sha-256', '--username=landfall', `--pwfile=${passwordFile}`];
  const options = { ...user, cwd: home, env: POSTGRES_ENV };
  try {
    await promisify(execFile)(
      join(bin, 'initdb'),
      ['-D', data, '--no-instructions', ...text, ...access],
      options,
    );
  } catch (error) {
    const output = error instanceof Error && 'stderr' in error ? String(error.stderr).trim() : '';
    const reason = output.split('\n').at(-1) || (error instanceof Error ? error.message : error);
    throw new Error(`PostgreSQL could not create its database: ${reason}`, { cause: error });
  }
  return data;
}
