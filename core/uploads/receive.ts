import { createHash } from 'node:crypto';
import { AppError } from '../errors.js';
import { BytesLost, type UploadSink } from '../storage/storage.js';
import {
  cleanUpAgain,
  commitProgress,
  declareLength,
  explainLoss,
  type LedgerDeps,
  toStored,
} from './commit.js';
import { loseUpload } from './end.js';
import { LeaseLost } from './errors.js';
import type { Lease } from './lease.js';
import { openReservation, type Reservation, reserve } from './quota.js';

/*
 * The only loop that moves bytes: from a source (a socket, a decoder, a file of a form) to the sink of the store.
 *
 * Both sides are pushed. The source calls `take` with each chunk, and `take` hands it to the sink at once; no promise is
 * made for a chunk. Only when the sink is full, or room has to be reserved, does `take` answer with a promise, and the
 * source pauses until it resolves. Downstream one call says stop, `source.end()`; the source then gives nothing more.
 * Whatever has been taken by then is stored and committed, also when the client has broken off, so that it can resume
 * after these bytes.
 */

/** Gives the bytes of one request. */
export interface ByteSource {
  /**
   * Hands chunks to `take` as they arrive; after a promise from `take`, none until it resolves. Resolves at the end of
   * the body or after end(); rejects when the body breaks.
   */
  flow(take: Take): Promise<void>;
  /** Ends the flow after the bytes that have arrived. May be called at any time, and again. */
  end(): void;
}

/** Takes a chunk. @returns undefined: give more; a promise, which never rejects: give nothing until it resolves */
export type Take = (chunk: Uint8Array) => Promise<void> | undefined;

export interface ReceiveOptions<Algorithm extends string> {
  /** Aborts when the request must let go: the bytes that have arrived by then are stored. */
  stop?: AbortSignal;
  /** Hash algorithms of node:crypto, to be computed over the bytes of this request. */
  digests?: readonly Algorithm[];
  /** Whether the end of the body is the end of the upload. It then declares the length, if that is unknown. */
  last?: boolean;
  /** Called after each commit. @param offset all bytes before it survive a power cut */
  onCommitted?(offset: number): void;
}

/** The most bytes that this upload may still get. */
export function bytesLeft({ maxUploadSize }: Pick<LedgerDeps, 'maxUploadSize'>, { upload }: Lease): number {
  const { length, maxSize, offset } = upload;
  return (length ?? Math.min(maxUploadSize, maxSize ?? Number.POSITIVE_INFINITY)) - offset;
}

/**
 * Stores the bytes of `source` at the upload's offset. Afterwards `lease.upload` has the new offset, also if this throws.
 * @returns the digests of the bytes
 * @throws {AppError} too_large and quota_exceeded after the last byte that fits was stored; storage_full; unavailable;
 * {BytesLost}; {LeaseLost} when another request has taken the lease; {UploadEnded}; and the errors of the source
 */
export async function receive<Algorithm extends string = never>(
  deps: LedgerDeps,
  lease: Lease,
  source: ByteSource,
  options: ReceiveOptions<Algorithm> = {},
): Promise<Record<Algorithm, Buffer>> {
  const { direct, offset, length } = lease.upload;
  if (direct) {
    throw new AppError('wrong_state', { detail: 'The parts of this upload are sent to the storage itself' });
  }
  const hashes = (options.digests ?? []).map((name) => [name, createHash(name)] as const);
  const gate = createGate({
    most: bytesLeft(deps, lease),
    end: source.end,
    hash: (chunk) => {
      for (const [, hash] of hashes) hash.update(chunk);
    },
    reservation: length === null ? openReservation(deps, lease) : undefined,
  });
  try {
    // Nothing is left to store for a complete upload. The body is still read, so that one that is too long is noticed.
    if (offset === length) await pour(source, gate, undefined, options.stop);
    else await store(deps, lease, source, gate, options);
    if (options.last && length === null && !options.stop?.aborted) {
      await declareLength(deps, lease, lease.upload.offset);
    }
  } finally {
    if (lease.upload.length === null) {
      // Gives back the part of the reservation that no bytes used. If this fails, the upload gives it back when it
      // continues or ends.
      await reserve(deps.database.manager, deps.quota, lease, { target: null }).catch(() => {});
    }
  }
  return Object.fromEntries(hashes.map(([name, hash]) => [name, hash.digest()])) as Record<Algorithm, Buffer>;
}

