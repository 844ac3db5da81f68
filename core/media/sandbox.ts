import { spawnSync } from 'node:child_process';
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
    const [execPath = process.execPath, ...execArgv] = [
      ...WRAPPERS.filter(works).flat(),
      process.execPath,
      ...nodeFlags(),
    ];
    command = { execPath, execArgv };
  }
  return command;
}

function works([tool = '', ...args]: string[]): boolean {
  const options = { env: ENVIRONMENT, stdio: 'ignore', timeout: PROBE_MS } as const;
  return spawnSync(tool, [...args, 'true'], options).status === 0;
}

function nodeFlags(): string[] {
  const isStable = process.allowedNodeEnvironmentFlags.has('--permission');
  // From dist/core/media/.
  const readable = ['../../', '../../../node_modules/', '../../../package.json'].map((path) =>
    fileURLToPath(new URL(path, import.meta.url)),
  );
  return [
    isStable ? '--permission' : '--experimental-permission',
    '--allow-addons',
    ...readable.map((path) => `--allow-fs-read=${path.endsWith('/') ? `${path}*` : path}`),
    `--max-old-space-size=${HEAP_MIB}`,
  ];
}
