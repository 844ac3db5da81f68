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

/** A request that was refused for lack of rights or of quota. */
export interface Refusal {
  /** Type of the event; `access` by default. */
  type?: EventType;
  /** The refused action: an action of can(), a bucket of the rate limits, or another name. */
  action: string;
  code: ErrorCode;
  /** Id of the thing that the request wanted to use or change. */
  subjectId?: string | undefined;
}

/** An error that says how its refusal is noted when the error is answered. */
export class RefusedError extends AppError {
  readonly refusal: Refusal;

  constructor(code: ErrorCode, refusal: Omit<Refusal, 'code'>, detail?: string) {
    super(code, detail === undefined ? {} : { detail });
    this.refusal = { ...refusal, code };
  }
}

export interface Refusals {
  /**
   * Appends the refusal to the event log or counts it (refusal-counts.ts). A request is noted only once, or once for each
   * thing that it wanted to use or change.
   */
  note(req: Request, refusal: Refusal): void;
  /** Waits at most three seconds, so that a client with the answer finds the refusal in the event log. */
  whenWritten(req: Request): Promise<void>;
  /** Writes the refusals that were only counted so far, and waits for all pending writes. */
  flush(): Promise<void>;
}

/** Errors that are always refusals, with the refused action. */
const REFUSING: Partial<Record<ErrorCode, Omit<Refusal, 'code'>>> = {
  quota_exceeded: { action: 'upload' },
  type_not_allowed: { action: 'upload' },
  registration_closed: { type: 'auth.register', action: 'register' },
  email_taken: { type: 'auth.register', action: 'register' },
};

/** Notes an error that is being answered, if it is a refusal that has not been noted yet. */
export function noteIfRefused(refusals: Refusals, req: Request, error: unknown): void {
  if (!(error instanceof AppError)) return;
  const { code } = error;
  const refusal = REFUSING[code];
  if (error instanceof RefusedError) refusals.note(req, error.refusal);
  else if (refusal) refusals.note(req, { ...refusal, code });
  // The token was valid but later proved useless, for example an upload token that was already used.
  else if (code === 'unauthenticated' && req.principal) refusals.note(req, { action: 'authenticate', code });
}

/** How often the counted refusals are written. */
const WINDOW_MS = 600_000;

/** The longest that an answer waits for a hanging database. */
const WRITE_WITHIN_MS = 3000;

export function createRefusals(
  { database, log }: { database: DataSource; log: Logger },
  windowMs = WINDOW_MS,
): Refusals {
  const writing = new Set<Promise<void>>();
  const lines = new WeakMap<Request, { subjects: Set<string | undefined>; written: Promise<void>[] }>();
  const counts = createRefusalCounts();
  let began: Date | undefined;

  /** Never rejects: if the event cannot be written, the log of this process reports it. */
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
      const noted = lines.get(req) ?? { subjects: new Set(), written: [] };
      // A refusal without a subject is about what was noted before.
      if (noted.subjects.has(subjectId) || (noted.subjects.size > 0 && subjectId === undefined)) return;
      noted.subjects.add(subjectId);
      lines.set(req, noted);
      beginWindow();
      const how = counts.take(networkOf(req.ip), `${action} ${code}`);
      if (how === 'counted') return;
      const event = {
        type,
        subjectId: subjectId ?? null,
        ownerId: null,
        // The last event that is written singly says that later refusals are only counted.
        data: { action, code, method: req.method, ...(how === 'last' ? { nextAreCounted: true } : {}) },
        actor: actorOf(req),
        result: 'refused',
      } as const;
      noted.written.push(write([event], { requestId: req.id }));
    },
    async whenWritten(req) {
      const { written = [] } = lines.get(req) ?? {};
      if (written.length === 0) return;
      await within(WRITE_WITHIN_MS, Promise.all(written), 'event log').catch(() => {});
    },
    async flush() {
      endWindow();
      await Promise.all(writing);
    },
  };
}
