import type { File } from '../../core/database/entities/file.js';
import type { StoredBlob } from '../../core/files/blobs.js';
import type { Facts } from '../../core/files/steps.js';
import type { Logger } from '../../core/log.js';
import type { ByteSource, Parsers } from '../../core/media/parsers.js';

/** The facts known when a step begins: the row of the file with the results of earlier steps. */
export type KnownFile = Readonly<
  Pick<File, 'id' | 'filename' | 'size' | 'declaredType' | 'detectedType' | 'expectedSha256' | 'allowedTypes'>
>;

/** The tools of a step. */
export interface StepContext {
  file: KnownFile;
  source: ByteSource;
  parsers: Parsers;
  /** Stores the bytes of a derivative durably. */
  writeBlobs(contents: Uint8Array[]): Promise<StoredBlob[]>;
  signal: AbortSignal;
  log: Logger;
}

/** Observes the bytes of a file during the one read that all such steps share. */
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
  /** Whether the file is usable without this step: then a final failure becomes a warning. */
  optional: boolean;
  /** Why this file does not need the step; undefined if it does. */
  skips(file: KnownFile): string | undefined;
  run(context: StepContext): Promise<Facts>;
}
