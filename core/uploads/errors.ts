import { AppError } from '../errors.js';

/* Outcomes of ledger calls that callers tell apart. Each is also the answer that a client gets. */

/** Another process has taken the lease, or the upload has ended: the statement has changed nothing. */
export class LeaseLost extends AppError {
  override name = 'LeaseLost';
  constructor() {
    super('locked', { detail: 'Another request has taken over this upload', retryable: true });
  }
}

/** The upload has expired or was terminated: it never becomes a file. */
export class UploadEnded extends AppError {
  override name = 'UploadEnded';
  constructor(cause?: unknown) {
    super('gone', { detail: 'This upload was ended', cause });
  }
}
