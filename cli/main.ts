import { Command, CommanderError, InvalidArgumentError } from 'commander';
import { openApi } from './api.js';
import type { Context } from './context.js';
import { chooseServer, openCredentials, readServer } from './credentials.js';
import { EXIT, Failure, toFailure } from './failure.js';
import { VERSION } from './http.js';
import { type Output, type OutputOptions, openOutput } from './output.js';

/* The command `landfall`: reads its arguments, runs one command, and ends with a code of EXIT. */

const DEFAULT_LIMIT = 20;
const DEFAULT_PARALLEL = 4;
const MAX_PARALLEL = 32;
const DEFAULT_RETRY_SECONDS = 120;

const ended = new AbortController();

/** The output of the command that runs. */
let output: Output = openOutput({});

const program = new Command('landfall')
  .description('Uploads files to a Landfall server, and gets them from there.')
  .version(VERSION)
  .exitOverride()
  .showHelpAfterError('Run with --help for the usage.')
  .addHelpText(
    'after',
    '\nThe server is LANDFALL_URL, the account LANDFALL_API_KEY or that of "landfall login".',
  );

/** Options that every command has. */
function command(usage: string, summary: string): Command {
  return program
    .command(usage)
    .description(summary)
    .option('--json', 'write one line of JSON for each result')
    .option('-q, --quiet', 'write ids only, no progress and no remarks');
}

/** Runs an action that needs the server and an account. */
async function withApi<T>(options: OutputOptions, act: (context: Context) => Promise<T>): Promise<T> {
  output = openOutput(options);
  const { signal } = ended;
  const server = await chooseServer();
  return act({ api: openApi(server, await openCredentials(server), signal), output, signal });
}

command('login [url]', 'sign in, and keep the session on this machine')
  .option('-e, --email <address>', 'the account; otherwise it is asked for')
  .action(async (url: string | undefined, options: OutputOptions & { email?: string }) => {
    output = openOutput(options);
    const { logIn } = await import('./login.js');
    await logIn(output, url ? readServer(url) : await chooseServer(), options.email);
  });

command('logout [url]', 'end the session that login has kept').action(
  async (url: string | undefined, options: OutputOptions) => {
    output = openOutput(options);
    const { logOut } = await import('./login.js');
    await logOut(output, url ? readServer(url) : await chooseServer());
  },
);

interface UploadFlags extends OutputOptions {
  parallel: number;
  wait?: boolean;
  checksum: boolean;
  chunkSize?: number;
  retry: number;
}

command('upload <path...>', 'upload files, and all files in folders; the same command again continues')
  .option('-p, --parallel <number>', 'files at a time', wholeUpTo(MAX_PARALLEL), DEFAULT_PARALLEL)
  .option('-w, --wait', 'wait until the files are processed')
  .option('--no-checksum', 'do not tell the server the SHA-256')
  .option(
    '--chunk-size <size>',
    'bytes of one request at most, such as 64MiB, for proxies that limit bodies',
    readSize,
  )
  .option('--retry <seconds>', 'how long to try again without any progress', whole, DEFAULT_RETRY_SECONDS)
  .action((paths: string[], { wait = false, retry: retrySeconds, ...options }: UploadFlags) =>
    withApi(options, async (context) => {
      const { uploadFiles } = await import('./upload.js');
      process.exitCode = await uploadFiles(context, paths, { ...options, wait, retrySeconds });
    }),
  );

command('ls', 'list files, newest first')
  .option('-n, --limit <number>', 'how many', whole, DEFAULT_LIMIT)
  .option('-a, --all', 'all of them')
  .action(({ limit, all, ...options }: OutputOptions & { limit: number; all?: boolean }) =>
    withApi(options, async (context) => {
      const { listFiles } = await import('./list.js');
      const plain = options.json === true || options.quiet === true;
      await listFiles(context, all ? Number.POSITIVE_INFINITY : limit, plain);
    }),
  );

interface GetFlags extends OutputOptions {
  output?: string;
  force?: boolean;
  retry: number;
}

command('get <id>', 'download a file; the same command again continues')
  .option('-o, --output <path>', 'the file to write, or a folder')
  .option('-f, --force', 'replace a file that exists')
  .option('--retry <seconds>', 'how long to try again without any progress', whole, DEFAULT_RETRY_SECONDS)
  .action((id: string, { force = false, retry: retrySeconds, ...options }: GetFlags) =>
    withApi(options, async (context) => {
      const { getFile } = await import('./download.js');
      await getFile(context, id, { output: options.output, force, retrySeconds });
    }),
  );

command('rm <id...>', 'put files into the trash')
  .option('--permanent', 'delete them for good')
  .action((ids: string[], { permanent = false, ...options }: OutputOptions & { permanent?: boolean }) =>
    withApi(options, async (context) => {
      const { removeFiles } = await import('./remove.js');
      process.exitCode = await removeFiles(context, ids, permanent);
    }),
  );

command('status <id...>', 'show how far the processing of files is').action(
  (ids: string[], options: OutputOptions) =>
    withApi(options, async (context) => {
      const { showStatuses } = await import('./watch.js');
      process.exitCode = await showStatuses(context, ids);
    }),
);

command('watch <id...>', 'show each change until files are processed').action(
  (ids: string[], options: OutputOptions) =>
    withApi(options, async (context) => {
      const { watchFiles } = await import('./watch.js');
      process.exitCode = await watchFiles(context, ids);
    }),
);

/** Reads a number of at least 1. */
function whole(value: string): number {
  if (!/^[1-9]\d{0,8}$/.test(value)) throw new InvalidArgumentError('It must be a whole number from 1 on.');
  return Number(value);
}

function wholeUpTo(most: number): (value: string) => number {
  return (value) => {
    if (whole(value) > most) throw new InvalidArgumentError(`It must be at most ${most}.`);
    return whole(value);
  };
}

const UNITS = { '': 1, K: 2 ** 10, M: 2 ** 20, G: 2 ** 30 };

/** Reads a size such as `67108864`, `64M` or `64MiB`. */
function readSize(value: string): number {
  const [, digits, unit = ''] = /^([1-9]\d{0,8})\s*([KMG]?)(?:iB|B)?$/i.exec(value) ?? [];
  if (!digits) throw new InvalidArgumentError('It must be a size such as 64MiB.');
  return Number(digits) * UNITS[unit.toUpperCase() as keyof typeof UNITS];
}

/** Ends the command in order. A second signal ends the process at once. */
function endOn(name: 'SIGINT' | 'SIGTERM' | 'SIGHUP', failure: Failure): void {
  process.once(name, () => {
    process.once(name, () => process.exit(failure.exitCode));
    ended.abort(failure);
  });
}

endOn('SIGINT', new Failure(EXIT.interrupted, 'Interrupted; the same command continues'));
endOn('SIGTERM', new Failure(EXIT.terminated, 'Ended by a signal; the same command continues'));
endOn('SIGHUP', new Failure(EXIT.terminated, 'Ended by a signal; the same command continues'));

// The reader of a pipe may go away, as `head` does.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit();
});

try {
  await program.parseAsync();
} catch (error) {
  if (error instanceof CommanderError) {
    process.exitCode = error.exitCode === 0 ? 0 : EXIT.usage;
  } else {
    const failure = ended.signal.aborted ? ended.signal.reason : toFailure(error);
    output.error(failure);
    process.exitCode = failure.exitCode;
  }
} finally {
  output.close();
}
