import type { Request } from 'express';
import type { DataSource } from 'typeorm';
import { AppError, type ErrorCode } from '../../core/errors.js';
import { appendEvents } from '../../core/events.js';
import type { Logger } from '../../core/log.js';
import { actorOf } from './principal.js';

/** A request that is turned away for want of rights, or of room. */
export interface Refusal {
  /** What it wanted to do: an action of can(), or a bucket of the rate limits. */
  action: string;
  code: ErrorCode;
  /** What it wanted to do it to. */
  subjectId?: string | undefined;
}

export interface Refusals {
  /** Writes it into the event log, without holding the answer up. */
  note(req: Request, refusal: Refusal): void;
  /** Waits for what is being written. */
  whenIdle(): Promise<void>;
}

/** Errors that are refusals wherever they come from, and what was wanted. */
const REFUSING: Partial<Record<ErrorCode, string>> = {
  quota_exceeded: 'upload',
  type_not_allowed: 'upload',
  registration_closed: 'register',
};

/** Notes an error that an answer is made of, if it is a refusal that nobody has noted where it was thrown. */
export function noteIfRefused(refusals: Refusals, req: Request, error: unknown): void {
  if (!(error instanceof AppError)) return;
  const action = REFUSING[error.code];
  if (action) refusals.note(req, { action, code: error.code });
}

/** Nobody may fill the log by being refused: so many are written a minute, in all and of one address. */
const MAX_A_MINUTE = 600;
const MAX_OF_ADDRESS = 60;

export function createRefusals({ database, log }: { database: DataSource; log: Logger }): Refusals {
  const writing = new Set<Promise<void>>();
  let minute = 0;
  let noted = 0;
  let ofAddress = new Map<string, number>();

  function isTooMuch(address: string): boolean {
    const now = Math.floor(Date.now() / 60_000);
    if (now !== minute) {
      minute = now;
      noted = 0;
      ofAddress = new Map();
    }
    const count = (ofAddress.get(address) ?? 0) + 1;
    ofAddress.set(address, count);
    return count > MAX_OF_ADDRESS || ++noted > MAX_A_MINUTE;
  }

  return {
    note(req, { action, code, subjectId }) {
      const actor = actorOf(req);
      if (isTooMuch(actor.address ?? '')) {
        log.warn({ action, code, requestId: req.id }, 'refused; too many for the event log');
        return;
      }
      const event = {
        type: 'access',
        subjectId: subjectId ?? null,
        ownerId: null,
        data: { action, code, method: req.method },
        actor,
        result: 'refused',
      } as const;
      const written = appendEvents(database.manager, [event])
        .catch((error: unknown) => log.warn({ err: error, requestId: req.id }, 'refusal not written down'))
        .finally(() => writing.delete(written));
      writing.add(written);
    },
    async whenIdle() {
      await Promise.all(writing);
    },
  };
}
