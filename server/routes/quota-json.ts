import { type Quota, UNLIMITED } from '../../core/config.js';
import type { User } from '../../core/database/entities/user.js';
import { quotaOf } from '../../core/uploads/quota.js';

/**
 * The usage and quota of a user; null means no limit. @param defaults quota of users without one of their own
 */
export function quotaJson(user: User, defaults: Quota) {
  const { bytes, files } = quotaOf(user, defaults);
  const orNull = (value: number) => (value === UNLIMITED ? null : value);
  return {
    quota: { bytes: orNull(bytes), files: orNull(files) },
    usage: { bytes: user.usedBytes, files: user.usedFiles },
  };
}
