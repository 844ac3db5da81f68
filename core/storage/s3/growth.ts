import { randomBytes } from 'node:crypto';
import { AppError } from '../../errors.js';
import type { Part, Progress, Segment, StoredUpload, UploadState } from '../storage.js';
import { BLOCK_SIZE, type BlockPool } from './blocks.js';
import { type Body, S3Unavailable } from './http-put.js';
import { isMissing, type ObjectStore } from './operations.js';

/*
 * The steps of an append: parts, segments and whole objects that are being sent to the store, in the order of their
 * bytes, and the commits that follow them in that order.
 *
 * Part numbers are reserved in the ledger before they are used (WINDOW beyond the last one), so no two leases ever use
 * the same number. A late write of a process that has lost its lease therefore cannot replace a committed part. At the
 * end the numbers that no process can have used are given back.
 */

/** Steps that are sent at a time. */
const MAX_IN_FLIGHT = 4;

/** Part numbers that are reserved at a time. */
const WINDOW = 12;

/** Bytes, or time, after which completed steps are committed. */
const COMMIT_BYTES = 32 * 1024 ** 2;
const COMMIT_MS = 2_000;

/** How long steps may still take after a failure, or when another request waits, in milliseconds. */
const SETTLE_MS = 5_000;

export interface GrowthDeps {
  objects: ObjectStore;
  pool: BlockPool;
}

/** Bytes to send to the store as one part, segment or object. */
interface NewStep {
  kind: 'part' | 'segment' | 'object';
  /** New bytes, in blocks of the pool; only the last one is not full. */
  blocks: Buffer[];
  /** How many new bytes the blocks hold. */
  size: number;
  /** Segments of the tail, all or the last few, that are sent before the new bytes and that this step replaces. */
  replaces: Segment[];
}

interface Step extends NewStep {
  /** Key of the segment or object that the step becomes. */
  key: string;
  /** Number of the part that the step becomes. */
  number: number;
  made?: { part: Part } | { segment: Segment } | { objectKey: string };
  settled: Promise<void>;
}

export interface Growth {
  /** The upload as it will be when all steps that have begun have succeeded. */
  readonly planned: { offset: number; state: UploadState };
  /** Whether another part can begin without a new reservation. */
  hasNumber(): boolean;
  /** Makes sure that there is a multipart upload and that part numbers are reserved for it. */
  reserve(): Promise<void>;
  /** Whether another step may begin. */
  hasRoom(): boolean;
  /** Waits until another step may begin. */
  room(): Promise<void>;
  begin(step: NewStep): void;
  hasFailed(): boolean;
  /** From now on steps have only a few seconds left. */
  hurry(): void;
  /** Waits for all steps and commits them. @throws the first error of a step or commit */
  finish(): Promise<void>;
}

