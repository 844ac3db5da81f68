import { AppError } from '../../errors.js';
import type { Segment, StoredUpload, UploadState } from '../storage.js';
import { MAX_PARTS, MIN_PART, partSize } from './part-size.js';

/*
 * Decides what the bytes of an upload become in S3. Pure: sink.ts carries the decisions out, and journal.ts keeps their
 * order.
 *
 * The bytes of an upload are the parts of one multipart upload, followed by the tail: objects ("segments") that hold
 * bytes that were too few for a part. Incoming bytes are held until they, together with the tail, fill a part. At the
 * end of a request the rest becomes a part if it is large enough, otherwise one more segment. An upload that arrives in
 * one request and fits into one part is one PutObject, without a multipart upload. Where parts are very large (uploads
 * beyond some 250 GiB), segments of MAX_HELD are stored, and a part is put together by reading them back.
 */

/** Bytes that are held for one part or segment. */
const MAX_HELD = 32 * 1024 ** 2;

/** When the tail has this many small segments at its end, the next segment replaces them. */
const MAX_SEGMENTS = 32;

/** An upload as it will be when everything that has begun has succeeded. */
export interface Planned {
  /** Bytes before the held ones. */
  offset: number;
  /** Bytes; null while it is not known. */
  readonly length: number | null;
  state: UploadState;
}

/** Up to `bytes` new bytes are gathered, for a part, a segment, or (`last`) all that the upload still lacks. */
export interface Goal {
  kind: 'part' | 'segment' | 'last';
  bytes: number;
}

/** Why held bytes are sent: the goal is reached; the body has ended; they have waited long; memory is wanted. */
export type Reason = 'full' | 'end' | 'old' | 'memory';

/** The thing that the held bytes become, behind the bytes of the segments at the end of the tail that it replaces. */
export interface NextStep {
  kind: 'part' | 'segment' | 'object';
  replaces: Segment[];
}

export function planOf({ offset, length, state }: StoredUpload): Planned {
  const { multipartId, nextPart, tail } = state ?? { multipartId: null, nextPart: 1, tail: [] };
  return { offset, length, state: { multipartId, nextPart, tail: [...tail] } };
}

/** How many bytes to hold before the next step. */
export function nextGoal(planned: Planned): Goal {
  const rest = loose(planned, planned.length);
  const size = partSize(rest, planned.state.nextPart);
  if (rest !== null && rest <= Math.min(size, MAX_HELD)) {
    return { kind: 'last', bytes: rest - bytesOf(planned.state.tail) };
  }
  const missing = Math.max(0, size - bytesOf(planned.state.tail));
  if (size <= MAX_HELD || missing === 0) return { kind: 'part', bytes: missing };
  return { kind: 'segment', bytes: Math.min(missing, MAX_HELD) };
}

/**
 * @param bytes how many are held: more than none, or none if the goal wants none
 * @throws {AppError} wrong_state when a part is due and all part numbers are used up
 */
export function nextStep(planned: Planned, bytes: number, reason: Reason): NextStep {
  const { multipartId, nextPart, tail } = planned.state;
  const goal = nextGoal(planned);
  const isWhole = goal.kind === 'last' && bytes >= goal.bytes;
  if (isWhole && reason === 'end' && multipartId === null) return { kind: 'object', replaces: [...tail] };
  const isPart =
    reason === 'full'
      ? goal.kind !== 'segment'
      : (isWhole && reason === 'end') || mayBeShortPart(planned, bytes);
  const isUsedUp = nextPart > MAX_PARTS;
  if (!isPart || (isUsedUp && (reason === 'old' || reason === 'memory'))) {
    return { kind: 'segment', replaces: smallSegments(tail, bytes) };
  }
  if (isUsedUp) {
    throw new AppError('wrong_state', { detail: 'The upload has used up its 10,000 parts: begin it anew' });
  }
  return { kind: 'part', replaces: [...tail] };
}

/** Whether the held bytes may become a short part: enough part numbers must be left for the rest of the upload. */
function mayBeShortPart(planned: Planned, bytes: number): boolean {
  const part = bytesOf(planned.state.tail) + bytes;
  const rest = loose(planned, planned.length);
  const size = partSize(rest, planned.state.nextPart);
  if (part < MIN_PART || size > MAX_HELD) return false;
  return partSize(rest === null ? null : rest - part, planned.state.nextPart + 1) <= size;
}

/** The small segments at the end of the tail that the next segment replaces, so that the tail stays short. */
function smallSegments(tail: Segment[], bytes: number): Segment[] {
  let size = bytes;
  const large = tail.findLastIndex((segment) => {
    size += segment.size;
    return size > MAX_HELD;
  });
  const found = tail.slice(large + 1);
  return found.length >= MAX_SEGMENTS ? found : [];
}

/** Bytes from the beginning of the tail to the end of the upload; null while the length is not known. */
function loose({ offset, state }: Planned, length: number | null): number | null {
  return length === null ? null : length - offset + bytesOf(state.tail);
}

export function bytesOf(segments: Segment[]): number {
  return segments.reduce((sum, { size }) => sum + size, 0);
}
