import { type EventEmitter, errorMonitor } from 'node:events';
import { Socket } from 'node:net';
import { setImmediate } from 'node:timers/promises';
import pg from 'pg';
import { DatabaseAway, toAway, translate } from './outage.js';

/*
 * All connections to PostgreSQL: TypeORM's, BullMQ's, and single ones.
 *
 * A host can vanish silently: a power cut, a firewall that loses its state, a split network. Then PostgreSQL never
 * answers a query on an open connection, nor any later query on it. So each query has a deadline. When it has passed, the
 * connection is destroyed, not only the wait for its answer: a pool replaces a connection that has ended, but would hand
 * out a hanging one again. (pg's `query_timeout` rejects the query and keeps the connection.)
 */

/** How long a connection may take to open, and how long a caller waits for one of a pool. */
export const CONNECT_MS = 10_000;

/** Idle time after which TCP probes whether the other end still answers. */
const KEEP_ALIVE_MS = 10_000;

/** How long an orderly close of a connection may take. */
const GOODBYE_MS = 1_000;

/**
 * A process that stalls inside a transaction holds row locks that other processes wait for. After this time PostgreSQL
 * ends its connection.
 */
const STALLED_TRANSACTION_MS = 15_000;

/** In milliseconds; undefined: any time. */
export interface TimeLimits {
  /** How long one statement may run, and how long it may wait for a lock. Then PostgreSQL cancels it. */
  statement?: number;
  lock?: number;
  /** How long an answer may take. Then the connection is destroyed. Must be longer than `statement`. */
  answer?: number;
}

/** For statements that HTTP requests wait for, often while they hold an upload. */
export const REQUEST_LIMITS: TimeLimits = { statement: 10_000, lock: 5_000, answer: 12_000 };

/** For the worker, whose passes go through large tables. */
export const PASS_LIMITS: TimeLimits = { statement: 30_000, lock: 5_000, answer: 35_000 };

export interface ClientConfig extends pg.ClientConfig {
  /** Undefined: a query may take as long as it needs, as a command does. */
  limits?: TimeLimits | undefined;
}

/** A connection that is destroyed when a query is not answered in time. For classes of its errors see outage.ts. */
export class DatabaseClient extends pg.Client {
  private readonly socket: Socket;
  private readonly answerMs: number | undefined;
  /** Whether the connection has broken or is being closed. */
  private over = false;
  readonly openedAt = performance.now();

  constructor({ limits, ...config }: ClientConfig) {
    const socket = new Socket();
    super({
      connectionTimeoutMillis: CONNECT_MS,
      keepAlive: true,
      keepAliveInitialDelayMillis: KEEP_ALIVE_MS,
      ...(limits?.statement ? { statement_timeout: limits.statement } : {}),
      ...(limits?.lock ? { lock_timeout: limits.lock } : {}),
      ...config,
      stream: () => socket,
    });
    this.socket = socket;
    this.answerMs = limits?.answer;
    // errorMonitor listeners run before the queries under way are rejected.
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
    // A host that has vanished never answers the close, so cut the connection.
    const cut = setTimeout(() => this.socket.destroy(), GOODBYE_MS).unref();
    this.once('end', () => clearTimeout(cut));
    if (!callback) return super.end();
    super.end(callback);
    return undefined;
  }
}

type PoolConfig = ClientConfig & pg.PoolConfig;

/**
 * A pool of DatabaseClients. Any failure to provide a connection counts as an outage. When a connection was destroyed
 * because it did not answer, older connections are not used any more: each would keep one more request waiting.
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
      if (!(client instanceof DatabaseClient)) {
        // A pool that has ended refuses at once. BullMQ asks again at once too, and no timer would ever fire.
        void setImmediate().then(() => callback(toAway(error), client, release));
        return;
      }
      if (client.openedAt > this.hungAt) return callback(undefined, client, release);
      release(true);
      this.connect(callback);
    });
    return undefined;
  }
}

type OnConnected = Parameters<pg.Pool['connect']>[0];

/**
 * PostgreSQL may announce its shutdown in the same packet that says that a connection is ready. At that moment the pool
 * no longer listens for errors and its caller does not listen yet. Such a connection is not handed out.
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
