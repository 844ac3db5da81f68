import type { Blob } from '../../core/database/entities/blob.js';
import type { File } from '../../core/database/entities/file.js';
import type { Facts } from '../../core/files/steps.js';
import type { Logger } from '../../core/log.js';
import type { ByteSource, Parsers } from '../../core/media/parsers.js';

/** What is known of a file when a step begins: its row with the facts of the steps before. */
export type KnownFile = Readonly<
  Pick<File, 'id' | 'filename' | 'size' | 'declaredType' | 'detectedType' | 'expectedSha256' | 'allowedTypes'>
>;

/** All that a step may use. */
export interface StepContext {
  file: KnownFile;
  source: ByteSource;
  parsers: Parsers;
  /** Stores the bytes of a derivative durably. */
  writeBlobs(contents: Uint8Array[]): Promise<Blob[]>;
  signal: AbortSignal;
  log: Logger;
}

/** Looks at the bytes of a file as they go by in the one read that all such steps share. */
export interface StreamStep {
  name: string;
  begin(
    file: KnownFile,
    tools: Pick<StepContext, 'parsers' | 'signal'>,
  ): { push(chunk: Buffer): void; end(): Promise<Facts> | Facts };
}

/** Works on a file that was found clean. */
export interface Step {
  name: string;
  /** Whether the file is as good as without it: then a failure for good is a warning. */
  optional: boolean;
  /** Why there is nothing to do for this file; undefined if there is. */
  skips(file: KnownFile): string | undefined;
  run(context: StepContext): Promise<Facts>;
}
