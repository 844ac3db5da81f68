import type { File } from '../../core/database/entities/file.js';
import type { AppError } from '../../core/errors.js';
import type { Facts } from '../../core/files/steps.js';
import type { Logger } from '../../core/log.js';
import { IMAGES, isAllowedType, MEDIA } from '../../core/media/media-types.js';
import type { ParserSession } from '../../core/media/parsers.js';
import type { TaskName } from '../../core/media/tasks.js';
import type { WorkFolder } from '../work-folders.js';

/*
 * The interface of a step. Each file of this folder exports a function that makes a step from its dependencies; all.ts puts the
 * steps in their order.
 */

/** The facts known when a step begins: the row of the file with the results of earlier steps. */
export type KnownFile = Readonly<
  Pick<
    File,
    | 'id'
    | 'filename'
    | 'size'
    | 'declaredType'
    | 'detectedType'
    | 'expectedSha256'
    | 'allowedTypes'
    | 'settings'
    | 'sha256'
    | 'allowedTypes'
  >
>;

/** How a step ended. An error that a step throws is the outcome `failed` with this error. */
export type Outcome =
  | { outcome: 'done'; facts: Facts }
  | { outcome: 'skipped'; reason: string }
  /** `error.retryable` says whether another attempt may succeed. */
  | { outcome: 'failed'; error: AppError };

/**
 * An outside service answers: the file waits and takes no slot of the worker. The step must have called expectAnswer()
 * before it asked the service. The answer is recorded by answerStep(). When there is none at the deadline, the attempt
 * fails with `took_too_long`, and the next attempt runs the step again.
 */
export interface Later {
  outcome: 'later';
}

/** The tools of a step. */
export interface StepContext {
  file: KnownFile;
  /** Decodes the file in a parser process. All steps of an attempt share one read of the object. */
  decode: ParserSession['run'];
  /** The same for a task that needs only the first HEAD bytes of a larger object, and its end. They follow on each other. */
  decodeEnds: ParserSession['run'];
  /**
   * Runs something in a folder on local disk with a copy of the content, for programs that read files.
   * @throws {StorageFull} when there is no room for the copy; the signal's reason; what `run` throws
   */
  useFolder<T>(run: (folder: WorkFolder) => Promise<T>): Promise<T>;
  /**
   * Records that an outside service will answer until the deadline. Call it before asking the service: an answer to a
   * step that does not wait is dropped. A further call puts off the deadline.
   * @returns the name of the question, which the answer must bear
   * @throws {AttemptOver}
   */
  expectAnswer(deadline: Date): Promise<string>;
  /** Shows how much of the step is done, from 0 to 1. Not every call is written down. */
  progress(share: number): void;
  signal: AbortSignal;
  log: Logger;
}

/** Observes the bytes of a file during the one read that all such steps share. */
export interface StreamStep {
  name: string;
  /** @param signal aborts when the observer is needed no longer: the read has ended or broken off, or the job must stop */
  begin(file: KnownFile, signal: AbortSignal): StreamObserver;
}

export interface StreamObserver {
  /** @returns a promise: the observer is busy, and the read waits for it. It rejects when the step has failed. */
  push(chunk: Buffer): Promise<void> | void;
  /** The stream has ended. */
  end(): Promise<Outcome> | Outcome;
}

/** Works on a file that was found clean. */
export interface Step {
  name: string;
  /** Whether the file is usable without this step: then a final failure becomes a warning. */
  optional: boolean;
  /** The detected types that the step is for; undefined: it is for every file. */
  only?: TypeFilter;
  /** Why a file of these types is skipped all the same; undefined: it is not. */
  skips?(file: KnownFile): string | undefined;
  /** The parser tasks that it may run, in this order; or those for a detected type. */
  decodes?: readonly TaskName[] | ((type: string) => readonly TaskName[]);
  /** Names of derivatives that the file loses if this step does not make them again when the file is processed again. */
  makes?: readonly string[];
  run(context: StepContext): Promise<Outcome | Later>;
}

export interface TypeFilter {
  accepts(type: string): boolean;
  /** Why the step is skipped for other types. */
  otherwise: string;
}

export const ONLY_IMAGES: TypeFilter = {
  accepts: (type) => isAllowedType(type, [IMAGES]),
  otherwise: 'not an image',
};

export const ONLY_MEDIA: TypeFilter = {
  accepts: (type) => isAllowedType(type, MEDIA),
  otherwise: 'neither sound nor video',
};

/** All steps in their order. */
export interface Steps {
  /** Share one read of the object. */
  reading: readonly StreamStep[];
  /** Run one after the other, if the file is clean. */
  decoding: readonly Step[];
}
