/** Every error code that an answer may carry, with its HTTP status and title (RFC 9457). Codes are stable. */
const ERRORS = {
  invalid_request: [400, 'The request is not valid'],
  unauthenticated: [401, 'Sign in first'],
  wrong_credentials: [401, 'E-mail or password is wrong'],
  forbidden: [403, 'Not allowed'],
  registration_closed: [403, 'Registration is not open'],
  refused: [403, 'Refused by this server'],
  user_agent_denied: [403, 'Not served to this program'],
  infected: [403, 'The file is infected'],
  not_found: [404, 'Not found'],
  method_not_allowed: [405, 'Method not allowed'],
  request_timeout: [408, 'The request took too long'],
  email_taken: [409, 'The e-mail address is taken'],
  not_ready: [409, 'The file is not ready yet'],
  wrong_state: [409, 'Not possible in the present state'],
  incomplete: [409, 'Parts of the upload are missing'],
  not_direct: [409, 'Bytes cannot be sent to the storage itself'],
  key_in_use: [409, 'The first request with this Idempotency-Key is being handled'],
  outcome_unknown: [409, 'The outcome of the first request with this Idempotency-Key is not known'],
  offset_conflict: [409, 'Upload-Offset conflict'],
  gone: [410, 'No longer available'],
  precondition_failed: [412, 'A condition of the request does not hold'],
  unsupported_version: [412, 'Unsupported tus version'],
  too_large: [413, 'Too large'],
  quota_exceeded: [413, 'The quota is used up'],
  unsupported_media_type: [415, 'Unsupported media type'],
  range_not_satisfiable: [416, 'Range not satisfiable'],
  key_reused: [422, 'The Idempotency-Key came with another request before'],
  size_mismatch: [422, 'The stored size is not the one that was sent'],
  checksum_mismatch: [422, 'The checksum does not fit'],
  unreadable: [422, 'The content cannot be read'],
  damaged: [422, 'The content is damaged or cut off'],
  step_failed: [422, 'A step of this installation has failed'],
  too_many_pixels: [422, 'The image has too many pixels'],
  took_too_long: [422, 'Reading the content took too long'],
  too_much_memory: [422, 'Reading the content took too much memory'],
  too_large_to_scan: [422, 'Too large to be scanned'],
  type_not_allowed: [422, 'This type of file is not allowed'],
  locked: [423, 'The upload is in use'],
  rate_limited: [429, 'Too many requests'],
  headers_too_large: [431, 'The headers are too large'],
  chunk_mismatch: [460, 'Checksum Mismatch'],
  internal: [500, 'Internal error'],
  scan_failed: [500, 'The file could not be scanned'],
  corrupted: [500, 'The stored bytes have changed'],
  parser_died: [500, 'The process that read the content died'],
  hook_unusable: [502, 'The hook of this server asks for something that cannot be done'],
  delivery_refused: [502, 'The file cannot be delivered'],
  unavailable: [503, 'Temporarily unavailable'],
  storage_full: [507, 'No space left'],
} as const satisfies Record<string, readonly [status: number, title: string]>;

export type ErrorCode = keyof typeof ERRORS;

/**
 * An error that clients see. `detail` is shown to them unchanged: say what was wrong and what would be right, and
 * never include a path, SQL or another user's data. `cause` goes to the log only.
 */
export class AppError extends Error {
  override name: string = 'AppError';
  readonly code: ErrorCode;
  readonly detail: string | undefined;
  /** Whether the same call may succeed later without any change. */
  readonly retryable: boolean;

  constructor(code: ErrorCode, options: { detail?: string; cause?: unknown; retryable?: boolean } = {}) {
    super(options.detail ?? ERRORS[code][1], { cause: options.cause });
    this.code = code;
    this.detail = options.detail;
    this.retryable = options.retryable ?? false;
  }

  get status(): number {
    return ERRORS[this.code][0];
  }

  get title(): string {
    return ERRORS[this.code][1];
  }
}

/** Whether `error` has the given errno or SQLSTATE code (`ENOENT`, `23505`, …). */
export function hasCode(error: unknown, code: string): boolean {
  return typeof error === 'object' && error !== null && 'code' in error && error.code === code;
}
