import { createHash } from 'node:crypto';
import { MemoryStore, type Store } from 'express-rate-limit';
import type { Redis } from 'ioredis';
import { RedisStore } from 'rate-limit-redis';
import { within } from '../../core/concurrency.js';
import type { Logger } from '../../core/log.js';
import { connectRedis } from '../../core/redis.js';

/*
 * Counts requests, in the memory of this server or in Redis for all servers together.
 *
 * Redis may be away, hang or lose its data. Meanwhile each server counts in its own memory, starting from
 * zero. No request fails because of Redis, and none waits for it longer than ANSWER_MS.
 */

/** Counts in Redis. */
export interface SharedCounts {
  /** A store that counts separately from stores with other names. */
  createStore(name: string): Store;
  close(): void;
}

/** The prefix of all keys in Redis. */
const PREFIX = 'landfall:limit';

/** The longest time that Redis may take to answer. */
const ANSWER_MS = 250;

/** How long Redis is not asked after a late answer or an error. */
const PAUSE_MS = 1_000;

/** How long the start of the server waits for Redis, so that its first requests are counted there. */
const CONNECT_MS = 1_000;

/** The limit of keys kept for one window: memory stays bounded under attack. */
const MAX_KEYS = 50_000;

/** Decrements a count, unless it has expired meanwhile: DECR would create it again, without an expiry. */
const GIVE_BACK = `
local hits = tonumber(redis.call('GET', KEYS[1]) or '0')
if hits > 0 then redis.call('DECR', KEYS[1]) end
return 1`;

/** Counts in the memory of this process. */
export function createMemoryStore(maxKeys = MAX_KEYS): Store {
  const memory = new MemoryStore();
  return {
    localKeys: true,
    init: (options) => memory.init(options),
    increment(key) {
      // Keep the keys of the last period, as the library does at the end of each window.
      if (memory.current.size >= maxKeys) {
        memory.previous = memory.current;
        memory.current = new Map();
      }
      return memory.increment(key);
    },
    decrement: (key) => memory.decrement(key),
    resetKey: (key) => memory.resetKey(key),
    shutdown: () => memory.shutdown(),
  };
}

/** Connects to Redis. Waits only briefly, because Redis may come later. */
export async function openSharedCounts(url: string, log: Logger): Promise<SharedCounts> {
  const { client, reportError, onBack } = connectRedis(url, log, { use: 'rate limits', waits: false });
  const { load, run, send } = prepareScripts(client);
  let pausedUntil = 0;
  onBack(() => {
    pausedUntil = 0;
  });

  /** Returns undefined while Redis does not answer properly. */
  async function ask<T>(work: () => Promise<T>): Promise<T | undefined> {
    if (client.status !== 'ready' || Date.now() < pausedUntil) return undefined;
    try {
      return await within(ANSWER_MS, work(), 'Redis');
    } catch (error) {
      // A broken connection has already been reported.
      if (client.status === 'ready') {
        pausedUntil = Date.now() + PAUSE_MS;
        reportError(error as Error);
      }
      return undefined;
    }
  }

  await new Promise<void>((resolve) => {
    client.once('ready', resolve).once('close', resolve);
    setTimeout(resolve, CONNECT_MS).unref();
  });
  const giveBack = load(GIVE_BACK);
  return {
    createStore(name) {
      const prefix = `${PREFIX}:${name}:`;
      const redis = new RedisStore({ prefix, sendCommand: send });
      const memory = createMemoryStore();
      return {
        prefix,
        init(options) {
          memory.init?.(options);
          void redis.init(options);
        },
        increment: async (key) => (await ask(() => redis.increment(key))) ?? memory.increment(key),
        async decrement(key) {
          if (!(await ask(() => run(giveBack, prefix + key)))) await memory.decrement(key);
        },
        resetKey: (key) => memory.resetKey(key),
        shutdown: () => memory.shutdown?.(),
      };
    },
    close: () => client.disconnect(),
  };
}

/** Scripts that Redis caches. They are sent again when Redis has lost them. */
function prepareScripts(client: Redis) {
  const scripts = new Map<string, string>();

  async function run(sha: string, key: string, ...args: string[]) {
    try {
      return await client.evalsha(sha, 1, key, ...args);
    } catch (error) {
      const script = scripts.get(sha);
      if (!script || !(error instanceof Error && error.message.startsWith('NOSCRIPT'))) throw error;
      // Redis was restarted. EVAL also loads the script again.
      return client.eval(script, 1, key, ...args);
    }
  }

  /** Only stores the script here: rate-limit-redis keeps the result of loading a script, even an error. */
  function load(script: string): string {
    const sha = createHash('sha1').update(script).digest('hex');
    scripts.set(sha, script);
    return sha;
  }

  /** Sends commands for rate-limit-redis. It uses only these two, because nothing resets a key. */
  async function send(...[command, first = '', ...more]: string[]) {
    if (command === 'SCRIPT') return load(more[0] ?? '');
    if (command !== 'EVALSHA') throw new Error(`${command} was not expected`);
    const [, key = '', ...args] = more;
    return (await run(first, key, ...args)) as number[];
  }

  return { load, run, send };
}
