import { isConflict, isDatabaseAway } from '../../database/outage.js';
import { AppError } from '../../errors.js';
import type { Progress, Segment, StoredUpload } from '../storage.js';
import { BLOCK_SIZE, type BlockPool } from './blocks.js';
import { bytesOf, createGrowth, type Growth, type GrowthDeps } from './growth.js';
import { MAX_PARTS, MIN_PART, partSize } from './part-size.js';

/*
 * How an upload grows in S3.
 *
 * Its bytes are the parts of one multipart upload, followed by the tail: objects ("segments") that hold bytes that were
 * too few for a part. Incoming bytes are held in memory until they, together with the tail, fill a part. The part is
 * sent while the next one arrives. At the end of an append the rest becomes a part if it is large enough, otherwise one
 * more segment. An upload that arrives in one request and fits into one part is one PutObject, without a multipart
 * upload. Where parts are too large for memory (uploads beyond some 250 GiB), segments of MAX_HELD are stored, and a
 * part is put together by reading them back.
 *
 * Bytes count only once they are committed to the ledger. A commit writes the offset, the parts and the tail together,
 * under the epoch of the lease. Commits follow the order of the bytes, so there is never a gap before the offset. Late
 * writes of a process that has lost its lease are harmless: every segment and every whole object gets a new key, and a
 * part number is never used by two leases (growth.ts). A segment is deleted after the commit that no longer names it.
 */

/** Bytes that are held for one part or segment. */
const MAX_HELD = 32 * 1024 ** 2;

/** When the tail has this many small segments at its end, the next segment replaces them. */
const MAX_SEGMENTS = 32;

/** How an append and the request that it serves end each other. */
interface AppendControl {
  /** Aborts when another request waits: writes to the store then have only a few seconds left. */
  hurry?: AbortSignal;
  /** Called when a write has failed, so that nothing more can be stored. It must end the source. */
  onFailure?(): void;
}

/** Stores the bytes of `source`; see UploadStore.open. */
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
    // Also after an error: the bytes that have arrived are kept, so that the client can resume after them.
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
  // Errors of the ledger's commits are passed on.
  if (error instanceof AppError || isDatabaseAway(error) || isConflict(error)) return error;
  return new AppError('unavailable', {
    detail: 'The storage does not answer',
    cause: error,
    retryable: true,
  });
}

/** The next step for the held bytes, once there are `bytes` of them. `last`: they wait for the end of the upload. */
interface Goal {
  kind: 'part' | 'segment' | 'last';
  bytes: number;
}

/** Holds bytes that have arrived and are not yet sent, and decides whether they become a part, segment or object. */
function createHold(growth: Growth, pool: BlockPool, { length }: StoredUpload) {
  const { planned } = growth;
  let blocks: Buffer[] = [];
  /** Bytes in all blocks; only the last one has room. */
  let bytes = 0;
  let room = 0;
  /** True while cut() or putRest() waits to send the held bytes: putAway() must not send them meanwhile. */
  let deciding = false;
  let goal = nextGoal();

  /** Bytes from the beginning of the tail to the end of the upload; null while the length is not known. */
  function left(): number | null {
    return length === null ? null : length - planned.offset + bytesOf(planned.state.tail);
  }

  function nextGoal(): Goal {
    const rest = left();
    const size = partSize(rest, planned.state.nextPart);
    // All remaining bytes fit into one part, or are the whole object.
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

  /** The small segments at the end of the tail that the next segment replaces, so that the tail stays short. */
  function crumbs(): Segment[] {
    let size = bytes;
    const large = planned.state.tail.findLastIndex((segment) => {
      size += segment.size;
      return size > MAX_HELD;
    });
    const found = planned.state.tail.slice(large + 1);
    return found.length >= MAX_SEGMENTS ? found : [];
  }

  /** Whether the held bytes may become a short part: enough part numbers must be left for the rest of the upload. */
  function mayBeShortPart(): boolean {
    const loose = bytesOf(planned.state.tail) + bytes;
    const rest = left();
    const size = partSize(rest, planned.state.nextPart);
    if (loose < MIN_PART || size > MAX_HELD) return false;
    return partSize(rest === null ? null : rest - loose, planned.state.nextPart + 1) <= size;
  }

  /** Drops the held bytes and gives their blocks back. */
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
          // Wait before `blocks` is read: while this waits, putAway() may replace that array.
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
      // Not awaited: the reservation should be done by the time the part is full.
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
