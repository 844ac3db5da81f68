import { createHash } from 'node:crypto';
import { MemoryStore, type Store } from 'express-rate-limit';
import type { Redis } from 'ioredis';
import { RedisStore } from 'rate-limit-redis';
import { within } from '../../core/concurrency.js';
import type { Logger } from '../../core/log.js';
import { connectRedis } from '../../core/redis.js';

/*
 * Where requests are counted: in the memory of this server, or in Redis for all servers together.
 *
 * Redis may be away, stand still or lose all it has. Meanwhile each server counts in its own memory, from nothing: no
 * request fails because of it, and none waits for it longer than ANSWER_MS.
 */

/** Counts in Redis. */
export interface SharedCounts {
  /** One that counts apart from those with another name. */
  createStore(name: string): Store;
  close(): void;
}

/** What the keys in Redis begin with. */
const PREFIX = 'landfall:limit';

/** How long Redis may take to answer. */
const ANSWER_MS = 250;

/** After an answer that did not come in time, or was an error, Redis is left alone for so long. */
const PAUSE_MS = 1_000;

/** How long the start of the server waits for Redis, so that its first requests are counted there. */
const CONNECT_MS = 1_000;

/** More keys than that, of those who came in one window, are not kept: memory stays bounded under attack. */
const MAX_KEYS = 50_000;

/** Takes one off, but from nothing that has run out meanwhile: DECR would make it anew, without an expiry. */
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
      // Those who came since the last time are kept, as the library itself does at the end of each window.
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

/** Connects to Redis. Waits for that, but not long: Redis may come later. */
export async function openSharedCounts(url: string, log: Logger): Promise<SharedCounts> {
  const { client, reportError, onBack } = connectRedis(url, log, { use: 'rate limits', waits: false });
  const { load, run, send } = prepareScripts(client);
  let pausedUntil = 0;
  onBack(() => {
    pausedUntil = 0;
  });

  /** Undefined: Redis is away, or as good as that. */
  async function ask<T>(work: () => Promise<T>): Promise<T | undefined> {
    if (client.status !== 'ready' || Date.now() < pausedUntil) return undefined;
    try {
      return await within(ANSWER_MS, work(), 'Redis');
    } catch (error) {
      // A connection that broke has said so itself.
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

/** Scripts that Redis keeps, and that it gets once more when it has lost them. */
function prepareScripts(client: Redis) {
  const scripts = new Map<string, string>();

  async function run(sha: string, key: string, ...args: string[]) {
    try {
      return await client.evalsha(sha, 1, key, ...args);
    } catch (error) {
      const script = scripts.get(sha);
      if (!script || !(error instanceof Error && error.message.startsWith('NOSCRIPT'))) throw error;
      // Redis was started anew. This loads the script, too.
      return client.eval(script, 1, key, ...args);
    }
  }

  /** Only remembers it: rate-limit-redis keeps what comes of loading a script, also when that is an error. */
  function load(script: string): string {
    const sha = createHash('sha1').update(script).digest('hex');
    scripts.set(sha, script);
    return sha;
  }

  /** For rate-limit-redis, which sends nothing else as long as nobody resets a key. */
  async function send(...[command, first = '', ...more]: string[]) {
    if (command === 'SCRIPT') return load(more[0] ?? '');
    if (command !== 'EVALSHA') throw new Error(`${command} was not expected`);
    const [, key = '', ...args] = more;
    return (await run(first, key, ...args)) as number[];
  }

  return { load, run, send };
}
