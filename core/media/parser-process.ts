import { read } from 'node:fs';
import { promisify } from 'node:util';
import { AppError } from '../errors.js';
import {
  BYTES_FD,
  FORGET,
  type ParserAnswer,
  type ParserContent,
  type ParserTask,
  TOO_MUCH_MEMORY,
} from './parser-protocol.js';
import { STRANGER } from './sandbox.js';
import type { ParserLimits, TaskInput } from './task-input.js';
import { TASKS } from './tasks.js';

/*
 * A process that decodes files, so that a malicious file cannot harm the server or worker. It gets bytes and limits, but
 * neither addresses nor secrets. It is killed when it takes too long, it ends itself when it takes too much memory, and
 * a crash affects no other process. sandbox.ts has its restrictions.
 */

const MEMORY_CHECK_MS = 50;

const limits = JSON.parse(process.argv[2] ?? '{}') as ParserLimits;

const readSome = promisify(read);

/** Drops root's rights here, after the modules were loaded, because another user may be unable to read them. */
function dropRoot(): void {
  if (process.getuid?.() !== 0) return;
  try {
    process.setgroups?.([]);
    process.setgid?.(STRANGER);
    process.setuid?.(STRANGER);
  } catch {
    // A container may not let root change users. Such a root has few other rights too.
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

/** The content of the present task, and of those that follow on it. */
let held: { size: number; bytes: Buffer } | undefined;

async function hold({ size, sent }: ParserContent): Promise<void> {
  // Let go of the content before, or both would count against the limit.
  held = undefined;
  held = { size, bytes: await receive(sent) };
}

async function run({ name, options, content }: ParserTask): Promise<ParserAnswer> {
  if (content) await hold(content);
  if (!held) throw new Error('There is no content');
  try {
    const task = TASKS[name] as (input: TaskInput, options: unknown) => unknown;
    return { ok: true, result: await task({ ...held, limits }, options) };
  } catch (error) {
    if (error instanceof AppError) return { ok: false, code: error.code, detail: error.message };
    return { ok: false, code: 'unreadable', detail: 'The content cannot be read' };
  }
}

/** Ends the process by a signal, because process.exit() waits for running native code. */
const end = (signal: NodeJS.Signals) => process.kill(process.pid, signal);

dropRoot();

process.on('message', (message: ParserTask | typeof FORGET) => {
  if (message === FORGET) {
    held = undefined;
    return;
  }
  run(message).then(
    (answer) => process.send?.(answer),
    () => end('SIGKILL'),
  );
});

// The parent decides when this process ends. Ctrl-C in a terminal reaches every process of the group, so ignore it.
process.on('SIGINT', () => {});
process.on('SIGTERM', () => {});
process.on('disconnect', () => end('SIGKILL'));

setInterval(() => {
  // If the parent died while this process was starting, its disconnect was not noticed.
  if (!process.connected) end('SIGKILL');
  if (process.memoryUsage.rss() > limits.memory) end(TOO_MUCH_MEMORY);
}, MEMORY_CHECK_MS);

// parsers.ts gives this process no task before this message.
process.send?.('up');
