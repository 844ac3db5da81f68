import type { Request } from 'express';
import type { DataSource } from 'typeorm';
import { within } from '../../core/concurrency.js';
import { AppError, type ErrorCode } from '../../core/errors.js';
import { appendEvents } from '../../core/events/append.js';
import type { EventType, NewEvent } from '../../core/events/types.js';
import type { Logger } from '../../core/log.js';
import { networkOf } from '../http/network.js';
import { actorOf } from './principal.js';
import { createRefusalCounts } from './refusal-counts.js';

/** A request that is turned away for want of rights, or of room. */
export interface Refusal {
  /** Of the event; `access` where there is no better one. */
  type?: EventType;
  /** What it wanted to do: an action of can(), or a bucket of the rate limits. */
  action: string;
  code: ErrorCode;
  /** What it wanted to do it to. */
  subjectId?: string | undefined;
}

/** An error that says itself how it is to be noted, where an answer is made of it. */
export class RefusedError extends AppError {
  readonly refusal: Refusal;

  constructor(code: ErrorCode, refusal: Omit<Refusal, 'code'>, detail?: string) {
    super(code, detail === undefined ? {} : { detail });
    this.refusal = { ...refusal, code };
  }
}

export interface Refusals {
  /** Writes it into the event log, or counts it: see refusal-counts.ts. A request is refused once, for its first reason. */
  note(req: Request, refusal: Refusal): void;
  /** Waits for what was noted of a request, so that who has the answer finds it in the log; at most three seconds. */
  whenWritten(req: Request): Promise<void>;
  /** Writes what was only counted so far, and waits for all that is being written. */
  flush(): Promise<void>;
}

/** Errors that are refusals wherever they come from, and what was wanted. */
const REFUSING: Partial<Record<ErrorCode, Omit<Refusal, 'code'>>> = {
  quota_exceeded: { action: 'upload' },
  type_not_allowed: { action: 'upload' },
  registration_closed: { type: 'auth.register', action: 'register' },
  email_taken: { type: 'auth.register', action: 'register' },
};

/** Notes an error that an answer is made of, if it is a refusal that nobody has noted where it was thrown. */
export function noteIfRefused(refusals: Refusals, req: Request, error: unknown): void {
  if (!(error instanceof AppError)) return;
  const { code } = error;
  const refusal = REFUSING[code];
  if (error instanceof RefusedError) refusals.note(req, error.refusal);
  else if (refusal) refusals.note(req, { ...refusal, code });
  // It came with a token that was good, and was found to be worth nothing later: one that was used up, say.
  else if (code === 'unauthenticated' && req.principal) refusals.note(req, { action: 'authenticate', code });
}

/** How often what was counted is written. */
const WINDOW_MS = 600_000;

/** No answer waits for longer than this for a database that hangs. */
const WRITE_WITHIN_MS = 3000;

export function createRefusals(
  { database, log }: { database: DataSource; log: Logger },
  windowMs = WINDOW_MS,
): Refusals {
  const writing = new Set<Promise<void>>();
  const lines = new WeakMap<Request, Promise<void>>();
  const counts = createRefusalCounts();
  let began: Date | undefined;

  /** Fails never: then the log of this process tells of it. */
  function write(events: NewEvent[], about: object): Promise<void> {
    const written = appendEvents(database.manager, events)
      .catch((error: unknown) => log.warn({ err: error, ...about }, 'refusal not written down'))
      .finally(() => writing.delete(written));
    writing.add(written);
    return written;
  }

  function beginWindow(): void {
    if (began) return;
    began = new Date();
    setTimeout(endWindow, windowMs).unref();
  }

  function endWindow(): void {
    const since = began?.toISOString();
    began = undefined;
    const counted = counts.drain();
    if (counted.length === 0) return;
    log.warn(
      { count: counted.reduce((sum, { count }) => sum + count, 0), since },
      'refusals were only counted',
    );
    const events = counted.map(
      ({ network, count, kinds }): NewEvent => ({
        type: 'access.counted',
        subjectId: null,
        ownerId: null,
        data: { count, since, kinds },
        actor: network === undefined ? {} : { address: network },
        result: 'refused',
      }),
    );
    void write(events, { counted });
  }

  return {
    note(req, { type = 'access', action, code, subjectId }) {
      if (lines.has(req)) return;
      beginWindow();
      const how = counts.take(networkOf(req.ip), `${action} ${code}`);
      lines.set(req, Promise.resolve());
      if (how === 'counted') return;
      const event = {
        type,
        subjectId: subjectId ?? null,
        ownerId: null,
        // That what follows does not stand here by itself is said in the last one that does.
        data: { action, code, method: req.method, ...(how === 'last' ? { nextAreCounted: true } : {}) },
        actor: actorOf(req),
        result: 'refused',
      } as const;
      lines.set(req, write([event], { requestId: req.id }));
    },
    async whenWritten(req) {
      const line = lines.get(req);
      if (!line) return;
      await within(WRITE_WITHIN_MS, line, 'event log').catch(() => {});
    },
    async flush() {
      endWindow();
      await Promise.all(writing);
    },
  };
}
