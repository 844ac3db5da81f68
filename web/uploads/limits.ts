import type { UploadInfoJson } from '../../server/answers/uploads.js';
import { sizeText } from '../format.js';

/* What the server takes, as far as the page can tell before it sends anything. */

export type Limits = Pick<UploadInfoJson, 'maxSize' | 'maxSizeByType'>;

/** The size that a file of this type may have, in bytes. The limit of a type comes before that of its range. */
export function largestSize({ maxSize, maxSizeByType }: Limits, type: string): number {
  const [plain = ''] = (type || 'application/octet-stream').toLowerCase().split(';');
  const range = plain.replace(/\/.*/, '/*');
  const own = [plain.trim(), range.trim()]
    .map((one) => maxSizeByType.find((limit) => limit.type === one)?.maxSize)
    .find((size) => size !== undefined);
  return Math.min(maxSize, own ?? maxSize);
}

/** Why the server would refuse this file; undefined: nothing is against it. */
export function refusalOf(
  limits: Limits,
  { size, type }: { size: number; type: string },
): string | undefined {
  const largest = largestSize(limits, type);
  if (size <= largest) return undefined;
  const kind = largest < limits.maxSize ? ` of this type (${type})` : '';
  return `Too large: ${sizeText(size)}. Files${kind} may have up to ${sizeText(largest)}.`;
}
