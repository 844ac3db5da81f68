import { JetStreamApiError } from '@nats-io/jetstream';
import { PermissionViolationError } from '@nats-io/transport-node';
import type { Logger } from '../../core/log.js';

/* What the errors of NATS mean, and how its outages are logged. */

/** JetStream's codes. */
const NAME_IN_USE = 10_058;
const SUBJECTS_OVERLAP = 10_065;

/** Whether there is another stream with this name, or with some of its subjects. */
export function isInUse(error: unknown): boolean {
  return error instanceof JetStreamApiError && [NAME_IN_USE, SUBJECTS_OVERLAP].includes(error.code);
}

/** Whether the user of NATS may not do this. Streams are often made by someone else. */
export function isForbidden(error: unknown): boolean {
  return error instanceof Error && error.cause instanceof PermissionViolationError;
}

/** The library does not export the class of this error. */
function isNotEnabled(error: unknown): boolean {
  return error instanceof Error && error.name === 'JetStreamNotEnabled';
}

/** @param error why a stream could not be made */
export function explainNoStream(error: unknown, stream: string): Error {
  if (isNotEnabled(error)) {
    return new Error(
      'NATS has no JetStream for this account: enable it in the configuration of nats-server (jetstream)',
    );
  }
  return new Error(`the stream ${stream} could not be made: ${messageOf(error)}`);
}

/** @param error why a message was not stored */
export function explainRefusal(error: unknown, subject: string): Error {
  // The library takes a message that nobody listens to as a sign that there is no JetStream.
  const reason = isNotEnabled(error) ? 'no stream takes it' : messageOf(error);
  return new Error(`NATS has not stored ${subject}: ${reason}`);
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

export interface OutageLog {
  connected(): void;
  stored(): void;
  /** There is no connection, or it has ended. */
  failed(reason: unknown): void;
  /** There is a connection, but a message was not stored. */
  refused(reason: Error): void;
}

/** Logs when NATS takes no events and when it does so again; not every attempt in between. */
export function createOutageLog(log: Logger): OutageLog {
  /** The last reason that was logged; undefined: NATS works. */
  let told: string | undefined = '';
  let isRefusing = false;

  function away(error: unknown): void {
    const reason = messageOf(error);
    log[reason === told ? 'debug' : 'warn'](
      { err: error },
      'NATS takes no events; they wait in the event log',
    );
    told = reason;
  }
  function back(): void {
    isRefusing = false;
    if (told === undefined) return;
    log.info('NATS takes events');
    told = undefined;
  }

  return {
    // A server that refuses messages takes connections all the same.
    connected: () => isRefusing || back(),
    stored: back,
    failed(reason) {
      // A connection that was closed after a refusal.
      if (!isRefusing) away(reason);
    },
    refused(reason) {
      isRefusing = true;
      away(reason);
    },
  };
}
