import { soonText } from './format.js';

/** An answer with an error status. Its message is meant for users. */
export class ApiError extends Error {
  override name = 'ApiError';

  constructor(
    readonly status: number,
    message: string,
    /** The code of a problem document; undefined if a proxy has answered. */
    readonly code: string | undefined,
    /** How long the server asks clients to wait before the next attempt, if it does. */
    readonly retryAfterMs: number | undefined,
  ) {
    super(message);
  }

  static async from(response: Response): Promise<ApiError> {
    const problem: { code?: unknown; detail?: unknown; title?: unknown } = await response
      .json()
      .catch(() => ({}));
    const message = [problem.detail, problem.title].find((text) => typeof text === 'string' && text !== '');
    return new ApiError(
      response.status,
      message === undefined ? `The server answered ${response.status}` : String(message),
      typeof problem.code === 'string' ? problem.code : undefined,
      readRetryAfter(response.headers.get('retry-after')),
    );
  }
}

/** The header Retry-After, in seconds or as a date (RFC 9110, 10.2.3), in milliseconds from now. */
export function readRetryAfter(value: string | null | undefined): number | undefined {
  if (!value) return undefined;
  const ms = /^\d+$/.test(value) ? Number(value) * 1000 : Date.parse(value) - Date.now();
  return Number.isFinite(ms) ? Math.max(0, ms) : undefined;
}

/** The explanation of an error for users. */
export function explain(error: unknown): string {
  if (!(error instanceof ApiError)) return 'The server cannot be reached.';
  if (error.status !== 429) return error.message;
  const when = error.retryAfterMs === undefined ? 'later' : soonText(error.retryAfterMs);
  return `There were too many attempts. Try again ${when}.`;
}
