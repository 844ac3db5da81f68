import { AppError } from '../../errors.js';
import type { Progress, Segment, StoredUpload } from '../storage.js';
import { bytesOf, createGrowth, type Growth, type GrowthDeps } from './growth.js';
import { MAX_PARTS, MIN_PART, partSize } from './part-size.js';

/*
 * How an upload grows in S3.
 *
 * Its bytes are the parts of one multipart upload, followed by the tail: objects ("segments") that hold what was not
 * enough for a part. What arrives is held in memory until it fills a part, together with the tail if there is one, and
 * goes out while the next part arrives. At the end of an append the rest becomes a part of its own if it is large
 * enough, else one more segment. An upload that comes in one piece and fits into one part is one PutObject and no
 * multipart upload at all. Where parts are too large for memory (uploads beyond some 250 GiB), segments of MAX_HELD
 * are stored, and a part is put together from them by reading them back.
 *
 * Nothing counts before it is committed to the ledger: the offset, the parts and the tail, together, under the epoch
 * of the lease. Commits follow the order of the bytes, so an offset never stands behind a hole. What a process that has
 * lost its lease still writes is harmless: segments and whole objects have a key of their own each time, and a part
 * number is never used by two leases (growth.ts). A segment is deleted after the commit that no longer names it.
 */

/** Bytes that are held for one part or segment. */
const MAX_HELD = 32 * 1024 ** 2;

/** Segments that may follow each other before they are put together. */
const MAX_SEGMENTS = 32;

/** Held bytes that make it likely that a part will be filled. */
const RESERVE_BYTES = 1024 ** 2;

/** See UploadStore.append. */
export async function appendToS3(
  deps: GrowthDeps,
  upload: StoredUpload,
  source: AsyncIterable<Uint8Array>,
  commit: (progress: Progress) => Promise<void>,
  signal?: AbortSignal,
): Promise<void> {
  const iterator = source[Symbol.asyncIterator]();
  // Who waits for the next chunk need not wait for it when nothing can be stored any more.
  const growth = createGrowth(deps, upload, commit, () => void iterator.return?.().catch(() => {}));
  const hold = createHold(growth, upload);
  signal?.addEventListener('abort', growth.hurry);
  const leave = deps.budget.join(hold);
  let broken: { error: unknown } | undefined;
  try {
    try {
      for (let next = await iterator.next(); !next.done; next = await iterator.next()) {
        if (growth.hasFailed()) break;
        await deps.budget.take(next.value.byteLength);
        await hold.add(next.value);
      }
    } catch (error) {
      broken = { error };
      growth.hurry();
    }
    // Also then: what has arrived is kept, so that the client goes on from there.
    await hold.putRest();
    await growth.finish();
  } catch (error) {
    throw toAppError(error);
  } finally {
    leave();
    signal?.removeEventListener('abort', growth.hurry);
    deps.budget.announce(hold.held());
    deps.budget.give(hold.held());
  }
  if (broken) throw broken.error;
}

function toAppError(error: unknown): unknown {
  if (error instanceof AppError) return error;
  return new AppError('unavailable', {
    detail: 'The storage does not answer',
    cause: error,
    retryable: true,
  });
}

