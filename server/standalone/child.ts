import { type ChildProcess, fork } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { BEAT_MS } from '../../core/lifecycle.js';
import type { Logger } from '../../core/log.js';

const FIRST_DELAY_MS = 100;
const LONGEST_DELAY_MS = 10_000;
/** A child that ran this long had no trouble starting, so the delays begin again. */
const STEADY_MS = 60_000;
/** A child that sent nothing during this many beats hangs. */
const SILENT_BEATS = 20;

export interface Child {
  /** The URL that the child serves, if any. Rejects if the child ends before it is ready. */
  ready: Promise<string | undefined>;
  /** Sends SIGTERM, and SIGKILL after `graceMs`. Resolves when the process has ended. */
  stop(graceMs: number): Promise<void>;
  /** Passes a signal on, if the process is ready for it. */
  signal(name: NodeJS.Signals): void;
}

export interface ChildOptions {
  name: string;
  script: URL;
  /** Options of Node. */
  options?: string[];
  /** Read at each start. */
  env: NodeJS.ProcessEnv;
  log: Logger;
}

/**
 * Runs a script in a child process. The child sends `{ type: 'ready', url? }` when it is ready, and any
 * message each second from then on. A child that falls silent is killed. Once it was ready, it is restarted
 * whenever it ends, after a delay that doubles each time.
 */
export function keepRunning({ name, script, options = [], env, log }: ChildOptions): Child {
  const stopping = new AbortController();
  let child: ChildProcess | undefined;
  let wasReady = false;
  /** Whether the present child is ready. */
  let isUp = false;

  const run = async (onReady: (url: string | undefined) => void, onFailed: (error: Error) => void) => {
    let delay = FIRST_DELAY_MS;
    while (!stopping.signal.aborted) {
      const started = Date.now();
      // In its own session: Ctrl-C in a terminal reaches the supervisor only, which stops all in order.
      child = fork(script, { env, detached: true, execArgv: [...process.execArgv, ...options] });
      child.on('message', (message) => {
        if (!isReady(message)) return;
        wasReady = true;
        isUp = true;
        onReady(message.url);
      });
      const stopWatching = killWhenSilent(child, () => log.error(`the ${name} hangs and is killed`));
      const how = await ended(child);
      stopWatching();
      isUp = false;
      if (!wasReady) return onFailed(new Error(`the ${name} did not start (${how})`));
      if (stopping.signal.aborted) return;
      if (Date.now() - started > STEADY_MS) delay = FIRST_DELAY_MS;
      log.error(`the ${name} ended unexpectedly (${how}) and is started again in ${delay} ms`);
      await sleep(delay, undefined, { signal: stopping.signal }).catch(() => undefined);
      delay = Math.min(delay * 2, LONGEST_DELAY_MS);
    }
  };
  let finished = Promise.resolve();
  const ready = new Promise<string | undefined>((resolve, reject) => {
    finished = run(resolve, reject);
  });

  const stop = async (graceMs: number) => {
    stopping.abort();
    child?.kill('SIGTERM');
    const timer = setTimeout(() => child?.kill('SIGKILL'), graceMs);
    await finished;
    clearTimeout(timer);
  };
  const signal = (name: NodeJS.Signals) => {
    if (isUp) child?.kill(name);
  };
  return { ready, stop, signal };
}

/** @returns a function that ends the watch */
function killWhenSilent(child: ChildProcess, onSilent: () => void): () => void {
  let watch: NodeJS.Timeout | undefined;
  let silence = 0;
  child.on('message', () => {
    silence = 0;
    // Count beats, not time: this process itself may have been stopped while messages were waiting.
    watch ??= setInterval(() => {
      if (++silence !== SILENT_BEATS) return;
      onSilent();
      child.kill('SIGKILL');
    }, BEAT_MS);
  });
  return () => clearInterval(watch);
}

function isReady(message: unknown): message is { type: 'ready'; url?: string } {
  return typeof message === 'object' && message !== null && 'type' in message && message.type === 'ready';
}

/** Tells how the child ended: its exit code, its signal, or why it could not start. */
function ended(child: ChildProcess): Promise<string> {
  return new Promise((resolve) => {
    child.once('exit', (code, signal) => resolve(signal ?? `code ${code}`));
    child.once('error', (error) => resolve(error.message));
  });
}
