import { AppError } from '../../core/errors.js';

/* The problem types (RFC 9457) of the draft, and errors that this protocol treats in its own way. */

const TYPES = 'https://iana.org/assignments/http-problem-types#';

const TITLES = {
  'mismatching-upload-offset': 'Mismatching Upload Offset',
  'inconsistent-upload-length': 'Inconsistent Upload Length Values',
  'completed-upload': 'Upload Is Completed',
} as const;

/** An error whose answer has a problem type of the draft. */
export class UploadProblem extends AppError {
  override name = 'UploadProblem';
  readonly type: string;
  private readonly registeredTitle: string;
  /** Further members of the problem. */
  readonly members: Record<string, number> = {};
  /** Headers of the answer. */
  readonly headers: Record<string, string> = {};

  constructor(code: 'offset_conflict' | 'invalid_request', type: keyof typeof TITLES, detail: string) {
    super(code, { detail });
    this.type = TYPES + type;
    this.registeredTitle = TITLES[type];
  }

  override get title(): string {
    return this.registeredTitle;
  }
}

/** "The response MUST include the correct offset in the Upload-Offset header field." */
export class MismatchingOffset extends UploadProblem {
  override name = 'MismatchingOffset';
  override readonly members: Record<string, number>;
  override readonly headers: Record<string, string>;

  constructor(expected: number, provided: number) {
    super('offset_conflict', 'mismatching-upload-offset', `The offset of this upload is ${expected}`);
    this.members = { 'expected-offset': expected, 'provided-offset': provided };
    this.headers = { 'Upload-Offset': String(expected) };
  }
}

export class InconsistentLength extends UploadProblem {
  override name = 'InconsistentLength';
  constructor(detail: string) {
    super('invalid_request', 'inconsistent-upload-length', detail);
  }
}

/** The body is longer than what the upload still lacks. */
export class BeyondLength extends InconsistentLength {
  override name = 'BeyondLength';
  constructor(length: number | null) {
    super(`The body goes beyond the ${length} bytes that were announced`);
  }
}

/** "If the upload is already complete, the server MUST NOT modify the upload resource." */
export class CompletedUpload extends UploadProblem {
  override name = 'CompletedUpload';
  constructor() {
    super('invalid_request', 'completed-upload', 'This upload is already complete');
  }
}

/** The bytes of one request are not those of its Content-Digest: the upload itself can go on. */
export class ContentMismatch extends AppError {
  override name = 'ContentMismatch';
  constructor() {
    super('checksum_mismatch', {
      detail: 'The body does not fit Content-Digest: none of its bytes count; send it again',
    });
  }
}

/** The request was asked to let go in the middle of its body. */
export class LetGo extends AppError {
  override name = 'LetGo';
  constructor() {
    super('unavailable', {
      detail: 'This request was stopped: ask for the offset and go on',
      retryable: true,
    });
  }
}