/** What has arrived and is not on its way yet, and the decision what becomes of it. */
function createHold(growth: Growth, { length }: StoredUpload) {
  const { planned } = growth;
  let chunks: Uint8Array[] = [];
  let bytes = 0;
  /** While this decides and waits, nobody else may put away what it decides about. */
  let deciding = false;

  /** Bytes that are not in a part yet. */
  const loose = () => bytesOf(planned.state.tail) + bytes;
  /** Bytes of the next part. */
  const nextSize = (used = 0, number = planned.state.nextPart) =>
    partSize(length === null ? null : length - planned.offset - bytes + loose() - used, number);
  const reachesEnd = () => length !== null && planned.offset + bytes >= length;
  const needsPart = () => length === null || length - planned.offset - bytes + loose() > nextSize();

  function take(size: number): Uint8Array[] {
    const taken: Uint8Array[] = [];
    bytes -= size;
    let missing = size;
    let whole = 0;
    for (const chunk of chunks) {
      if (chunk.byteLength > missing) {
        if (missing > 0) taken.push(chunk.subarray(0, missing));
        chunks[whole] = chunk.subarray(missing);
        break;
      }
      taken.push(chunk);
      missing -= chunk.byteLength;
      whole++;
    }
    chunks = chunks.slice(whole);
    return taken;
  }

  function begin(kind: 'part' | 'segment' | 'object', size: number, replaces: Segment[]): void {
    growth.begin({ kind, size, chunks: take(size), replaces });
  }

  async function beginPart(size: number): Promise<void> {
    if (planned.state.nextPart > MAX_PARTS) {
      throw new AppError('wrong_state', { detail: 'The upload has used up its 10,000 parts: begin it anew' });
    }
    while (!growth.hasNumber() && !growth.hasFailed()) await growth.reserve();
    await growth.room();
    if (!growth.hasFailed()) begin('part', size, [...planned.state.tail]);
  }

  async function beginSegment(size: number): Promise<void> {
    await growth.room();
    if (!growth.hasFailed()) begin('segment', size, crumbs());
  }

  /** What the next segment takes up of the tail, lest that become a long list of crumbs. */
  function crumbs(): Segment[] {
    let size = bytes;
    const small = planned.state.tail.findLastIndex((segment) => {
      size += segment.size;
      return size > MAX_HELD;
    });
    const found = planned.state.tail.slice(small + 1);
    return found.length >= MAX_SEGMENTS ? found : [];
  }

  /** Whether what is loose may become a part before it fills one: numbers must be left for all that follows. */
  function mayBeShortPart(): boolean {
    const size = nextSize();
    return loose() >= MIN_PART && size <= MAX_HELD && nextSize(loose(), planned.state.nextPart + 1) <= size;
  }

  /** Whether what is loose goes to the end of the upload and fits into one part, or one object, from memory. */
  const isLast = () => reachesEnd() && loose() <= Math.min(nextSize(), MAX_HELD);

  /** Sends off what fills a part or, where parts are too large for memory, a segment. */
  async function cut(): Promise<void> {
    while (bytes > 0 && !isLast() && !growth.hasFailed()) {
      const size = nextSize();
      const missing = Math.max(0, size - loose() + bytes);
      if (size <= MAX_HELD || missing === 0) {
        if (bytes < missing) return;
        await beginPart(missing);
      } else {
        const segment = Math.min(missing, MAX_HELD);
        if (bytes < segment) return;
        await beginSegment(segment);
      }
    }
  }

  return {
    held: () => bytes,
    /** Called when other uploads need the memory. */
    putAway() {
      if (deciding || bytes === 0 || growth.hasFailed() || !growth.hasRoom()) return;
      if (growth.hasNumber() && mayBeShortPart()) begin('part', bytes, [...planned.state.tail]);
      else begin('segment', bytes, crumbs());
    },
    async add(chunk: Uint8Array): Promise<void> {
      deciding = true;
      chunks.push(chunk);
      bytes += chunk.byteLength;
      if (loose() >= MIN_PART) {
        // Not waited for: it is done when the part is full.
        if (bytes >= RESERVE_BYTES && !growth.hasNumber() && needsPart()) void growth.reserve();
        await cut();
      }
      deciding = false;
    },
    /** Sends off the rest, at the end of the body. */
    async putRest(): Promise<void> {
      deciding = true;
      if (bytes === 0 || growth.hasFailed()) return;
      const { multipartId } = planned.state;
      if (isLast() && multipartId === null) {
        await growth.room();
        if (!growth.hasFailed()) begin('object', bytes, [...planned.state.tail]);
      } else if (isLast() || mayBeShortPart()) {
        await beginPart(bytes);
      } else {
        await beginSegment(bytes);
      }
    },
  };
}
