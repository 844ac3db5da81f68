import { AppError } from '../../core/errors.js';
import type { Scanner, ScanResult } from '../../core/scanning/scanner.js';
import type { Outcome, StreamStep } from './step.js';

interface ScanDeps {
  scanner: Scanner;
  /** What becomes of a file that is too large for the scanner. */
  oversize: 'fail' | 'allow';
}

/** Its `threat` names what the scan found; a file with a threat is never served. */
export function createScanStep({ scanner, oversize }: ScanDeps): StreamStep {
  return {
    name: 'scan',
    begin(file, signal) {
      const scan = scanner.begin(file.size, signal);
      return {
        push: scan.push,
        end: async () => judge(file.size, await scan.end(), oversize),
      };
    },
  };
}

function judge(size: number, { verdict, version }: ScanResult, oversize: ScanDeps['oversize']): Outcome {
  const metadata = scanMetadata(version);
  switch (verdict.kind) {
    case 'clean':
      return { outcome: 'done', facts: { clean: true, metadata } };
    case 'infected':
      return { outcome: 'done', facts: { clean: false, threat: verdict.threat, metadata } };
    case 'too_large': {
      const detail = `The virus scanner takes no file of this size (${size} bytes), or looks at a part of it only`;
      if (oversize === 'fail') {
        return { outcome: 'failed', error: new AppError('too_large_to_scan', { detail }) };
      }
      const warnings = [{ step: 'scan', code: 'not_scanned', detail }];
      return { outcome: 'done', facts: { clean: true, warnings } };
    }
  }
}

/** What the file's metadata tell of a scan. @param version see ScanResult */
export function scanMetadata(version: string | null): Record<string, unknown> {
  return version === null ? {} : { scan: { version, at: new Date().toISOString() } };
}
