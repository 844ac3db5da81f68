import type { Logger } from './log.js';

/*
 * How our processes start and shut down. Under the supervisor a process talks over the IPC channel of fork(); otherwise
 * it only handles signals.
 */

/** How often a process tells its supervisor that its event loop is running. */
export const BEAT_MS = 1_000;

/** Tells the supervisor, if there is one, that this process is ready, and from then on regularly that it is alive. */
export function announceReady(url?: string): void {
  if (!process.send) return;
  process.send({ type: 'ready', ...(url ? { url } : {}) });
  let isTaken = true;
  setInterval(() => {
    // A supervisor that is stopped (SIGSTOP) reads nothing, so messages would pile up in this process.
    if (!process.connected || !isTaken) return;
    isTaken = false;
    process.send?.({ type: 'alive' }, undefined, undefined, () => {
      isTaken = true;
    });
  }, BEAT_MS).unref();
}

/** Ends a process that could not start, or a command that failed, with one line that says why. */
export function failStart(error: unknown, exitCode = 1): never {
  const message = error instanceof Error ? error.message : String(error);
  console.error(`landfall: ${message.replaceAll(/\s*\n\s*/g, ' ')}`);
  process.exit(exitCode);
}

/**
 * Calls `shutdown` once: at SIGINT, at SIGTERM, or when the supervisor has died (the channel to it closes). Then
 * the process exits, after `limitMs` at the latest.
 * @param shutdown its argument says whether the supervisor has died: a new supervisor may be starting already
 */
export function onShutdown(
  log: Logger,
  limitMs: number,
  shutdown: (orphaned: boolean) => Promise<void>,
): void {
  let begun = false;
  const begin = (reason: string, orphaned = false) => {
    if (begun) return;
    begun = true;
    log.info({ reason }, 'shutting down');
    setTimeout(() => {
      log.error('shutdown took too long');
      process.exit(1);
    }, limitMs).unref();
    shutdown(orphaned).then(
      () => process.exit(0),
      (error: unknown) => {
        log.error({ err: error }, 'shutdown failed');
        process.exit(1);
      },
    );
  };
  process.on('SIGINT', () => begin('SIGINT'));
  process.on('SIGTERM', () => begin('SIGTERM'));
  process.on('disconnect', () => begin('supervisor gone', true));
}
