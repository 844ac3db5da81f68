import { AppError } from '../../errors.js';
import type { TaskInput } from '../task-input.js';
import { HEAD } from '../types.js';
import { readDirectory } from '../zip-directory.js';
import type { Description } from './description.js';
import { createListing } from './listing.js';

/**
 * Lists a ZIP archive by its directory. Nothing is decompressed.
 * @param input the whole, or the first HEAD bytes followed by the last bytes
 * @throws {AppError} unreadable
 */
export function describeZip({ bytes, size }: TaskInput): Description {
  const directory = readDirectory({ tail: bytes.length < size ? bytes.subarray(HEAD) : bytes });
  if (!directory) {
    throw new AppError('unreadable', {
      detail: 'The archive has no directory at its end: it is damaged or cut off',
    });
  }
  const { entries, count } = directory;
  const listing = createListing();
  for (const { name, size } of entries) listing.add(Buffer.from(name, 'latin1'), size);
  const isWhole = entries.length === count;
  // The number of an archive that is not zip64 is modulo 65,536.
  const isCounted = isWhole || entries.length % 65_536 === count;
  const encrypted = entries.some(({ isEncrypted }) => isEncrypted);
  if (isCounted) return listing.describe({ format: 'zip', encrypted });
  const isCut = bytes.length < size;
  return {
    ...listing.describe({
      format: 'zip',
      encrypted,
      entries: Math.max(count, entries.length),
      complete: false,
    }),
    warnings: isCut ? [] : [{ code: 'damaged', detail: 'The directory of the archive is damaged' }],
  };
}
