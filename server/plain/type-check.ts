import type { Logger } from '../../core/log.js';
import { isAllowed } from '../../core/media/allowed.js';
import { typeNotAllowed } from '../../core/media/media-types.js';
import type { TaskSource } from '../../core/media/parser-task.js';
import { createSample, type Sample } from '../../core/media/sample.js';
import { type Detected, HEAD } from '../../core/media/types.js';
import type { ByteSource, Take } from '../../core/uploads/receive.js';

/*
 * Checks the type early for a file that comes in one request with an upload token for certain types. The
 * client learns of a refusal at once, and nothing is stored. The worker checks again, and its verdict is
 * final.
 */

/** This many bytes identify nearly every format; the header of a PDF may follow after 1,024 bytes. */
const ENOUGH = 2048;

/** Formats whose later bytes may tell more: the content of an archive, and whether all tracks are sound. */
const MAY_BE_MORE = /^application\/zip$|^video\/(mp4|webm|matroska)$/;

export interface TypeCheckDeps {
  /** Detects the type of a file in a parser process. */
  detectType(bytes: TaskSource): Promise<Detected | null>;
  log: Logger;
}

interface Allowed {
  types: string[];
  /** The type that the client declared; null: none. */
  declaredType: string | null;
  /** Aborts when the body is cut short because the process shuts down. */
  stopped: AbortSignal;
}

/**
 * Gives the bytes of `source` if the file begins as an allowed type; holds them back until that is known.
 * @throws {AppError} (from flow) type_not_allowed
 */
export function ofAllowedType(deps: TypeCheckDeps, allowed: Allowed, source: ByteSource): ByteSource {
  const sample = createSample();
  const heldBack: Uint8Array[] = [];
  let next = ENOUGH;
  let checking: Promise<void> | undefined;
  let refusal: { error: unknown } | undefined;

  async function giveAll(take: Take): Promise<void> {
    for (const chunk of heldBack) await take(chunk);
  }

  /** Never rejects. */
  async function checkBeginning(take: Take): Promise<void> {
    try {
      const isKnown = await check(deps, allowed, sample, false);
      next = isKnown || sample.size() >= HEAD ? Infinity : HEAD;
      if (next === Infinity) await giveAll(take);
    } catch (error) {
      refusal = { error };
      source.end();
    }
  }

  return {
    end: source.end,
    async flow(take) {
      let broken: { error: unknown } | undefined;
      try {
        await source.flow((chunk) => {
          if (next === Infinity) return take(chunk);
          if (refusal) return undefined;
          heldBack.push(chunk);
          sample.push(chunk);
          if (sample.size() < next) return undefined;
          checking = checkBeginning(take);
          return checking;
        });
      } catch (error) {
        broken = { error };
      }
      // When the flow is over, nothing may be given any more.
      await checking;
      // A decoder or form that was ended in the middle breaks: the refusal is the reason.
      if (refusal) throw refusal.error;
      if (broken) throw broken.error;
      if (next === Infinity) return;
      if (!allowed.stopped.aborted) await check(deps, allowed, sample, true);
      await giveAll(take);
    },
  };
}

/** Returns whether the type is allowed; false: not known yet. @throws {AppError} type_not_allowed */
async function check(
  { detectType, log }: TypeCheckDeps,
  { types, declaredType }: Allowed,
  sample: Sample,
  isWhole: boolean,
): Promise<boolean> {
  let detected: Detected | null;
  try {
    detected = sample.size() > 0 ? await detectType(sample.source(isWhole)) : null;
  } catch (error) {
    log.warn({ err: error }, 'type not found out before the upload; the worker will');
    return true;
  }
  if (isAllowed(declaredType, types, detected)) return true;
  if (!isWhole && MAY_BE_MORE.test(detected?.mime ?? '')) return false;
  throw typeNotAllowed(types, detected?.mime ?? 'of no known type');
}
