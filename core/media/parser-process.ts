import { read } from 'node:fs';
import { promisify } from 'node:util';
import { AppError } from '../errors.js';
import {
  BYTES_FD,
  type ParserAnswer,
  type ParserLimits,
  type ParserTask,
  TOO_MUCH_MEMORY,
} from './parser-protocol.js';
import { TASKS } from './tasks.js';

/*
 * A process that decodes what strangers have sent, so that nothing it does can hurt the process that asks. It gets
 * bytes and limits, and knows neither addresses nor secrets. It is killed when it takes too long, it ends itself when
 * it takes too much memory, and a crash is only its own. sandbox.ts says what it may not do.
 */

const MEMORY_CHECK_MS = 50;

/**
 * A uid and a gid that nothing else on the machine has: the embedded PostgreSQL runs as `nobody` when root starts it.
 * Below 65,536, which is as far as many containers count.
 */
const STRANGER = 65_533;

const limits = JSON.parse(process.argv[2] ?? '{}') as ParserLimits;

const readSome = promisify(read);

/** Root gives up its rights here and not at the start, because another user may be unable to reach the modules. */
function dropRoot(): void {
  if (process.getuid?.() !== 0) return;
  try {
    process.setgroups?.([]);
    process.setgid?.(STRANGER);
    process.setuid?.(STRANGER);
  } catch {
    // A container may have taken the right to change users from root; then much else is taken from it, too.
  }
}

async function receive(size: number): Promise<Buffer> {
  const bytes = Buffer.allocUnsafeSlow(size);
  for (let filled = 0; filled < size; ) {
    const { bytesRead } = await readSome(BYTES_FD, bytes, filled, size - filled, null);
    if (bytesRead === 0) throw new Error('The pipe has ended');
    filled += bytesRead;
  }
  return bytes;
}

async function run({ name, size, sent }: ParserTask): Promise<ParserAnswer> {
  const bytes = await receive(sent);
  try {
    return { ok: true, result: await TASKS[name]({ bytes, size, limits }) };
  } catch (error) {
    if (error instanceof AppError) return { ok: false, code: error.code, detail: error.message };
    return { ok: false, code: 'unreadable', detail: 'The content cannot be read' };
  }
}

/** By a signal, because process.exit() waits for the native code that is at work. */
const end = (signal: NodeJS.Signals) => process.kill(process.pid, signal);

dropRoot();

process.on('message', (task: ParserTask) => {
  run(task).then(
    (answer) => process.send?.(answer),
    () => end('SIGKILL'),
  );
});

// The process that asks decides when this ends; Ctrl-C in a terminal goes to every process of the group.
process.on('SIGINT', () => {});
process.on('SIGTERM', () => {});
process.on('disconnect', () => end('SIGKILL'));

setInterval(() => {
  // A worker that died while this was starting has left before anyone listened.
  if (!process.connected) end('SIGKILL');
  if (process.memoryUsage.rss() > limits.memory) end(TOO_MUCH_MEMORY);
}, MEMORY_CHECK_MS);

// Up: see parsers.ts.
process.send?.('up');
