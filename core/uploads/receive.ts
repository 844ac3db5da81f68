import { AppError } from '../errors.js';
import { BytesLost, type CommitTime, type Progress, type UploadSink } from '../storage/storage.js';
import {
  cleanUpAgain,
  commitProgress,
  declareLength,
  explainLoss,
  type LedgerDeps,
  toStored,
} from './commit.js';
import { createDigest, type DigestName } from './digests.js';
import { loseUpload, refuseUpload } from './end.js';
import { LeaseLost } from './errors.js';
import { createGate, type Failure, type Gate } from './gate.js';
import { UploadRefused } from './hooks.js';
import type { Lease } from './lease.js';
import { openReservation, reserve } from './quota.js';

/*
 * The only loop that moves bytes: from a source (a socket, a decoder, a file of a form) to the sink of the store.
 *
 * Both sides are pushed. The source calls `take` with each chunk, and `take` hands it to the sink at once; no promise is
 * made for a chunk. Only when the sink is full, or room has to be reserved, does `take` answer with a promise, and the
 * source pauses until it resolves. Downstream one call says stop, `source.end()`; the source then gives nothing more.
 * Whatever has been taken by then is stored and committed, also when the client has broken off, so that it can resume
 * after these bytes. The exception is a body that has to be verified: its bytes count when all of them are here and are
 * right, and otherwise none of them does.
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

export interface ReceiveOptions<Name extends DigestName> {
  /** Aborts when the request must let go: the bytes that have arrived by then are stored. */
  stop?: AbortSignal;
  /** Digests to be computed over the bytes of this request. */
  digests?: readonly Name[];
  /**
   * Verifies the body when all of it is here. If this is given, its bytes count at the end only, and if it throws, or
   * the body breaks off or has to stop before its end, none of them does.
   */
  verify?(digests: Digests<Name>): void | Promise<void>;
  /** Whether the end of the body is the end of the upload. It then declares the length, if that is unknown. */
  last?: boolean;
  /** Called after each commit. @param offset all bytes before it survive a power cut */
  onCommitted?(offset: number): void;
}

export type Digests<Name extends DigestName> = Record<Name, Buffer>;

/** The most bytes that this upload may still get. */
export function bytesLeft({ maxUploadSize }: Pick<LedgerDeps, 'maxUploadSize'>, { upload }: Lease): number {
  const { length, maxSize, offset } = upload;
  return (length ?? Math.min(maxUploadSize, maxSize ?? Number.POSITIVE_INFINITY)) - offset;
}

/**
 * Stores the bytes of `source` at the upload's offset. Afterwards `lease.upload` has the new offset, also if this throws.
 * @returns the digests of the bytes
 * @throws {AppError} too_large and quota_exceeded after the last byte that fits was stored; storage_full; unavailable;
 * {BytesLost}; {LeaseLost} when another request has taken the lease; {UploadEnded}; locked when a body that has to be
 * verified must stop before its end; {UploadRefused} after a hook has stopped the upload, which has ended; and the errors
 * of `verify` and of the source
 */
export async function receive<Name extends DigestName = never>(
  deps: LedgerDeps,
  lease: Lease,
  source: ByteSource,
  options: ReceiveOptions<Name> = {},
): Promise<Digests<Name>> {
  const { direct, offset, length } = lease.upload;
  if (direct) {
    throw new AppError('wrong_state', { detail: 'The parts of this upload are sent to the storage itself' });
  }
  const hashes = (options.digests ?? []).map((name) => [name, createDigest(name)] as const);
  const digests = {} as Digests<Name>;
  const gate = createGate({
    most: bytesLeft(deps, lease),
    end: source.end,
    hash: (chunk) => {
      for (const [, hash] of hashes) hash.update(chunk);
    },
    reservation: length === null ? openReservation(deps, lease) : undefined,
  });
  const flow: Flow = {
    source,
    gate,
    stop: options.stop,
    time: options.verify ? 'at the end' : 'on the way',
    async atEnd() {
      for (const [name, hash] of hashes) digests[name] = hash.digest();
      await options.verify?.(digests);
    },
  };
  deps.metrics?.receiving(1);
  try {
    // Nothing is left to store for a complete upload. The body is still read, so that one that is too long is noticed.
    if (offset === length) await pour(flow, undefined);
    else await store(deps, lease, flow, options.onCommitted);
    if (options.last && lease.upload.length === null && !options.stop?.aborted) {
      await declareLength(deps, lease, lease.upload.offset);
    }
  } finally {
    deps.metrics?.receiving(-1);
    if (lease.upload.length === null) {
      // Gives back the part of the reservation that no bytes used. If this fails, the upload gives it back when it
      // continues or ends.
      await reserve(deps.database.manager, deps.quota, lease, { target: null }).catch(() => {});
    }
  }
  return digests;
}

