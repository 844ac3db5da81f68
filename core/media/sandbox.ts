import { spawnSync } from 'node:child_process';
import { realpathSync } from 'node:fs';
import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

/*
 * The restrictions of a parser process. Node's permission model lets JavaScript read only the program's own modules: no
 * other files, no processes, no threads. It does not restrict native code, so tools of util-linux restrict the whole
 * process: no network, no set-user-ID programs, no writing to files. If a tool is missing, or the machine does not allow
 * it (containers often refuse namespaces), the process runs without that restriction.
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

/** Commands that run another command with fewer rights. */
const WRAPPERS = [
  process.getuid?.() === 0
    ? ['unshare', '--net', '--']
    : ['unshare', '--user', '--map-current-user', '--net', '--'],
  ['setpriv', '--no-new-privs', '--'],
  ['prlimit', '--fsize=0', '--core=0', '--'],
];

let command: { execPath: string; execArgv: string[] } | undefined;

/** The program and the arguments that start Node in a sandbox, as far as this machine supports it. */
export function sandboxedNode(): { execPath: string; execArgv: string[] } {
  if (!command) {
    const [execPath = process.execPath, ...execArgv] = [...findWrappers(), process.execPath, ...nodeFlags()];
    command = { execPath, execArgv };
  }
  return command;
}

/** The wrappers that work here one inside the other; a machine may allow each of two tools alone and not both. */
function findWrappers(): string[] {
  let chain: string[] = [];
  for (const wrapper of WRAPPERS) {
    const longer = [...chain, ...wrapper];
    if (works(longer)) chain = longer;
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
    // So that a task can free the memory of the task before it, which counts against its limit.
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
