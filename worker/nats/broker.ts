import { readFile } from 'node:fs/promises';
import { setTimeout as pause } from 'node:timers/promises';
import { jetstream, jetstreamManager } from '@nats-io/jetstream';
import {
  type ConnectionOptions,
  connect,
  credsAuthenticator,
  type NatsConnection,
} from '@nats-io/transport-node';
import { within } from '../../core/concurrency.js';
import type { NatsConfig } from '../../core/config.js';
import type { Logger } from '../../core/log.js';
import { findServer } from './greeting.js';
import { createOutageLog, explainNoStream, explainRefusal, isForbidden, isInUse } from './outage.js';

/*
 * The connection to NATS JetStream, which stores messages and acknowledges each one.
 *
 * A connection is used until it breaks, or until one message is not acknowledged in time, and is then replaced. The
 * library's own reconnection is off: it would send messages again that were waiting, while others have failed.
 */

const STREAM = 'LANDFALL';

/** How long JetStream remembers the ids of messages in a stream that we make. */
const REMEMBER_MS = 10 * 60_000;

/** How long it may take to open a connection, and to acknowledge one message. */
const CONNECT_MS = 5_000;
const ACKNOWLEDGE_MS = 10_000;

/** How often a silent connection is probed; it is given up when two probes in a row were not answered. */
const PROBE_EVERY_MS = 5_000;

const FIRST_RETRY_MS = 100;
const MAX_RETRY_MS = 5_000;

/** A connection that has lived for this long was a good one: the next is opened at once. */
const GOOD_AFTER_MS = 10_000;

export interface Message {
  /** JetStream drops a message whose id it has stored already. */
  id: string;
  subject: string;
  body: string;
}

export interface Broker {
  /** Whether there is a connection now. */
  isThere(): boolean;
  /** Resolves when JetStream has stored the message. @throws when it has not; the connection is then replaced */
  publish(message: Message): Promise<void>;
  /** Calls `listener` whenever there is a new connection. One listener. */
  onBack(listener: () => void): void;
  close(): void;
}

/** Connects in the background, and again whenever that is needed. Outages are logged. */
export function openBroker(config: NatsConfig, log: Logger): Broker {
  const closing = new AbortController();
  const outage = createOutageLog(log);
  let current: NatsConnection | undefined;
  let tellBack = () => {};

  /** @returns why the connection has ended */
  async function holdConnection(): Promise<unknown> {
    const connection = await open(config);
    if (closing.signal.aborted) return void connection.close();
    current = connection;
    outage.connected();
    tellBack();
    const reason = await connection.closed();
    current = undefined;
    return reason ?? new Error('the connection has ended');
  }

  async function keepConnected(): Promise<void> {
    let delay = FIRST_RETRY_MS;
    while (!closing.signal.aborted) {
      const begun = performance.now();
      const reason = await holdConnection().catch((error: unknown) => error);
      if (closing.signal.aborted) return;
      outage.failed(reason);
      delay = performance.now() - begun > GOOD_AFTER_MS ? FIRST_RETRY_MS : Math.min(2 * delay, MAX_RETRY_MS);
      await pause(delay, undefined, { signal: closing.signal, ref: false });
    }
  }

  // It ends only after close().
  keepConnected().catch(() => {});

  return {
    isThere: () => current !== undefined,
    async publish({ id, subject, body }) {
      const connection = current;
      if (!connection) throw new Error('NATS is away');
      try {
        await jetstream(connection).publish(subject, body, { msgID: id, timeout: ACKNOWLEDGE_MS });
        outage.stored();
      } catch (error) {
        if (current === connection) {
          current = undefined;
          outage.refused(explainRefusal(error, subject));
        }
        // Everything under way fails now, instead of one after the other when its time is over.
        void connection.close().catch(() => {});
        throw error;
      }
    },
    onBack(listener) {
      tellBack = listener;
    },
    close() {
      closing.abort();
      void current?.close().catch(() => {});
    },
  };
}

async function open(config: NatsConfig): Promise<NatsConnection> {
  const server = await findServer(config.servers, CONNECT_MS);
  const opening = connect({ ...(await optionsOf(config)), servers: server });
  let late = false;
  opening.then(
    (connection) => (late ? connection.close() : undefined),
    () => {},
  );
  // The library's own limit does not cover everything, such as looking up the name of the server.
  const connection = await within(2 * CONNECT_MS, opening, 'connecting to NATS').catch((error: unknown) => {
    late = true;
    throw error;
  });
  try {
    await ensureStream(connection);
  } catch (error) {
    void connection.close().catch(() => {});
    throw error;
  }
  return connection;
}

async function optionsOf(config: NatsConfig): Promise<ConnectionOptions> {
  const { tls, user, password, token, credentialsFile } = config;
  return {
    name: 'landfall worker',
    timeout: CONNECT_MS,
    reconnect: false,
    pingInterval: PROBE_EVERY_MS,
    maxPingOut: 2,
    noAsyncTraces: true,
    ...(tls ? { tls: {} } : {}),
    ...(user && password ? { user, pass: password } : {}),
    ...(token ? { token } : {}),
    // Read each time: it may have been replaced by a new one.
    ...(credentialsFile ? { authenticator: credsAuthenticator(await readFile(credentialsFile)) } : {}),
  };
}

/** Makes the stream, unless there is one of its name or for its subjects, which is used as it is. */
async function ensureStream(connection: NatsConnection): Promise<void> {
  try {
    const manager = await jetstreamManager(connection, { checkAPI: false, timeout: CONNECT_MS });
    await manager.streams.add({
      name: STREAM,
      subjects: ['landfall.>'],
      // In nanoseconds.
      duplicate_window: REMEMBER_MS * 1_000_000,
    });
  } catch (error) {
    if (!isInUse(error) && !isForbidden(error)) throw explainNoStream(error, STREAM);
  }
}
