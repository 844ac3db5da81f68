import { createHash, timingSafeEqual } from 'node:crypto';

/** Whether an Authorization header holds the token. Takes the same time for every wrong one. */
export function hasToken(header: string | undefined, token: string): boolean {
  const [, given = ''] = /^Bearer +(\S+)$/i.exec(header ?? '') ?? [];
  return timingSafeEqual(hash(given), hash(token));
}

const hash = (text: string) => createHash('sha256').update(text).digest();
