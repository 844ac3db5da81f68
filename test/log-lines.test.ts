import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readdir, readFile, rename, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { ConfigError } from '../core/config-error.js';
import { openLogFile } from '../core/log-files.js';

/* How lines leave a process: at its end, by signals and exceptions, into files that rotate, and onto a full disk. */

let dir: string;

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'landfall-logs-'));
});
afterEach(() => rm(dir, { recursive: true, force: true }));

const LOG = pathToFileURL(resolve('dist/core/log.js')).href;

/** Runs a script that has a logger `log`. @returns the messages that it has logged to stdout */
async function run(script: string): Promise<string[]> {
  const start = `import { createLogger } from '${LOG}'; const log = createLogger('info', 'test');`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', `${start}${script}`], {
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  let output = '';
  child.stdout.on('data', (chunk) => {
    output += chunk;
  });
  await once(child, 'close');
  return linesOf(output).map(({ msg }) => msg);
}

/** The lines of a log. Each must be whole. */
function linesOf(text: string): { msg: string; level: number }[] {
  expect(text === '' || text.endsWith('\n')).toBe(true);
  return text
    .split('\n')
    .slice(0, -1)
    .map((line) => JSON.parse(line));
}

const NUMBERS = Array.from({ length: 5000 }, (_, n) => `${n}`);

test.each([
  ['that ends by itself', ''],
  ['that exits', 'process.exit(1);'],
  ['with an exception that nothing catches', "throw new Error('for the test');"],
])('a process %s loses no line', async (_what, end) => {
  expect(await run(`for (let n = 0; n < 5000; n++) log.info(String(n)); ${end}`)).toEqual(NUMBERS);
});

test('a process that is killed has written every warning, and what came before it', async () => {
  const end = "process.kill(process.pid, 'SIGKILL');";
  const said = await run(`log.info('before'); log.warn('a warning'); log.info('after'); ${end}`);
  expect(said.slice(0, 2)).toEqual(['before', 'a warning']);
});

test('a reader that has gone does not end the process', async () => {
  const end = `import { closeSync } from 'node:fs'; closeSync(1); log.error('unheard'); process.exit(0);`;
  expect(await run(end)).toEqual([]);
});

const line = (n: number, size = 1000) => `${JSON.stringify({ n, text: 'x'.repeat(size) })}\n`;

/** All files; the current one comes last. */
async function readAll(): Promise<{ names: string[]; numbers: number[] }> {
  const names = (await readdir(dir)).sort();
  const texts = await Promise.all(names.map((name) => readFile(join(dir, name), 'utf8')));
  const numbers = texts.flatMap((text) => (linesOf(text) as unknown as { n: number }[]).map(({ n }) => n));
  return { names, numbers };
}

const unexpected = (lines: string) => {
  throw new Error(`not written: ${lines}`);
};

test('files rotate by size, lose no line on the way, and the oldest go', async () => {
  const write = openLogFile({ dir, maxBytes: 100 * 1024, count: 3 }, 'a', unexpected);
  // Files of others in the folder stay.
  const other = openLogFile({ dir, maxBytes: 100 * 1024, count: 3 }, 'a.b', unexpected);
  other(line(0));
  for (let n = 0; n < 1000; n++) write(line(n));
  const own = (await readdir(dir)).filter((name) => name !== 'a.b.log');
  expect(own).toHaveLength(3);
  await rm(join(dir, 'a.b.log'));
  const { names, numbers } = await readAll();
  expect(names.at(-1)).toBe('a.log');
  expect(numbers.length).toBeGreaterThan(180);
  expect(numbers).toEqual(Array.from({ length: numbers.length }, (_, i) => 1000 - numbers.length + i));
});

test('two processes write one file: each rotation loses no line', async () => {
  const files = { dir, maxBytes: 100 * 1024, count: 1000 };
  const writers = [openLogFile(files, 'a', unexpected), openLogFile(files, 'a', unexpected)];
  for (let n = 0; n < 600; n++) writers[n % 2]?.(line(n));
  const { numbers } = await readAll();
  expect(numbers).toEqual(Array.from({ length: 600 }, (_, n) => n));
});

test('the log goes on in a new file when another program has moved or deleted the old one', async () => {
  const write = openLogFile({ dir, maxBytes: 2 ** 20, count: 2 }, 'a', unexpected);
  write(line(0));
  await rename(join(dir, 'a.log'), join(dir, 'a.moved'));
  write(line(1));
  expect(linesOf(await readFile(join(dir, 'a.log'), 'utf8'))).toMatchObject([{ n: 1 }]);
  await rm(join(dir, 'a.log'));
  write(line(2));
  expect(linesOf(await readFile(join(dir, 'a.log'), 'utf8'))).toMatchObject([{ n: 2 }]);
});

test('on a full disk the lines go elsewhere, and come back when there is room', async () => {
  const elsewhere: string[] = [];
  // Each write to this device fails like one to a full disk.
  await symlink('/dev/full', join(dir, 'a.log'));
  const write = openLogFile({ dir, maxBytes: 2 ** 20, count: 2 }, 'a', (lines) => elsewhere.push(lines));
  write(line(0));
  write(line(1));
  expect(elsewhere).toEqual([expect.stringContaining('ENOSPC'), line(0), line(1)]);
  await rm(join(dir, 'a.log'));
  write(line(2));
  expect(elsewhere).toHaveLength(3);
  expect(await readFile(join(dir, 'a.log'), 'utf8')).toBe(line(2));
});

test('a folder in which nothing can be written is refused at the start', () => {
  const open = () => openLogFile({ dir: '/dev/null/logs', maxBytes: 2 ** 20, count: 2 }, 'a', unexpected);
  expect(open).toThrow(ConfigError);
  expect(open).toThrow(/^LOG_DIR=\/dev\/null\/logs: /);
});
