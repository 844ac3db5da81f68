import { AppError } from '../errors.js';
import type { UploadSink } from '../storage/storage.js';
import type { Reservation } from './quota.js';

/** An error that is kept until all else is done. */
export interface Failure {
  error: unknown;
}

/** Lets the bytes of one request pass as far as the size cap and the owner's quota allow. */
export interface Gate {
  take(chunk: Uint8Array, sink: Pick<UploadSink, 'write'> | undefined): Promise<void> | undefined;
  /** Waits for the chunk that waits for room. */
  settled(): Promise<void>;
  /** Lets no further bytes pass, for this reason unless there is another one. */
  refuse(error: unknown): void;
  /** AppError too_large or quota_exceeded, LeaseLost, or what was given to refuse(). */
  refusal(): Failure | undefined;
}

/**
 * @param options.most bytes; a chunk that goes beyond them is refused as a whole
 * @param options.reservation undefined: room for all bytes is reserved already
 * @param options.end called at the first refusal
 */
export function createGate(options: {
  most: number;
  hash: (chunk: Uint8Array) => void;
  reservation: Reservation | undefined;
  end: () => void;
}): Gate {
  const { most, hash, reservation, end } = options;
  let passed = 0;
  let refusal: Failure | undefined;
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
    refuse,
    refusal: () => refusal,
  };
}
