import { type EventEmitter, errorMonitor } from 'node:events';
import { Socket } from 'node:net';
import { setImmediate } from 'node:timers/promises';
import pg from 'pg';
import { DatabaseAway, toAway, translate } from './outage.js';

/*
 * The connections to PostgreSQL, of whatever part: TypeORM's, BullMQ's, and those that are opened alone.
 *
 * A host can vanish without a word: a power cut, a firewall that forgets, a network that is cut in two. Then a query on
 * an open connection is never answered, and neither is any later one on it. So each query has a deadline. When it has
 * passed, the connection is destroyed, not only the wait for it: a pool replaces a connection that has ended, and would
 * hand out again one that only hangs. (pg's `query_timeout` rejects the query and keeps the connection.)
 */

/** How long a connection may take to come up, and how long a pool lets wait for one. */
export const CONNECT_MS = 10_000;

/** An idle connection is asked after so long whether its other end is there. */
const KEEP_ALIVE_MS = 10_000;

/** How long the polite end of a connection may take. */
const GOODBYE_MS = 1_000;

/**
 * A process that stands still in the middle of a transaction holds row locks that whoever takes over waits for:
 * PostgreSQL then ends that connection.
 */
const STALLED_TRANSACTION_MS = 15_000;

/** In milliseconds. */
export interface TimeLimits {
  /** How long one statement may run, and wait for locks of others: PostgreSQL then ends it. */
  statement: number;
  lock: number;
  /** How long an answer may take: the connection is then destroyed. Longer than a statement may run. */
  answer: number;
}

/** Where requests wait, and hold uploads meanwhile. */
export const REQUEST_LIMITS: TimeLimits = { statement: 10_000, lock: 5_000, answer: 12_000 };

/** For the worker, whose passes go through large tables. */
export const PASS_LIMITS: TimeLimits = { statement: 30_000, lock: 5_000, answer: 35_000 };

export interface ClientConfig extends pg.ClientConfig {
  /** Undefined: a query may take as long as it needs, as a migration does. */
  limits?: TimeLimits | undefined;
}

/** A connection whose queries are answered in time, or fail with it. Outages and conflicts are classes: see outage.ts. */
export class DatabaseClient extends pg.Client {
  private readonly socket: Socket;
  private readonly answerMs: number | undefined;
  /** Whether it has broken or is being ended: then it answers nothing any more. */
  private over = false;
  readonly openedAt = performance.now();

  constructor({ limits, ...config }: ClientConfig) {
    const socket = new Socket();
    super({
      connectionTimeoutMillis: CONNECT_MS,
      keepAlive: true,
      keepAliveInitialDelayMillis: KEEP_ALIVE_MS,
      ...(limits ? { statement_timeout: limits.statement, lock_timeout: limits.lock } : {}),
      ...config,
      stream: () => socket,
    });
    this.socket = socket;
    this.answerMs = limits?.answer;
    // Before it fails the queries that are under way.
    (this as EventEmitter).on(errorMonitor, () => {
      this.over = true;
    });
  }

  // biome-ignore lint/suspicious/noExplicitAny: pg describes four ways to call it
  override query(...args: any[]): any {
    const callback = typeof args.at(-1) === 'function' ? args.pop() : undefined;
    const answer = this.answerInTime(super.query(args[0], args[1]));
    if (!callback) return answer;
    answer.then(
      (result) => callback(undefined, result),
      (error) => callback(error),
    );
  }

  private async answerInTime<T>(answer: Promise<T>): Promise<T> {
    const { answerMs, socket } = this;
    const deadline =
      answerMs &&
      setTimeout(() => socket.destroy(new DatabaseAway(`no answer within ${answerMs} ms`)), answerMs);
    try {
      return await answer;
    } catch (error) {
      throw translate(error, this.over);
    } finally {
      clearTimeout(deadline);
    }
  }

  override end(): Promise<void>;
  override end(callback: (error: Error) => void): void;
  override end(callback?: (error: Error) => void): Promise<void> | undefined {
    this.over = true;
    // Another end that is gone says no goodbye.
    const cut = setTimeout(() => this.socket.destroy(), GOODBYE_MS).unref();
    this.once('end', () => clearTimeout(cut));
    if (!callback) return super.end();
    super.end(callback);
    return undefined;
  }
}

type PoolConfig = ClientConfig & pg.PoolConfig;

/**
 * A pool of such connections. Whatever keeps it from giving one is an outage. When one of them was destroyed because it
 * did not answer, those that are as old are not trusted any more: each would keep one more request waiting.
 */
export class DatabasePool extends pg.Pool {
  private hungAt = 0;

  constructor(config: PoolConfig) {
    super({
      connectionTimeoutMillis: CONNECT_MS,
      idle_in_transaction_session_timeout: STALLED_TRANSACTION_MS,
      onConnect: refuseStillborn,
      ...config,
      Client: DatabaseClient as unknown as new () => pg.ClientBase,
    });
    this.on('connect', (client) => {
      client.on('error', (error) => {
        if (error instanceof DatabaseAway) this.hungAt = performance.now();
      });
    });
  }

  override connect(): Promise<pg.PoolClient>;
  override connect(callback: OnConnected): void;
  override connect(callback?: OnConnected): Promise<pg.PoolClient> | undefined {
    if (!callback) {
      return new Promise((resolve, reject) => {
        this.connect((error, client) => (client ? resolve(client) : reject(error)));
      });
    }
    super.connect((error, client, release) => {
      if (!(client instanceof DatabaseClient)) return callback(toAway(error), client, release);
      if (client.openedAt > this.hungAt) return callback(undefined, client, release);
      release(true);
      this.connect(callback);
    });
    return undefined;
  }
}

type OnConnected = Parameters<pg.Pool['connect']>[0];

/**
 * PostgreSQL may say that it shuts down in the same packet in which it says that a connection is ready. Nobody listens to
 * it then: the pool does not any more, and its caller does not yet. Such a connection is not handed out.
 */
async function refuseStillborn(client: pg.ClientBase): Promise<void> {
  let error: Error | undefined;
  const note = (thrown: Error) => {
    error = thrown;
  };
  client.once('error', note);
  await setImmediate();
  client.off('error', note);
  if (error) throw error;
}
