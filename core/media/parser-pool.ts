import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { Logger } from '../log.js';
import { BYTES_FD } from './parser-protocol.js';
import { ENVIRONMENT, sandboxedNode } from './sandbox.js';
import { type ParserLimits, wasmBytes } from './task-input.js';

/** Parser processes, up to a fixed number. A process that ends is replaced. */
export interface ParserPool {
  /**
   * Waits for a free process, which then belongs to the caller.
   * @param urgent before all others that wait
   * @throws the signal's reason when it aborts meanwhile
   */
  take(signal: AbortSignal, urgent: boolean): Promise<ChildProcess>;
  /** Gives a process back. One that has ended is ignored: it has been replaced. */
  putBack(child: ChildProcess): void;
  close(): void;
}

/** Pause before a new process starts. It doubles with each process that ended before it was up. */
const RESPAWN_MS = 100;
const LONGEST_RESPAWN_MS = 5_000;

/** Bytes. */
const WASM_PAGE = 64 * 1024;

/** Starts one process, and further ones when none is free. @param count how many at most */
export function startPool(count: number, limits: ParserLimits, log: Logger): ParserPool {
  const free: ChildProcess[] = [];
  const waiting: ((child: ChildProcess) => void)[] = [];
  const all = new Set<ChildProcess>();
  /** How many processes have ended and are about to be replaced. */
  let respawning = 0;
  let respawnMs = RESPAWN_MS;
  let closed = false;

  function spawn(): void {
    let child: ChildProcess;
    try {
      child = forkParser(limits);
    } catch (err) {
      respawn({ err }, false);
      return;
    }
    all.add(child);
    let isUp = false;
    const replace = (reason: object) => {
      // A process that could not be started emits only `error`; a process that ends emits `exit`.
      if (!all.delete(child)) return;
      const index = free.indexOf(child);
      if (index >= 0) free.splice(index, 1);
      if (!closed) respawn(reason, isUp);
    };
    child.once('error', (err) => replace({ err }));
    child.once('exit', (code, killedBy) => replace({ code, killedBy }));
    // Wait until the process is up: its start time on a busy machine must not count as time of the task.
    child.once('message', () => {
      isUp = true;
      respawnMs = RESPAWN_MS;
      putBack(child);
    });
  }

  function respawn(reason: object, wasUp: boolean): void {
    log.warn(reason, 'a parser process ended; starting another');
    respawning++;
    setTimeout(() => {
      respawning--;
      if (!closed) spawn();
    }, respawnMs);
    if (!wasUp) respawnMs = Math.min(2 * respawnMs, LONGEST_RESPAWN_MS);
  }

  function putBack(child: ChildProcess): void {
    if (!all.has(child) || !isAlive(child)) return;
    const next = waiting.shift();
    if (next) next(child);
    else free.push(child);
  }

  if (count > 0) spawn();
  return {
    async take(signal, urgent) {
      signal.throwIfAborted();
      const child = free.pop();
      if (child) return child;
      if (all.size + respawning < count) spawn();
      return new Promise((resolve, reject) => {
        const turn = (given: ChildProcess) => {
          signal.removeEventListener('abort', leave);
          resolve(given);
        };
        const leave = () => {
          waiting.splice(waiting.indexOf(turn), 1);
          reject(signal.reason);
        };
        signal.addEventListener('abort', leave, { once: true });
        if (urgent) waiting.unshift(turn);
        else waiting.push(turn);
      });
    },
    putBack,
    close() {
      closed = true;
      for (const child of all) child.kill('SIGKILL');
    },
  };
}

/** Whether a process has neither ended nor been killed. */
export function isAlive(child: ChildProcess): boolean {
  return !child.killed && child.exitCode === null && child.signalCode === null;
}

function forkParser({ maxImagePixels, memory }: ParserLimits): ChildProcess {
  const limits: ParserLimits = { maxImagePixels, memory };
  const { execPath, execArgv } = sandboxedNode();
  const pages = Math.floor(wasmBytes(limits) / WASM_PAGE);
  const child = fork(
    fileURLToPath(new URL('./parser-process.js', import.meta.url)),
    [JSON.stringify(limits)],
    {
      execPath,
      execArgv: [...execArgv, `--wasm-max-mem-pages=${pages}`],
      cwd: '/',
      env: ENVIRONMENT,
      serialization: 'advanced',
      stdio: ['ignore', 'ignore', 'ignore', 'ipc', 'pipe'],
    },
  );
  // Errors of the pipe are ignored: `exit` reports a process that ends while bytes are sent to it. When no descriptors are
  // left, there is no pipe, and `error` follows.
  child.stdio?.[BYTES_FD]?.on('error', () => {});
  return child;
}
