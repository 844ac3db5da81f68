import { pathToFileURL } from 'node:url';
import type { ModuleMessage, ModuleTask } from './module-protocol.js';

/*
 * The process of one run of a module of STEPS_DIR. It has the rights of the worker and an environment without secrets. A crash, a
 * hang or too much memory ends this process only.
 */

const [, , path = ''] = process.argv;

const over = new AbortController();

const send = (message: ModuleMessage) =>
  new Promise<void>((resolve) => {
    if (process.send) process.send(message, () => resolve());
    else resolve();
  });

async function handle(task: ModuleTask): Promise<ModuleMessage> {
  const { default: step } = await import(pathToFileURL(path).href);
  if (typeof step?.run !== 'function')
    throw new Error('the module must export a step by default, with a function `run`');
  if (task.do === 'describe') {
    const { run: _, ...described } = step;
    return { described };
  }
  const { file, input, output, temporary } = task;
  const tools = {
    input,
    output,
    temporary,
    signal: over.signal,
    progress: (share: number) => void send({ progress: Number(share) }),
    log: (text: string) => void send({ log: String(text) }),
  };
  return { result: (await step.run(file, tools)) ?? {} };
}

function toMessage(error: unknown): ModuleMessage {
  const { message, retryable } = (error ?? {}) as { message?: unknown; retryable?: unknown };
  return { error: typeof message === 'string' ? message : String(error), retry: retryable === true };
}

// The worker kills this process if it does not end soon after this signal.
process.on('SIGTERM', () => over.abort());
process.on('disconnect', () => process.kill(process.pid, 'SIGKILL'));

process.once('message', (task: ModuleTask) => {
  handle(task)
    // A result that is no JSON fails here.
    .then((message) => JSON.parse(JSON.stringify(message)) as ModuleMessage)
    .catch(toMessage)
    .then(send)
    .finally(() => process.exit(0));
});
