import type { Request } from 'express';
import type { DataSource } from 'typeorm';
import { within } from '../../core/concurrency.js';
import { AppError, type ErrorCode } from '../../core/errors.js';
import { appendEvents, type EventType } from '../../core/events.js';
import type { Logger } from '../../core/log.js';
import { networkOf } from '../network.js';
import { actorOf } from './principal.js';

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
  /** Writes it into the event log. A request is refused once, for its first reason. */
  note(req: Request, refusal: Refusal): void;
  /** Waits for what was noted of a request, so that who has the answer finds it in the log; at most three seconds. */
  whenWritten(req: Request): Promise<void>;
  /** Waits for all that is being written. */
  whenIdle(): Promise<void>;
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

/** Nobody may fill the log by being refused: so many are written a minute, in all and of one address, by one server. */
const MAX_A_MINUTE = 600;
const MAX_OF_ADDRESS = 60;

/** No answer waits for longer than this for a database that hangs. */
const WRITE_WITHIN_MS = 3000;

export function createRefusals({ database, log }: { database: DataSource; log: Logger }): Refusals {
  const writing = new Set<Promise<void>>();
  const lines = new WeakMap<Request, Promise<void>>();
  let minute = 0;
  let warned = 0;
  let noted = 0;
  let ofAddress = new Map<string, number>();

  /** How many more may be written of this address in this minute; less than 0: not even this one. */
  function countDown(address: string): number {
    const now = Math.floor(Date.now() / 60_000);
    if (now !== minute) {
      minute = now;
      noted = 0;
      ofAddress = new Map();
    }
    // Nothing more is counted, and so nothing more remembered.
    if (noted >= MAX_A_MINUTE) return -1;
    const count = (ofAddress.get(address) ?? 0) + 1;
    ofAddress.set(address, count);
    if (count <= MAX_OF_ADDRESS) noted++;
    return Math.min(MAX_OF_ADDRESS - count, MAX_A_MINUTE - noted);
  }

  return {
    note(req, { type = 'access', action, code, subjectId }) {
      if (lines.has(req)) return;
      lines.set(req, Promise.resolve());
      const actor = actorOf(req);
      const left = countDown(networkOf(req.ip));
      if (left < 0) {
        if (minute !== warned) log.warn('too many refusals for the event log in this minute');
        warned = minute;
        return;
      }
      const event = {
        type,
        subjectId: subjectId ?? null,
        ownerId: null,
        // That the log is silent about what follows is said in it.
        data: { action, code, method: req.method, ...(left === 0 ? { lastOfMinute: true } : {}) },
        actor,
        result: 'refused',
      } as const;
      const written = appendEvents(database.manager, [event])
        .catch((error: unknown) => log.warn({ err: error, requestId: req.id }, 'refusal not written down'))
        .finally(() => writing.delete(written));
      writing.add(written);
      lines.set(req, written);
    },
    async whenWritten(req) {
      const line = lines.get(req);
      if (!line) return;
      await within(WRITE_WITHIN_MS, line, 'event log').catch(() => {});
    },
    async whenIdle() {
      await Promise.all(writing);
    },
  };
}
