import { type Quota, UNLIMITED } from '../../core/config.js';
import type { User } from '../../core/database/entities/user.js';
import { quotaOf } from '../../core/uploads/quota.js';

/** What a user holds and may hold; null is without limit. @param defaults of users who have none of their own */
export function quotaJson(user: User, defaults: Quota) {
  const { bytes, files } = quotaOf(user, defaults);
  const orNull = (value: number) => (value === UNLIMITED ? null : value);
  return {
    quota: { bytes: orNull(bytes), files: orNull(files) },
    usage: { bytes: user.usedBytes, files: user.usedFiles },
  };
}
