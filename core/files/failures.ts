import type { File, Problem } from '../database/entities/file.js';

/* Why the processing of a file failed, for people. */

/** Failures of the file itself, by the code of the problem. */
const FAULTS = new Map(
  Object.entries({
    infected: 'A virus was found in the file, so nobody can open it here.',
    size_mismatch: 'Not all of the file is stored. Please upload it again.',
    checksum_mismatch: 'The file has changed on its way here. Please upload it again.',
    corrupted: 'The stored bytes of the file have changed. Please upload it again.',
    not_found: 'The stored bytes of the file are missing. Please upload it again.',
    type_not_allowed: 'Files of this type are not accepted here.',
    too_large: 'The file is larger than files of its type may be here.',
    unreadable: 'The content cannot be read: the file may be damaged, or of a format that is not supported.',
    damaged: 'The file is damaged or incomplete.',
    too_many_pixels: 'The image has too many pixels.',
    too_large_to_scan: 'The file is too large to be scanned for viruses, so nobody can open it here.',
    too_much_memory: 'The file is too large to be decoded here.',
  }),
);

/** Failures that may pass. */
const TROUBLES = new Map(
  Object.entries({
    took_too_long: 'The processing took too long.',
    parser_died: 'A program that reads the file broke down.',
    scan_failed: 'The file could not be scanned for viruses.',
    unavailable: 'The storage could not be reached.',
    storage_full: 'There was no room left on the server.',
    delivery_refused: 'The file could not be delivered to where it belongs.',
    internal: 'The processing failed unexpectedly.',
  }),
);

/** The problem in sentences that the owner of the file understands, without anything of the server's inside. */
export function explain({ code }: Pick<Problem, 'code'>, status: File['status']): string {
  const fault = FAULTS.get(code);
  if (fault) return fault;
  const isTriedAgain = status === 'processing' || status === 'pending';
  const next = isTriedAgain ? 'It will be tried again by itself.' : 'Start the processing again later.';
  return `${TROUBLES.get(code) ?? 'The processing failed.'} ${next}`;
}