/** @throws as receive() */
async function store(
  deps: LedgerDeps,
  lease: Lease,
  source: ByteSource,
  gate: Gate,
  { stop, onCommitted }: Pick<ReceiveOptions<string>, 'stop' | 'onCommitted'>,
): Promise<void> {
  try {
    const sink = await deps.storage.uploads.open(toStored(lease.upload), async (progress) => {
      await commitProgress(deps, lease, progress);
      tell(onCommitted, progress.offset);
    });
    await pour(source, gate, sink, stop);
  } catch (error) {
    if (error instanceof LeaseLost) {
      await cleanUpAgain(deps, lease.id);
      throw await explainLoss(deps, lease.id, error);
    }
    if (error instanceof BytesLost) await loseUpload(deps, lease);
    throw error;
  }
}

/** The bytes are committed: an error of the listener changes nothing about that. */
function tell(onCommitted: ReceiveOptions<string>['onCommitted'], offset: number): void {
  try {
    onCommitted?.(offset);
  } catch {
    // The listener's own affair.
  }
}

/**
 * Lets the bytes of a source flow through the gate into a sink, and ends the sink.
 * @param sink undefined: there is nothing left to store
 * @throws the first error of the sink; if it has none, that of the gate; if that has none, that of the source
 */
async function pour(
  source: ByteSource,
  gate: Gate,
  sink: UploadSink | undefined,
  stop: AbortSignal | undefined,
): Promise<void> {
  const letGo = () => {
    sink?.hurry();
    source.end();
  };
  let broken: { error: unknown } | undefined;
  if (stop?.aborted) letGo();
  stop?.addEventListener('abort', letGo);
  sink?.failed.addEventListener('abort', source.end);
  try {
    await source.flow((chunk) => (sink?.failed.aborted ? undefined : gate.take(chunk, sink)));
  } catch (error) {
    broken = { error };
    sink?.hurry();
  }
  try {
    await gate.settled();
    await sink?.end();
  } finally {
    // Not before: a request may be asked to let go while its last bytes are being stored.
    stop?.removeEventListener('abort', letGo);
  }
  gate.throwIfRefused();
  if (broken) throw broken.error;
}

/** Lets the bytes of one request pass as far as the size cap and the owner's quota allow. */
interface Gate {
  take(chunk: Uint8Array, sink: Pick<UploadSink, 'write'> | undefined): Promise<void> | undefined;
  /** Waits for the chunk that waits for room. */
  settled(): Promise<void>;
  /** @throws {AppError} too_large, quota_exceeded; {LeaseLost} */
  throwIfRefused(): void;
}

/**
 * @param options.most bytes; a chunk that goes beyond them is refused as a whole
 * @param options.reservation undefined: room for all bytes is reserved already
 * @param options.end called at the first refusal
 */
function createGate(options: {
  most: number;
  hash: (chunk: Uint8Array) => void;
  reservation: Reservation | undefined;
  end: () => void;
}): Gate {
  const { most, hash, reservation, end } = options;
  let passed = 0;
  let refusal: { error: unknown } | undefined;
  let reserving: Promise<void> | undefined;

  function refuse(error: unknown): undefined {
    refusal ??= { error };
    end();
  }

  function pass(chunk: Uint8Array, sink: Pick<UploadSink, 'write'> | undefined): Promise<void> | undefined {
    passed += chunk.byteLength;
    hash(chunk);
    return sink?.write(chunk);
  }

  /** Never rejects. */
  async function passWithinQuota(
    room: Reservation,
    chunk: Uint8Array,
    sink: Pick<UploadSink, 'write'> | undefined,
  ): Promise<void> {
    try {
      const fits = (await room.extend(passed + chunk.byteLength)) - passed;
      if (fits > 0) await pass(fits < chunk.byteLength ? chunk.subarray(0, fits) : chunk, sink);
      if (fits < chunk.byteLength) refuse(await room.exceeded());
    } catch (error) {
      refuse(error);
    }
  }

  return {
    take(chunk, sink) {
      if (refusal) return undefined;
      const reached = passed + chunk.byteLength;
      if (reached > most) {
        return refuse(
          new AppError('too_large', { detail: `The body exceeds the ${most} bytes that are left` }),
        );
      }
      if (!reservation || reached <= reservation.bytes()) return pass(chunk, sink);
      reserving = passWithinQuota(reservation, chunk, sink);
      return reserving;
    },
    async settled() {
      await reserving;
    },
    throwIfRefused() {
      if (refusal) throw refusal.error;
    },
  };
}