/** @param onFailure called once, at the first failure: nothing more can be stored */
export function createGrowth(
  { objects, pool }: GrowthDeps,
  upload: StoredUpload,
  commit: (progress: Progress) => Promise<void>,
  onFailure: () => void,
): Growth {
  const before: UploadState = upload.state ?? { multipartId: null, nextPart: 1, tail: [] };
  const planned = { offset: upload.offset, state: { ...before, tail: [...before.tail] } };
  const committed = { offset: upload.offset, tail: before.tail };
  /** Part numbers below this one are reserved. */
  let reserved = before.nextPart;
  /** Part numbers from this one on cannot have reached the store. */
  let untouched = before.nextPart;
  const steps: Step[] = [];
  let inFlight = 0;
  let wake = () => {};
  let lastCommit = Date.now();
  let commits = Promise.resolve();
  /** Whether a commit has failed, so that the state of the ledger is not known. */
  let lost = false;
  let reserving: Promise<void> | undefined;
  let strays = false;
  let failure: { error: unknown } | undefined;
  const giveUp = new AbortController();

  function hurry(): void {
    setTimeout(() => giveUp.abort(), SETTLE_MS).unref();
  }

  function fail(error: unknown): void {
    if (failure) return;
    failure = { error };
    hurry();
    onFailure();
    wake();
  }

  /** One commit at a time. Each takes all steps that are done when it starts, up to the first unfinished one. */
  function enqueueCommit(nextPart: () => number): Promise<void> {
    commits = commits.then(async () => {
      if (lost) return;
      try {
        await commitDone(nextPart());
      } catch (error) {
        lost = true;
        fail(error);
      }
    });
    return commits;
  }

  async function commitDone(nextPart: number): Promise<void> {
    const open = steps.findIndex((step) => !step.made);
    const done = steps.slice(0, open < 0 ? steps.length : open);
    const parts: Part[] = [];
    const tail = [...committed.tail];
    let { offset } = committed;
    let objectKey: string | undefined;
    for (const { size, replaces, made } of done) {
      offset += size;
      tail.splice(tail.length - replaces.length);
      if (made && 'part' in made) parts.push(made.part);
      else if (made && 'segment' in made) tail.push(made.segment);
      else objectKey = made?.objectKey;
    }
    lastCommit = Date.now();
    const { multipartId } = planned.state;
    await commit({
      offset,
      state: { multipartId, nextPart, tail },
      parts,
      // Segments of the tail have to be deleted later, even if this process dies.
      untidy: strays || tail.length > 0,
      ...(objectKey ? { objectKey } : {}),
    });
    reserved = nextPart;
    committed.offset = offset;
    committed.tail = tail;
    steps.splice(0, done.length);
    objects.deleteLater(done.flatMap(({ replaces }) => replaces.map(({ key }) => key)));
  }

  const withWindow = () => Math.max(planned.state.nextPart + WINDOW, reserved);

  function commitIfDue(): void {
    const open = steps.findIndex((step) => !step.made);
    const bytes = steps.slice(0, open < 0 ? steps.length : open).reduce((sum, { size }) => sum + size, 0);
    if (bytes < COMMIT_BYTES && (bytes === 0 || Date.now() - lastCommit < COMMIT_MS)) return;
    lastCommit = Date.now();
    void enqueueCommit(withWindow);
  }

  /** @throws {AppError} size_mismatch when the store has dropped the multipart upload with all its parts */
  async function putPart(number: number, body: Body): Promise<string> {
    const { key } = upload;
    const multipartId = planned.state.multipartId ?? '';
    try {
      return await objects.putPart(key, multipartId, number, body, giveUp.signal);
    } catch (error) {
      if (!isMissing(error)) throw error;
      await objects.listParts(key, multipartId, giveUp.signal).catch((missing: unknown) => {
        if (!isMissing(missing)) throw missing;
        const detail = 'The storage has lost this upload: begin it anew';
        throw new AppError('size_mismatch', { detail, cause: error });
      });
      throw error;
    }
  }

  async function send(step: Step, earlier: Step[]): Promise<void> {
    const { kind, key, number, size, replaces } = step;
    const chunks = chunksOf(step);
    // The segments may come from earlier steps of this append: they must be stored before they can be read.
    if (replaces.length > 0) await Promise.all(earlier.map(({ settled }) => settled));
    if (failure) return;
    const total = size + bytesOf(replaces);
    const body = {
      size: total,
      chunks: replaces.length > 0 ? () => objects.join(replaces, chunks, giveUp.signal) : chunks,
    };
    if (kind === 'part') {
      const etag = await putPart(number, body);
      step.made = { part: { number, size: total, etag } };
      return;
    }
    await objects.put(key, body, giveUp.signal);
    step.made = kind === 'segment' ? { segment: { key, size: total } } : { objectKey: key };
  }

  return {
    planned,
    hurry,
    hasFailed: () => failure !== undefined,
    hasRoom: () => inFlight < MAX_IN_FLIGHT,
    hasNumber: () => planned.state.multipartId !== null && planned.state.nextPart < reserved,
    async room() {
      while (!failure && inFlight >= MAX_IN_FLIGHT) {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
    },
    reserve() {
      reserving ??= (async () => {
        planned.state.multipartId ??= await objects.createMultipart(upload.key, giveUp.signal);
        await enqueueCommit(withWindow);
      })()
        .catch((error: unknown) => {
          strays = true;
          fail(error);
        })
        .finally(() => {
          reserving = undefined;
        });
      return reserving;
    },
    begin(newStep) {
      const { kind, size, replaces } = newStep;
      const { state } = planned;
      const number = state.nextPart;
      const key = newKey(upload.key);
      const step: Step = { ...newStep, key, number, settled: Promise.resolve() };
      const earlier = [...steps];
      planned.offset += size;
      state.tail.splice(state.tail.length - replaces.length);
      if (kind === 'part') state.nextPart++;
      if (kind === 'segment') state.tail.push({ key, size: size + bytesOf(replaces) });
      steps.push(step);
      inFlight++;
      pool.announce(step.blocks.length);
      step.settled = send(step, earlier)
        .then(() => {
          if (kind === 'part' && step.made) untouched = Math.max(untouched, number + 1);
        })
        .catch((error: unknown) => {
          // The store may still apply this write.
          if (!(error instanceof S3Unavailable) || error.uncertain) {
            strays = true;
            if (kind === 'part') untouched = Math.max(untouched, number + 1);
          }
          fail(error);
        })
        .finally(() => {
          inFlight--;
          pool.give(step.blocks);
          step.blocks = [];
          wake();
          commitIfDue();
        });
    },
    async finish() {
      await reserving;
      await Promise.all(steps.map(({ settled }) => settled));
      if (steps.some(({ made }) => made) || strays || reserved !== untouched) {
        await enqueueCommit(() => Math.max(untouched, 1));
      }
      await commits;
      if (!failure) return;
      // No commit names the objects of the remaining steps, unless a commit failed and its outcome is not known. If the
      // ledger refused the commit, its outcome is known: it changed nothing.
      const refused = failure.error instanceof AppError && failure.error.code === 'locked';
      if (!lost || refused) objects.deleteLater(steps.flatMap(keyOf));
      throw failure.error;
    },
  };
}

function chunksOf({ blocks, size }: NewStep): Uint8Array[] {
  const last = blocks.length - 1;
  return blocks.map((block, index) => (index < last ? block : block.subarray(0, size - last * BLOCK_SIZE)));
}

function keyOf({ made }: Step): string[] {
  if (made && 'segment' in made) return [made.segment.key];
  return made && 'objectKey' in made ? [made.objectKey] : [];
}

export function bytesOf(segments: Segment[]): number {
  return segments.reduce((sum, { size }) => sum + size, 0);
}

/** A key that was never used before. */
export function newKey(uploadKey: string): string {
  return `${uploadKey}.${randomBytes(12).toString('hex')}`;
}
