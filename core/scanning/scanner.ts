import { AppError } from '../errors.js';

/*
 * The seam of the virus scanners: simulated.ts, which is the default, and clamd.ts. The worker scans each new file with
 * one of them, and scans stored files again with the same one.
 */

export interface Scanner {
  /** Version of the engine and its signatures; null: it has none. @throws {AppError} unavailable when it does not answer */
  version(signal?: AbortSignal): Promise<string | null>;
  /**
   * Begins to scan the bytes of a file.
   * @param size bytes that will come
   * @param signal gives the scan up when it aborts
   */
  begin(size: number, signal: AbortSignal): Scan;
}

export interface Scan {
  /**
   * Takes the next bytes.
   * @returns a promise: the scanner is busy, and the caller reads nothing more until it resolves. It rejects as end()
   */
  push(chunk: Buffer): Promise<void> | undefined;
  /**
   * All bytes have come.
   * @throws {AppError} unavailable when the scanner does not answer; scan_failed when it could not scan the file
   * @throws {ScannerLost}
   */
  end(): Promise<ScanResult>;
}

export interface ScanResult {
  verdict: Verdict;
  /** As Scanner.version(), asked before the scan: the signatures that were used are at least as new. */
  version: string | null;
}

export type Verdict =
  | { kind: 'clean' }
  | { kind: 'infected'; threat: string }
  /** The scanner takes no file of this size, or has looked at a part of it only. */
  | { kind: 'too_large' };

/** The scanner went away while it scanned this file: it may have died of the file. */
export class ScannerLost extends AppError {
  override name = 'ScannerLost';
  constructor(cause?: unknown) {
    super('unavailable', {
      detail: 'The virus scanner went away during the scan',
      cause,
      retryable: true,
    });
  }
}
