import { Redis } from 'ioredis';
import type { Logger } from './log.js';

/** The longest pause between two attempts to connect. */
const RETRY_MS = 1_000;

const CONNECT_TIMEOUT_MS = 5_000;

/** Probes notice a connection whose other end vanished silently after at most twice this time. */
const PROBE_EVERY_MS = 5_000;

export interface RedisConnection {
  readonly client: Redis;
  /** Logs an error once until Redis is back: each attempt to connect fails with a new error of the same message. */
  reportError(error: Error & { code?: unknown }): void;
  /** Calls `listener` each time Redis can be reached again after it could not. */
  onBack(listener: () => void): void;
}

/**
 * Opens a connection to Redis that is opened anew whenever it breaks. Does not wait until it is connected.
 * @param options.use purpose of the connection, for the log
 * @param options.waits whether commands wait for as long as Redis is away, or fail at once
 */
export function connectRedis(
  url: string,
  log: Logger,
  { use, waits = true }: { use: string; waits?: boolean },
): RedisConnection {
  const client = new Redis(url, {
    // Both IPv4 and IPv6.
    family: 0,
    connectTimeout: CONNECT_TIMEOUT_MS,
    retryStrategy: (attempts) => Math.min(100 * attempts, RETRY_MS),
    enableOfflineQueue: waits,
    // BullMQ demands null: commands are retried without limit.
    maxRetriesPerRequest: waits ? null : 0,
  });
  const backListeners: (() => void)[] = [];
  let away = false;
  let reported: string | undefined;

  function reportError(error: Error & { code?: unknown }): void {
    const reason = error.message || String(error.code);
    if (reason === reported) return;
    reported = reason;
    // The error itself may hold the command that was refused, AUTH with its password included.
    if (error.name === 'ReplyError') log.error({ reason }, 'Redis refuses: is REDIS_URL right?');
    else log.warn({ reason }, `${use}: trouble with Redis`);
  }

  async function probe(): Promise<void> {
    if (client.status !== 'ready') return;
    const timer = setTimeout(() => client.disconnect(true), PROBE_EVERY_MS).unref();
    await client.ping().catch(() => {});
    clearTimeout(timer);
  }
  const probing = setInterval(() => void probe(), PROBE_EVERY_MS).unref();
  client.on('end', () => clearInterval(probing));

  client.on('error', reportError);
  client.on('close', () => {
    away = true;
  });
  client.on('ready', () => {
    reported = undefined;
    if (!away) return;
    away = false;
    log.info(`${use}: Redis is back`);
    for (const listener of backListeners) listener();
  });
  return { client, reportError, onBack: (listener) => backListeners.push(listener) };
}
