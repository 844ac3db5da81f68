import { randomUUID } from 'node:crypto';
import { within } from './concurrency.js';

/*
 * Reports unexpected errors to Sentry, or to a service that takes its envelopes (GlitchTip, …). An error that is logged as
 * one is reported, without its message: that may hold names, addresses, or parts of a body. The log has it, under the same
 * ids.
 */

/** Reports that wait to be sent, at most; further ones are dropped. */
const MAX_WAITING = 20;

/** Reports in one minute, at most: an outage makes the same error a thousand times. */
const MAX_A_MINUTE = 60;

const SEND_MS = 5_000;

/** How long nothing is sent after an answer that does not accept a report. */
const REST_MS = 60_000;

/** How long the end of a process waits for the last reports. */
const CLOSE_MS = 1_500;

/** The parts of a line of the log that are read. */
interface Line {
  name?: string;
  level: number;
  time: string;
  msg?: string;
  err?: { type?: string; stack?: string; code?: unknown };
  requestId?: string;
  uploadId?: string;
  fileId?: string;
  jobId?: string;
  step?: string;
}

export interface ErrorReports {
  /** @param line of the log, at the level error or above */
  note(line: string): void;
  /** Sends what is left, for a short time at most. */
  close(): Promise<void>;
}

/** @param dsn `https://<key>@<host>/<project>`, valid */
export function openErrorReports(dsn: string): ErrorReports {
  const { url, key } = parseDsn(dsn);
  const waiting: string[] = [];
  let sending: Promise<void> | undefined;
  let restUntil = 0;
  let minute = 0;
  let count = 0;

  function isTooMany(): boolean {
    const now = Math.floor(Date.now() / 60_000);
    if (now !== minute) [minute, count] = [now, 0];
    return ++count > MAX_A_MINUTE || waiting.length >= MAX_WAITING || Date.now() < restUntil;
  }

  async function sendAll(): Promise<void> {
    for (let report = waiting.shift(); report !== undefined; report = waiting.shift()) {
      const isTaken = await send(url, key, report).catch(() => false);
      if (isTaken) continue;
      restUntil = Date.now() + REST_MS;
      waiting.length = 0;
    }
  }

  return {
    note(line) {
      const parsed: Line = JSON.parse(line);
      if (!parsed.err || isTooMany()) return;
      waiting.push(JSON.stringify(toEvent(parsed)));
      sending ??= sendAll().finally(() => {
        sending = undefined;
      });
    },
    async close() {
      await within(CLOSE_MS, sending ?? Promise.resolve(), 'sending the last reports').catch(() => {});
    },
  };
}

/** @returns whether it was accepted */
async function send(url: string, key: string, event: string): Promise<boolean> {
  const { event_id } = JSON.parse(event);
  const header = { event_id, sent_at: new Date().toISOString() };
  const answer = await fetch(url, {
    method: 'POST',
    headers: {
      'Content-Type': 'application/x-sentry-envelope',
      'X-Sentry-Auth': `Sentry sentry_version=7, sentry_client=landfall, sentry_key=${key}`,
    },
    body: `${JSON.stringify(header)}\n{"type":"event"}\n${event}\n`,
    redirect: 'error',
    signal: AbortSignal.timeout(SEND_MS),
  });
  await answer.body?.cancel();
  return answer.ok;
}

/** An event as Sentry describes it (https://develop.sentry.dev/sdk/data-model/event-payloads/). */
function toEvent({ name, level, time, msg, err, requestId, uploadId, fileId, jobId, step }: Line): object {
  const code = typeof err?.code === 'string' ? err.code : undefined;
  return {
    event_id: randomUUID().replaceAll('-', ''),
    timestamp: time,
    platform: 'node',
    level: level > 50 ? 'fatal' : 'error',
    logger: name,
    // Our own words, which hold no values.
    message: msg,
    tags: { request_id: requestId, upload_id: uploadId ?? fileId, job_id: jobId, step, code },
    exception: {
      values: [
        { type: err?.type ?? 'Error', value: code ?? msg, stacktrace: { frames: toFrames(err?.stack) } },
      ],
    },
  };
}

const FRAME = /^\s+at (?:(.*?) \()?(?:file:\/\/)?([^()\s]+):(\d+):(\d+)\)?$/;

/** The frames of a stack, the innermost last. The lines before them are the message. */
function toFrames(stack = ''): object[] {
  return stack
    .split('\n')
    .flatMap((line) => {
      const [, fn = '', path = '', lineno, colno] = FRAME.exec(line) ?? [];
      if (!path) return [];
      // Where the project lies on this machine concerns nobody.
      const filename = path.replace(/^.*\/(?=(?:dist|node_modules)\/)/, '');
      const where = { lineno: Number(lineno), colno: Number(colno) };
      return [{ function: fn || undefined, filename, ...where, in_app: !filename.includes('node_modules') }];
    })
    .reverse();
}

function parseDsn(dsn: string): { url: string; key: string } {
  const { protocol, host, pathname, username } = new URL(dsn);
  const [, path = '', project] = /^(.*)\/([^/]+)\/?$/.exec(pathname) ?? [];
  return { url: `${protocol}//${host}${path}/api/${project}/envelope/`, key: username };
}
