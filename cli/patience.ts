import type * as tus from 'tus-js-client';
import type { Credentials } from './credentials.js';
import { EXIT, Failure, failureOf, toFailure, unreachable } from './failure.js';

/* After which failures an upload goes on, and for how long. */

/** What all uploads of a process have in common. */
export interface Gate {
  /** No request before this time, in milliseconds since 1970: the server has said so. */
  notBefore: number;
  /** Whether the server has answered at all. */
  answered: boolean;
}

/** The patience of one upload. */
export interface Patience {
  /** The farthest byte that was sent so far. */
  reached(bytes: number): void;
  /** @throws {Failure} when the answer is an error */
  look(request: tus.HttpRequest, answer: tus.HttpResponse): void;
  /** Whether to try again after this error of tus-js-client. */
  isNotOver(error: Error): boolean;
  /** The failure behind an error of tus-js-client. */
  explain(error: Error): Failure;
}

/** Statuses of 4xx after which the same upload can go on. */
const PASSING = [408, 409, 423, 429];

/** A fresh token that is refused as well is the last one. */
const MAX_REFUSED_TOKENS = 2;

interface PatienceDeps {
  server: string;
  credentials: Credentials;
  gate: Gate;
  /** How long to try again without any progress. */
  retrySeconds: number;
}

export function openPatience({ server, credentials, gate, retrySeconds }: PatienceDeps): Patience {
  let farthest = -1;
  let lastProgress = Date.now();
  let refusedTokens = 0;

  function noteRefusal(request: tus.HttpRequest, { answered }: Failure, isExpired: boolean): void {
    const wait = 1000 * (answered.retryAfter ?? 0);
    gate.notBefore = Math.max(gate.notBefore, Date.now() + wait);
    // The server asks for patience, so that this is no time without progress.
    if (answered.status === 429) lastProgress = Date.now() + wait;
    if (answered.status !== 401 && !isExpired) return;
    const token = request.getHeader('Authorization')?.replace('Bearer ', '') ?? '';
    refusedTokens += credentials.refuse(token) ? 1 : MAX_REFUSED_TOKENS;
  }

  function explain(error: Error): Failure {
    const { causingError } = error as Partial<tus.DetailedError>;
    if (!causingError) return toFailure(error);
    return causingError instanceof Failure ? causingError : unreachable(server, causingError);
  }

  return {
    explain,
    reached(bytes) {
      if (bytes <= farthest) return;
      farthest = bytes;
      lastProgress = Date.now();
    },
    look(request, answer) {
      gate.answered = true;
      const status = answer.getStatus();
      if (status < 400) {
        refusedTokens = 0;
        return;
      }
      // tus-js-client creates another upload then.
      if (request.getMethod() === 'HEAD' && [404, 410].includes(status)) return;
      const header = (name: string) => answer.getHeader(name);
      const failure = failureOf({ status, header, body: answer.getBody() });
      noteRefusal(request, failure, header('WWW-Authenticate')?.includes('invalid_token') ?? false);
      // Otherwise tus-js-client would take most errors of a HEAD for the loss of the upload, and send all of it again.
      throw failure;
    },
    isNotOver(error) {
      const { exitCode, answered } = explain(error);
      const { status } = answered;
      if (status === undefined && (!gate.answered || exitCode !== EXIT.unavailable)) return false;
      if (status === 401 && refusedTokens >= MAX_REFUSED_TOKENS) return false;
      const passes = status === undefined || status >= 500 || status === 401 || PASSING.includes(status);
      return passes && Date.now() - lastProgress < retrySeconds * 1000;
    },
  };
}
