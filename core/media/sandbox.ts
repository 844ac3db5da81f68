import { spawnSync } from 'node:child_process';
import { realpathSync } from 'node:fs';
import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

/*
 * The restrictions of processes that decode files: parser processes, and outside programs. Node's permission model lets JavaScript read only the program's own modules: no
 * other files, no processes, no threads. It does not restrict native code, so tools of util-linux restrict the whole
 * process: no network, no set-user-ID programs, no writing to files (a program: only small ones). If a tool is missing, or
 * the machine does not allow it (containers often refuse namespaces), the process runs without that restriction.
 */

/** Reading tags needs no larger JavaScript heap. */
const HEAP_MIB = 256;

/** Time limit for testing whether a tool works here. */
const PROBE_MS = 2_000;

/**
 * Local times must not depend on the machine's time zone. glibc gives freed memory back at once, because memory that it
 * kept would count against the limit of the next image: twice as much after one of 90 megapixels.
 */
export const ENVIRONMENT = { TZ: 'UTC', MALLOC_TRIM_THRESHOLD_: '131072' };

const isRoot = process.getuid?.() === 0;

/**
 * A uid and a gid that nothing else on the machine has: the embedded PostgreSQL runs as `nobody` when root starts it.
 * Below 65,536, which is as far as many containers count.
 */
export const STRANGER = 65_533;

/* Commands that run another command with fewer rights. */
export const NO_NETWORK = isRoot
  ? ['unshare', '--net', '--']
  : ['unshare', '--user', '--map-current-user', '--net', '--'];
const NO_NEW_PRIVILEGES = ['setpriv', '--no-new-privs', '--'];

/** A parser process changes its user itself, after it has loaded its modules. */
const AS_STRANGER = ['setpriv', `--reuid=${STRANGER}`, `--regid=${STRANGER}`, '--clear-groups', '--'];

/** Only after the change of the user, which would end this setting. */
const DIES_WITH_PARENT = ['setpriv', '--pdeathsig=KILL', '--'];

let command: { execPath: string; execArgv: string[] } | undefined;

/** The program and the arguments that start Node in a sandbox, as far as this machine supports it. */
export function sandboxedNode(): { execPath: string; execArgv: string[] } {
  if (!command) {
    const wrappers = workingWrappers([
      NO_NETWORK,
      NO_NEW_PRIVILEGES,
      ['prlimit', '--fsize=0', '--core=0', '--'],
    ]).flat();
    const [execPath = process.execPath, ...execArgv] = [...wrappers, process.execPath, ...nodeFlags()];
    command = { execPath, execArgv };
  }
  return command;
}

/** Limits of one run of an outside program. */
export interface ProgramLimits {
  /** Bytes of address space; the program's libraries count. */
  memory: number;
  /** Seconds of processor time, of all its threads together. */
  cpuSeconds: number;
  /** Bytes of each file that it writes. */
  fileSize: number;
}

/** How outside programs run here. */
export interface ProgramSandbox {
  /** What the command line of a program begins with. */
  wrappers: string[];
  /** The user who owns what a program works on; undefined: it runs as this process's own user. */
  owner: number | undefined;
}

/**
 * Finds out how outside programs can be restricted on this machine. It takes some processes: call it once. A program that
 * is started in this way is one process, which also ends when this process ends.
 */
export function openProgramSandbox({ memory, cpuSeconds, fileSize }: ProgramLimits): ProgramSandbox {
  const limits = [`--as=${memory}`, `--cpu=${cpuSeconds}`, `--fsize=${fileSize}`, '--core=0'];
  const wrappers = workingWrappers([
    NO_NETWORK,
    ...(isRoot ? [AS_STRANGER] : []),
    NO_NEW_PRIVILEGES,
    DIES_WITH_PARENT,
    ['prlimit', ...limits, '--'],
  ]).flat();
  return { wrappers, owner: wrappers.includes('--clear-groups') ? STRANGER : undefined };
}

/**
 * Those of the given wrappers that work here one inside the other; a machine may allow each of two tools alone and not both.
 * Blocks while it tries them.
 */
export function workingWrappers(wrappers: readonly string[][]): string[][] {
  const chain: string[][] = [];
  for (const wrapper of wrappers) {
    if (works([...chain, wrapper].flat())) chain.push(wrapper);
  }
  return chain;
}

function works([tool = '', ...args]: string[]): boolean {
  const options = { env: ENVIRONMENT, stdio: 'ignore', timeout: PROBE_MS } as const;
  return spawnSync(tool, [...args, 'true'], options).status === 0;
}

function nodeFlags(): string[] {
  const isStable = process.allowedNodeEnvironmentFlags.has('--permission');
  // From dist/core/media/.
  const folders = ['../../', '../../../node_modules/'].flatMap(realPaths).map((path) => `${path}/*`);
  return [
    isStable ? '--permission' : '--experimental-permission',
    '--allow-addons',
    ...[...folders, ...realPaths('../../../package.json')].map((path) => `--allow-fs-read=${path}`),
    `--max-old-space-size=${HEAP_MIB}`,
    // Tasks that use WebAssembly give its memory back at once: it counts against the limit of the next task.
    '--expose-gc',
  ];
}

/** The path itself and, if it is or goes through a symbolic link, the path that it leads to: Node checks either. */
function realPaths(relative: string): string[] {
  const path = resolve(fileURLToPath(new URL(relative, import.meta.url)));
  try {
    return [...new Set([path, realpathSync(path)])];
  } catch {
    return [path];
  }
}
