import { randomBytes } from 'node:crypto';
import { AppError } from '../../errors.js';
import type { Part, Progress, Segment, StoredUpload, UploadState } from '../storage.js';
import { BLOCK_SIZE, type BlockPool } from './blocks.js';
import { type Body, S3Unavailable } from './http-put.js';
import { isMissing, type ObjectStore } from './operations.js';

/*
 * What an append has begun: parts, segments and whole objects on their way to the store, in the order of their bytes,
 * and the commits that follow them in that order.
 *
 * The ledger is told in advance which part numbers may be used (WINDOW beyond the last one), so that no two leases ever
 * use the same: a late write of a process that has lost its lease then cannot take the place of a part that counts. At
 * the end the numbers that nobody can have used are given back.
 */

/** Steps on their way at a time. */
const MAX_IN_FLIGHT = 4;

/** Part numbers that are reserved at a time. */
const WINDOW = 12;

/** Bytes, or time, after which what is done is committed. */
const COMMIT_BYTES = 32 * 1024 ** 2;
const COMMIT_MS = 2_000;

/** How long what is on its way may take when it is in vain or somebody waits, in milliseconds. */
const SETTLE_MS = 5_000;

export interface GrowthDeps {
  objects: ObjectStore;
  pool: BlockPool;
}

/** Some bytes on their way to the store. */
interface NewStep {
  kind: 'part' | 'segment' | 'object';
  /** New bytes, in blocks of the pool; only the last one is not full. */
  blocks: Buffer[];
  /** Their number. */
  size: number;
  /** What of the tail goes before them and is replaced with them: all of it, or some from its end. */
  replaces: Segment[];
}

interface Step extends NewStep {
  /** Of the segment or object that it becomes. */
  key: string;
  /** Of the part that it becomes. */
  number: number;
  made?: { part: Part } | { segment: Segment } | { objectKey: string };
  settled: Promise<void>;
}

export interface Growth {
  /** As the upload will be when all that has begun has succeeded. */
  readonly planned: { offset: number; state: UploadState };
  /** Whether another part can begin without reserving. */
  hasNumber(): boolean;
  /** Makes sure that there is a multipart upload and that part numbers are reserved for it. */
  reserve(): Promise<void>;
  /** Whether another step may begin. */
  hasRoom(): boolean;
  /** Waits until another step may begin. */
  room(): Promise<void>;
  begin(step: NewStep): void;
  hasFailed(): boolean;
  /** From now on what is on its way has only a few seconds. */
  hurry(): void;
  /** Waits for all that has begun and commits it. @throws what has failed first */
  finish(): Promise<void>;
}

/** @param onFailure called once, when something has failed: nothing more can be stored */
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
  /** Whether a commit has failed, so that nobody knows what the ledger says. */
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

  /** One commit at a time. What is done when its turn comes goes into it, up to the first step that is not. */
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
      // What is only in the tail will have to be deleted one day, whatever happens to this process.
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
    // Segments of this same append must be there before they can be read.
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
          // The store may still come to it.
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
      // Nobody knows of what stands behind a failed step; and of nothing, if the ledger has refused this process.
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
