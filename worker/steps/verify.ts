import { createHash } from 'node:crypto';
import { AppError } from '../../core/errors.js';
import type { StreamStep } from './step.js';

/** Compares the stored bytes with the upload: their number, and their SHA-256 if the client gave one. */
export const verify: StreamStep = {
  name: 'verify',
  begin(file) {
    const hash = createHash('sha256');
    let size = 0;
    return {
      push(chunk) {
        hash.update(chunk);
        size += chunk.length;
      },
      end() {
        if (size !== file.size) {
          throw new AppError('size_mismatch', { detail: `${size} bytes are stored; ${file.size} were sent` });
        }
        const sha256 = hash.digest('hex');
        if (file.expectedSha256 && file.expectedSha256 !== sha256) {
          throw new AppError('checksum_mismatch', {
            detail: `The SHA-256 is ${sha256}; the client announced ${file.expectedSha256}`,
          });
        }
        return { sha256 };
      },
    };
  },
};
