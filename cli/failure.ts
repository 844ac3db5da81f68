import { printable } from './text.js';

/** How a command ends. docs/command-line.md lists these codes; scripts rely on them. */
export const EXIT = {
  failed: 1,
  usage: 2,
  unauthorised: 3,
  rejected: 4,
  unavailable: 5,
  interrupted: 130,
  terminated: 143,
} as const;

type ExitCode = (typeof EXIT)[keyof typeof EXIT];

/** What the server said about a request that failed. */
interface Answered {
  status?: number;
  code?: string | undefined;
  requestId?: string | undefined;
  /** Seconds after which the request may be sent again. */
  retryAfter?: number | undefined;
}

/** An error that the user sees as it is, with the exit code that it leads to. */
export class Failure extends Error {
  override name = 'Failure';
  readonly exitCode: ExitCode;
  readonly answered: Answered;

  constructor(exitCode: ExitCode, message: string, answered: Answered = {}) {
    super(message);
    this.exitCode = exitCode;
    this.answered = answered;
  }

  /** For a terminal. The request id finds the request in the log of the server. */
  toText(): string {
    const { requestId } = this.answered;
    return requestId ? `${this.message} (request ${requestId})` : this.message;
  }

  /** For scripts. */
  toJson(): object {
    const { status, code, requestId } = this.answered;
    return { exitCode: this.exitCode, detail: this.message, status, code, requestId };
  }
}

/** The parts of an answer that explain a failure; both fetch() and tus-js-client have them. */
interface FailedAnswer {
  status: number;
  header(name: string): string | null | undefined;
  body: string;
}

const MAX_DETAIL = 500;

/** The failure that an answer reports: a problem (RFC 9457), or plain text in tus. */
export function failureOf({ status, header, body }: FailedAnswer): Failure {
  const problem = readProblem(body);
  const plain = header('Content-Type')?.startsWith('text/plain') ? body.trim() : '';
  const detail = problem.detail ?? problem.title ?? (plain || `The server answered with ${status}`);
  const retryAfter = Number(header('Retry-After') ?? Number.NaN);
  return new Failure(exitCodeOf(status, problem.code), printable(detail).slice(0, MAX_DETAIL), {
    status,
    code: problem.code,
    requestId: header('X-Request-Id') ?? undefined,
    retryAfter: Number.isFinite(retryAfter) ? retryAfter : undefined,
  });
}

/** The server refuses these codes of 403 whoever asks. */
const REFUSALS: (string | undefined)[] = ['infected', 'refused'];

function exitCodeOf(status: number, code: string | undefined): ExitCode {
  if (status === 401 || (status === 403 && !REFUSALS.includes(code))) return EXIT.unauthorised;
  if ([403, 413, 415, 422].includes(status)) return EXIT.rejected;
  if (status >= 500 || status === 423 || status === 429) return EXIT.unavailable;
  return EXIT.failed;
}

function readProblem(body: string): { detail?: string; title?: string; code?: string } {
  try {
    const { detail, title, code } = JSON.parse(body);
    const texts = { detail, title, code };
    return Object.fromEntries(Object.entries(texts).filter(([, text]) => typeof text === 'string'));
  } catch {
    return {};
  }
}

/** The failure of a request that got no answer. */
export function unreachable(server: string, error: unknown): Failure {
  const { cause = error } = (error ?? {}) as { cause?: unknown };
  const { code, message } = (cause ?? {}) as { code?: string; message?: string };
  const hint = /CERT|SELF_SIGNED|VERIFY|ISSUER/.test(code ?? '')
    ? '; NODE_EXTRA_CA_CERTS may name a file with further certificates'
    : '';
  return new Failure(
    EXIT.unavailable,
    `${server} does not answer (${code ?? message ?? 'no reason given'}${hint})`,
  );
}

/** Any thrown value as a failure. A fault of this program shows its message, never its stack. */
export function toFailure(error: unknown): Failure {
  if (error instanceof Failure) return error;
  const { message = String(error) } = (error ?? {}) as { message?: string };
  return new Failure(EXIT.failed, printable(message));
}

/**
 * The exit code of a command about several files. A script reads in it what to do next: 5, the same command may succeed
 * later; 4, it will not.
 */
export function worstOf(failures: Failure[]): number {
  return Math.max(0, ...failures.map(({ exitCode }) => exitCode));
}
