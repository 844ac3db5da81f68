import type { UsageJson } from '../server/answers/account.js';
import { countText, sizeText } from './format.js';

const NEARLY = 0.9;

/** The used share of the quota: 0 to 1, or more if exceeded; 0 without a quota. */
function usedShares({ quota, usage }: UsageJson): { bytes: number; files: number } {
  return { bytes: shareOf(usage.bytes, quota.bytes), files: shareOf(usage.files, quota.files) };
}

function shareOf(used: number, most: number | null): number {
  if (most === null) return 0;
  return most === 0 ? 1 : used / most;
}

/** “1.5 of 10 GiB” and “3 of 100 files”; without a limit only the usage. */
export function usageTexts({ quota, usage }: UsageJson): { bytes: string; files: string } {
  return {
    bytes:
      quota.bytes === null ? sizeText(usage.bytes) : `${sizeText(usage.bytes)} of ${sizeText(quota.bytes)}`,
    files:
      quota.files === null
        ? countText(usage.files, 'file')
        : `${usage.files} of ${countText(quota.files, 'file')}`,
  };
}

/** The note in the upload area; empty while there is enough room. */
export function quotaNote(me: UsageJson): string {
  const shares = usedShares(me);
  const near = (['bytes', 'files'] as const).filter((name) => shares[name] >= NEARLY);
  if (near.length === 0) return '';
  const texts = usageTexts(me);
  const used = `${near.map((name) => texts[name]).join(' and ')} in use`;
  return near.some((name) => shares[name] >= 1)
    ? `Your quota is used up: ${used}. Delete something to upload more.`
    : `Your quota is nearly used up: ${used}.`;
}
