import { randomBytes } from 'node:crypto';
import { isConflict, isDatabaseAway } from '../../database/outage.js';
import { AppError } from '../../errors.js';
import { BytesLost, type CommitTime, type Progress, type StoredUpload } from '../storage.js';
import type { Held } from './held.js';
import { type Body, S3Unavailable } from './http-put.js';
import { Journal, type Step } from './journal.js';
import { isMissing, type ObjectStore } from './operations.js';
import type { NextStep } from './plan.js';

/* Sends the steps of one request to the store, and commits them as journal.ts says. */

/** Steps that are sent at a time. */
const MAX_IN_FLIGHT = 4;

/** Bytes, or time, after which stored steps are committed. */
const COMMIT_BYTES = 32 * 1024 ** 2;
const COMMIT_MS = 2_000;

/** How long steps may still take after a failure, or when another request waits, in milliseconds. */
const SETTLE_MS = 5_000;

export class Delivery {
  private readonly journal: Journal;
  private readonly underWay = new Map<Step, Promise<void>>();
  private commits = Promise.resolve();
  private isFinishing = false;
  /** Whether `failed` has aborted: a plain field, because it is read for every chunk. */
  hasFailed = false;
  private lastCommit = Date.now();
  private reserving: Promise<void> | undefined;
  private readonly failure = new AbortController();
  private readonly giveUp = new AbortController();

  /** @param onChange called when a step may begin that could not begin before */
  constructor(
    private readonly objects: ObjectStore,
    private readonly upload: StoredUpload,
    private readonly commit: (progress: Progress) => Promise<void>,
    private readonly onChange: () => void,
    time?: CommitTime,
  ) {
    this.journal = new Journal(upload, time);
  }

  /** The upload as it will be when all steps that have begun have succeeded. */
  get planned() {
    return this.journal.planned;
  }

  /** Aborts at the first failure: nothing more can be stored. */
  get failed(): AbortSignal {
    return this.failure.signal;
  }

  /** From now on the steps have only a few seconds left. */
  hurry(): void {
    setTimeout(() => this.giveUp.abort(), SETTLE_MS).unref();
  }

  /** @param error is what finish() throws */
  fail(error: unknown): void {
    if (this.hasFailed) return;
    this.hasFailed = true;
    this.hurry();
    this.failure.abort(toAppError(error));
    this.onChange();
  }

  /** Whether a step of this kind may begin. If it needs a part number, one is being reserved. */
  isReady(kind: NextStep['kind']): boolean {
    if (kind === 'part') this.reserve();
    return this.underWay.size < MAX_IN_FLIGHT && (kind !== 'part' || this.journal.hasNumber());
  }

  /** Makes sure that there is a multipart upload, and that a part number is reserved for it. */
  reserve(): void {
    if (this.journal.hasNumber() || this.hasFailed) return;
    this.reserving ??= this.makeNumbers()
      .catch((error: unknown) => {
        this.journal.strayed();
        this.fail(error);
      })
      .finally(() => {
        this.reserving = undefined;
        this.onChange();
      });
  }

  private async makeNumbers(): Promise<void> {
    if (this.planned.state.multipartId === null) {
      this.journal.opened(await this.objects.createMultipart(this.upload.key, this.giveUp.signal));
    }
    await this.commitStored();
  }

  /** Begins a step, when isReady() says so. @param settled called when the bytes are not needed any more */
  begin(next: NextStep, held: Held, settled: () => void): void {
    const step = this.journal.begin(next, held.size, newKey(this.upload.key));
    const earlier = [...this.underWay.values()];
    const sent = this.send(step, held, earlier)
      .catch((error: unknown) => {
        this.journal.failed(step, !(error instanceof S3Unavailable) || error.uncertain);
        this.fail(error);
      })
      .finally(() => {
        this.underWay.delete(step);
        settled();
        this.commitIfDue();
        this.onChange();
      });
    this.underWay.set(step, sent);
  }

  private async send(step: Step, held: Held, earlier: Promise<void>[]): Promise<void> {
    const { kind, key, number, replaces, total } = step;
    // The segments may come from earlier steps of this request: they must be stored before they can be read.
    if (replaces.length > 0) await Promise.all(earlier);
    if (this.hasFailed) return;
    const own = held.body();
    const { signal } = this.giveUp;
    const body: Body = {
      size: total,
      chunks: replaces.length > 0 ? () => this.objects.join(replaces, own, signal) : own,
      isReadBack: replaces.length > 0,
      holdsMemory: Array.isArray(own),
    };
    if (kind === 'part') return this.journal.stored(step, await this.putPart(number, body));
    await this.objects.put(key, body, signal);
    this.journal.stored(step, '');
  }

  /** @throws {BytesLost} when the store has dropped the multipart upload with all its parts */
  private async putPart(number: number, body: Body): Promise<string> {
    const { key } = this.upload;
    const { signal } = this.giveUp;
    const multipartId = this.planned.state.multipartId ?? '';
    try {
      return await this.objects.putPart(key, multipartId, number, body, signal);
    } catch (error) {
      if (!isMissing(error)) throw error;
      await this.objects.listParts(key, multipartId, signal).catch((missing: unknown) => {
        if (!isMissing(missing)) throw missing;
        throw new BytesLost('The storage has lost this upload: begin it anew', error);
      });
      throw error;
    }
  }

  /** Commits when enough is stored, or when the last commit was long ago. */
  commitIfDue(): void {
    if (this.isFinishing) return;
    const bytes = this.journal.committable();
    if (bytes < COMMIT_BYTES && (bytes === 0 || Date.now() - this.lastCommit < COMMIT_MS)) return;
    void this.commitStored();
  }

  private commitStored(): Promise<void> {
    this.lastCommit = Date.now();
    return this.enqueue(() => this.journal.commit());
  }

  /** One commit at a time. Each takes all that is stored without a gap when it starts. */
  private enqueue(begin: () => Progress | undefined): Promise<void> {
    this.commits = this.commits.then(async () => {
      if (this.journal.isClosed) return;
      const progress = begin();
      if (!progress) return;
      try {
        await this.commit(progress);
        this.objects.deleteLater(this.journal.committedIt());
      } catch (error) {
        this.journal.commitFailed(error instanceof AppError);
        this.fail(error);
      }
    });
    return this.commits;
  }

  /** Waits for all steps and commits them. @throws the first error of a step or commit */
  async finish(): Promise<void> {
    await this.reserving;
    await Promise.all(this.underWay.values());
    // No commit may follow the last one, which gives part numbers back.
    this.isFinishing = true;
    await this.enqueue(() => this.journal.lastCommit(this.hasFailed));
    if (!this.hasFailed) return;
    this.objects.deleteLater(this.journal.leftovers());
    throw this.failed.reason;
  }
}

function toAppError(error: unknown): unknown {
  // Errors of the ledger's commits are passed on.
  if (error instanceof AppError || isDatabaseAway(error) || isConflict(error)) return error;
  return new AppError('unavailable', {
    detail: 'The storage does not answer',
    cause: error,
    retryable: true,
  });
}

/** A key that was never used before. */
export function newKey(uploadKey: string): string {
  return `${uploadKey}.${randomBytes(12).toString('hex')}`;
}
