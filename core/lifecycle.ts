import type { Logger } from './log.js';

/*
 * How a process of ours begins and ends. Under the supervisor it talks over the IPC channel of fork(); on its own
 * it only listens to signals.
 */

/** Tells the supervisor, if there is one, that this process does its work. */
export function announceReady(url?: string): void {
  process.send?.({ type: 'ready', ...(url ? { url } : {}) });
}

/**
 * Calls `shutdown` once: at SIGINT, at SIGTERM, or when the supervisor has died (the channel to it closes). Then
 * the process exits, after `limitMs` at the latest.
 */
export function onShutdown(log: Logger, limitMs: number, shutdown: () => Promise<void>): void {
  let begun = false;
  const begin = (reason: string) => {
    if (begun) return;
    begun = true;
    log.info({ reason }, 'shutting down');
    setTimeout(() => {
      log.error('shutdown took too long');
      process.exit(1);
    }, limitMs).unref();
    shutdown().then(
      () => process.exit(0),
      (error: unknown) => {
        log.error({ err: error }, 'shutdown failed');
        process.exit(1);
      },
    );
  };
  process.on('SIGINT', () => begin('SIGINT'));
  process.on('SIGTERM', () => begin('SIGTERM'));
  process.on('disconnect', () => begin('supervisor gone'));
}
