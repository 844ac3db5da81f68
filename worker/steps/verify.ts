import { createHash } from 'node:crypto';
import { AppError } from '../../core/errors.js';
import type { KnownFile, StreamObserver, StreamStep } from './step.js';

/** Compares the stored bytes with the upload: their number, and their SHA-256 if the client gave one. */
export function createVerifyStep(): StreamStep {
  return { name: 'verify', begin: beginVerifying };
}

function beginVerifying(file: KnownFile): StreamObserver {
  const hash = createHash('sha256');
  let size = 0;
  return {
    push(chunk) {
      hash.update(chunk);
      size += chunk.length;
    },
    end() {
      if (size !== file.size) {
        const detail = `${size} bytes are stored; ${file.size} were sent`;
        return { outcome: 'failed', error: new AppError('size_mismatch', { detail }) };
      }
      const sha256 = hash.digest('hex');
      if (file.expectedSha256 && file.expectedSha256 !== sha256) {
        const detail = `The SHA-256 is ${sha256}; the client announced ${file.expectedSha256}`;
        return { outcome: 'failed', error: new AppError('checksum_mismatch', { detail }) };
      }
      // It was read before, and its bytes have changed since. They must not pass for the right ones now.
      if (file.sha256 && file.sha256 !== sha256) {
        const detail = `The SHA-256 of the stored bytes is ${sha256}; it was ${file.sha256}`;
        return { outcome: 'failed', error: new AppError('corrupted', { detail }) };
      }
      return { outcome: 'done', facts: { sha256 } };
    },
  };
}
