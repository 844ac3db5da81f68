import { isConflict, isDatabaseAway } from '../../database/outage.js';
import { AppError } from '../../errors.js';
import type { AppendControl, Progress, Segment, StoredUpload } from '../storage.js';
import { BLOCK_SIZE, type BlockPool } from './blocks.js';
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

/** See UploadStore.append. */
export async function appendToS3(
  deps: GrowthDeps,
  upload: StoredUpload,
  source: AsyncIterable<Uint8Array>,
  commit: (progress: Progress) => Promise<void>,
  { hurry, onFailure = () => {} }: AppendControl = {},
): Promise<void> {
  const growth = createGrowth(deps, upload, commit, onFailure);
  const hold = createHold(growth, deps.pool, upload);
  hurry?.addEventListener('abort', growth.hurry);
  const leave = deps.pool.join(hold);
  let broken: { error: unknown } | undefined;
  try {
    try {
      for await (const chunk of source) {
        if (growth.hasFailed()) break;
        await hold.add(chunk);
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
    hurry?.removeEventListener('abort', growth.hurry);
    hold.drop();
  }
  if (broken) throw broken.error;
}

function toAppError(error: unknown): unknown {
  // The ledger's, when it commits what was stored.
  if (error instanceof AppError || isDatabaseAway(error) || isConflict(error)) return error;
  return new AppError('unavailable', {
    detail: 'The storage does not answer',
    cause: error,
    retryable: true,
  });
}

/** What is done with the next bytes, as soon as there are so many. */
interface Goal {
  kind: 'part' | 'segment' | 'last';
  bytes: number;
}

/** What has arrived and is not on its way yet, and the decision what becomes of it. */
function createHold(growth: Growth, pool: BlockPool, { length }: StoredUpload) {
  const { planned } = growth;
  let blocks: Buffer[] = [];
  /** Bytes in all blocks; only the last one has room. */
  let bytes = 0;
  let room = 0;
  /** While this decides and waits, nobody else may put away what it decides about. */
  let deciding = false;
  let goal = nextGoal();

  /** Bytes from the beginning of the tail to the end of the upload; null while that is not known. */
  function left(): number | null {
    return length === null ? null : length - planned.offset + bytesOf(planned.state.tail);
  }

  function nextGoal(): Goal {
    const rest = left();
    const size = partSize(rest, planned.state.nextPart);
    // All that is still to come goes into one part, or is the whole object.
    if (rest !== null && rest <= Math.min(size, MAX_HELD)) return { kind: 'last', bytes: Infinity };
    const missing = Math.max(0, size - bytesOf(planned.state.tail));
    if (size <= MAX_HELD || missing === 0) return { kind: 'part', bytes: missing };
    return { kind: 'segment', bytes: Math.min(missing, MAX_HELD) };
  }

  function begin(kind: 'part' | 'segment' | 'object', replaces: Segment[]): void {
    growth.begin({ kind, size: bytes, blocks, replaces });
    blocks = [];
    bytes = 0;
    room = 0;
    goal = nextGoal();
  }

  async function beginPart(): Promise<void> {
    if (planned.state.nextPart > MAX_PARTS) {
      throw new AppError('wrong_state', { detail: 'The upload has used up its 10,000 parts: begin it anew' });
    }
    while (!growth.hasNumber() && !growth.hasFailed()) await growth.reserve();
    await growth.room();
    if (!growth.hasFailed()) begin('part', [...planned.state.tail]);
  }

  async function beginSegment(): Promise<void> {
    await growth.room();
    if (!growth.hasFailed()) begin('segment', crumbs());
  }

  /** What the next segment takes up of the tail, lest that become a long list of crumbs. */
  function crumbs(): Segment[] {
    let size = bytes;
    const large = planned.state.tail.findLastIndex((segment) => {
      size += segment.size;
      return size > MAX_HELD;
    });
    const found = planned.state.tail.slice(large + 1);
    return found.length >= MAX_SEGMENTS ? found : [];
  }

  /** Whether what is here may become a part before it fills one: numbers must be left for all that follows. */
  function mayBeShortPart(): boolean {
    const loose = bytesOf(planned.state.tail) + bytes;
    const rest = left();
    const size = partSize(rest, planned.state.nextPart);
    if (loose < MIN_PART || size > MAX_HELD) return false;
    return partSize(rest === null ? null : rest - loose, planned.state.nextPart + 1) <= size;
  }

  /** Gives up what is still here. */
  function drop(): void {
    const dropped = blocks;
    blocks = [];
    bytes = 0;
    room = 0;
    pool.announce(dropped.length);
    pool.give(dropped);
  }

  async function cut(): Promise<void> {
    deciding = true;
    if (goal.kind === 'segment') await beginSegment();
    else await beginPart();
    deciding = false;
  }

  return {
    held: () => blocks.length,
    /** Called when other uploads need the memory. */
    putAway() {
      if (growth.hasFailed()) return drop();
      if (deciding || bytes === 0 || !growth.hasRoom()) return;
      if (growth.hasNumber() && planned.state.nextPart <= MAX_PARTS && mayBeShortPart())
        begin('part', [...planned.state.tail]);
      else begin('segment', crumbs());
    },
    async add(chunk: Uint8Array): Promise<void> {
      for (let done = 0; done < chunk.byteLength && !growth.hasFailed(); ) {
        if (room === 0 && bytes < goal.bytes) {
          const taken = pool.take();
          // Before `blocks` is named: while this waits, putAway() may give that array away.
          const block = taken instanceof Promise ? await taken : taken;
          blocks.push(block);
          room = BLOCK_SIZE;
        }
        const count = Math.min(chunk.byteLength - done, room, goal.bytes - bytes);
        const whole = count === chunk.byteLength;
        blocks.at(-1)?.set(whole ? chunk : chunk.subarray(done, done + count), BLOCK_SIZE - room);
        done += count;
        bytes += count;
        room -= count;
        if (bytes >= goal.bytes) await cut();
      }
      // Not waited for: it is done when the part is full.
      if (goal.kind === 'part' && bytes >= goal.bytes / 2 && !growth.hasNumber()) void growth.reserve();
    },
    /** Sends off the rest, at the end of the body. */
    async putRest(): Promise<void> {
      deciding = true;
      if (bytes === 0 || growth.hasFailed()) return;
      const isEnd = length !== null && planned.offset + bytes >= length;
      if (isEnd && goal.kind === 'last' && planned.state.multipartId === null) {
        await growth.room();
        if (!growth.hasFailed()) begin('object', [...planned.state.tail]);
      } else if ((isEnd && goal.kind === 'last') || mayBeShortPart()) {
        await beginPart();
      } else {
        await beginSegment();
      }
    },
    drop,
  };
}
