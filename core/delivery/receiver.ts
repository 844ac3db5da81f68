import { AppError } from '../errors.js';
import type { BlobSource } from '../files/blobs.js';
import type { DeliveredFile } from './template.js';

/* What a destination can do. One implementation for S3, one for folders. */

export interface Receiver {
  /**
   * Looks at a key.
   * @returns `own`: the whole file is there, delivered earlier; `taken`: something else is there
   * @throws {AppError} as put()
   */
  look(key: string, delivery: Delivery): Promise<'free' | 'own' | 'taken'>;
  /**
   * Copies the file to a key that is free. When this returns true, it is there and survives a power cut.
   * @returns false: something else has appeared at the key, and is still there
   * @throws {AppError} unavailable (retryable): the destination does not answer; delivery_refused; the errors of reading the
   * source; and the signal's reason
   */
  put(key: string, delivery: Delivery, attempt: DeliveryAttempt): Promise<boolean>;
}

export interface Delivery {
  file: DeliveredFile;
  source: BlobSource;
}

export interface DeliveryAttempt {
  /** What an attempt has left unfinished that was killed: a multipart upload or a temporary file, by its name. */
  unfinished: string | null;
  /** Records the name of what this attempt begins. */
  begin(unfinished: string): Promise<void>;
  signal: AbortSignal;
}

/** The destination gives no answer, or says that it is overloaded: a later attempt may succeed. */
export function destinationAway(name: string, why: string, cause: unknown): AppError {
  const detail = `The destination ${name} cannot be used at the moment: ${why}`;
  return new AppError('unavailable', { detail, cause, retryable: true });
}

/** The destination refuses: another attempt would fail too. */
export function deliveryRefused(name: string, why: string, cause?: unknown): AppError {
  return new AppError('delivery_refused', {
    detail: `The destination ${name} refuses the file: ${why}`,
    cause,
  });
}