/** How the bytes of one request come from its source. */
interface Flow {
  source: ByteSource;
  gate: Gate;
  stop: AbortSignal | undefined;
  time: CommitTime;
  /** Called when the source has ended, before its last bytes count. */
  atEnd(): Promise<void>;
}

/** @throws as receive() */
async function store(
  deps: LedgerDeps,
  lease: Lease,
  flow: Flow,
  onCommitted: ReceiveOptions<never>['onCommitted'],
): Promise<void> {
  const { hooks } = deps;
  const stop = (refusal: UploadRefused) => flow.gate.refuse(refusal);
  const commit = async (progress: Progress) => {
    await commitProgress(deps, lease, progress);
    tell(onCommitted, progress.offset);
    hooks?.onReceived?.(lease.upload, stop);
  };
  try {
    await pour(flow, await deps.storage.uploads.open(toStored(lease.upload), commit, flow.time));
  } catch (error) {
    // The first error may hide that the lease was lost, too. Then the store may still apply a write of this request.
    await cleanUpAgain(deps, lease.id);
    if (error instanceof LeaseLost) throw await explainLoss(deps, lease.id, error);
    if (error instanceof BytesLost) await loseUpload(deps, lease);
    if (error instanceof UploadRefused) await refuseUpload(deps, lease, error);
    throw error;
  }
}

/** The bytes are committed: an error of the listener changes nothing about that. */
function tell(onCommitted: ReceiveOptions<never>['onCommitted'], offset: number): void {
  try {
    onCommitted?.(offset);
  } catch {
    // The listener's own affair.
  }
}

/**
 * Lets the bytes of a source flow through the gate into a sink, and ends the sink.
 * @param sink undefined: there is nothing left to store
 * @throws the first error of the sink; if it has none, that of the gate; if that has none, that of the source or of
 * `atEnd`
 */
async function pour(flow: Flow, sink: UploadSink | undefined): Promise<void> {
  const { source, gate, stop } = flow;
  const letGo = () => {
    sink?.hurry();
    source.end();
  };
  let broken: Failure | undefined;
  if (stop?.aborted) letGo();
  stop?.addEventListener('abort', letGo);
  sink?.failed.addEventListener('abort', source.end);
  try {
    await source.flow((chunk) => (sink?.failed.aborted ? undefined : gate.take(chunk, sink)));
  } catch (error) {
    broken = { error };
    sink?.hurry();
  }
  let failure: Failure | undefined;
  try {
    await gate.settled();
    failure = gate.refusal() ?? broken;
    if (!failure && !sink?.failed.aborted) failure = await complete(flow);
    if (failure && flow.time === 'at the end') sink?.fail(failure.error);
    await sink?.end();
  } finally {
    // Not before: a request may be asked to let go while its last bytes are being stored.
    stop?.removeEventListener('abort', letGo);
  }
  if (failure) throw failure.error;
}

/** Never rejects. */
async function complete({ stop, time, atEnd }: Flow): Promise<Failure | undefined> {
  if (stop?.aborted && time === 'at the end') {
    const detail = 'Another request waits for this upload, or the server shuts down: send these bytes again';
    return { error: new AppError('locked', { detail, retryable: true }) };
  }
  return atEnd().then(
    () => undefined,
    (error: unknown) => ({ error }),
  );
}
