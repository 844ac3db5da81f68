import { setTimeout as pause } from 'node:timers/promises';
import type pg from 'pg';
import type { Logger } from '../log.js';
import { REQUEST_LIMITS } from './client.js';
import { connectOnce } from './connect.js';

/*
 * The connection on which a process receives PostgreSQL's notifications (LISTEN). There is one per process.
 *
 * When it breaks, it is opened again, however long that takes. Notifications sent meanwhile are lost. So a notification
 * must only mean "look now", and code that waits for one must also look from time to time without it.
 */

const FIRST_RETRY_MS = 100;
const MAX_RETRY_MS = 5_000;

/** How often the connection is probed. If the answer to a probe is overdue, the connection is destroyed. */
const PROBE_EVERY_MS = 5_000;

const LIMITS = { ...REQUEST_LIMITS, answer: PROBE_EVERY_MS };

export interface Listener {
  /** Calls `handle` with the payload of each notification on this channel from now on. */
  subscribe(channel: string, handle: (payload: string) => void): Promise<void>;
  close(): Promise<void>;
}

interface Connection {
  client: pg.Client;
  ended: Promise<void>;
}

/**
 * @param name shown in pg_stat_activity
 * @throws {ConfigError} when the database cannot be reached now
 */
export async function openListener(databaseUrl: string, log: Logger, name?: string): Promise<Listener> {
  const handlers = new Map<string, ((payload: string) => void)[]>();
  const closing = new AbortController();
  let current = await connect();

  async function connect(): Promise<Connection> {
    const client = await connectOnce(databaseUrl, LIMITS, name);
    const ended = new Promise<void>((resolve) => client.once('end', resolve));
    client.on('notification', ({ channel, payload = '' }) => {
      for (const handle of handlers.get(channel) ?? []) handle(payload);
    });
    try {
      closing.signal.throwIfAborted();
      for (const channel of handlers.keys()) await client.query(`LISTEN ${channel}`);
    } catch (error) {
      await client.end();
      throw error;
    }
    return { client, ended };
  }

  async function reconnect(): Promise<Connection> {
    for (let delay = FIRST_RETRY_MS; ; delay = Math.min(2 * delay, MAX_RETRY_MS)) {
      await pause(delay, undefined, { signal: closing.signal, ref: false });
      try {
        return await connect();
      } catch (error) {
        log.debug({ err: error }, 'listening connection');
      }
    }
  }

  async function keepConnected(): Promise<void> {
    for (;;) {
      await current.ended;
      closing.signal.throwIfAborted();
      log.warn('the connection that listens to PostgreSQL broke');
      current = await reconnect();
      log.info('listening to PostgreSQL again');
    }
  }

  let asked: Promise<unknown> = Promise.resolve();
  /** One statement at a time: a client of pg takes no second one before the first is answered. */
  async function ask(sql: string): Promise<void> {
    asked = asked.catch(() => {}).then(() => current.client.query(sql));
    await asked;
  }

  // It ends only after close().
  keepConnected().catch(() => {});
  // A probe's error can be ignored: if the connection is broken, it ends and is opened again.
  const timer = setInterval(() => void ask('SELECT 1').catch(() => {}), PROBE_EVERY_MS);
  timer.unref();

  return {
    async subscribe(channel, handle) {
      handlers.set(channel, [...(handlers.get(channel) ?? []), handle]);
      await ask(`LISTEN ${channel}`);
    },
    async close() {
      clearInterval(timer);
      closing.abort();
      await current.client.end();
    },
  };
}
