import type { Logger } from '../../core/log.js';
import { isAllowed } from '../../core/media/allowed.js';
import { typeNotAllowed } from '../../core/media/media-types.js';
import type { ByteSource } from '../../core/media/parsers.js';
import { createSample, type Sample } from '../../core/media/sample.js';
import { type Detected, HEAD } from '../../core/media/types.js';

/*
 * The early look at the type of a file that comes in one request with an upload token for certain types: its client hears
 * of a refusal at once, and nothing is stored. The worker looks again, and its verdict is the last one.
 */

/** Bytes that tell nearly every format; the header of a PDF may stand behind 1,024. */
const ENOUGH = 2048;

/** Formats of which the rest may tell more: what is in an archive, and whether all tracks are sound. */
const MAY_BE_MORE = /^application\/zip$|^video\/(mp4|webm|matroska)$/;

export interface TypeCheckDeps {
  /** Finds out what a file is, in a parser process. */
  detectType(bytes: ByteSource): Promise<Detected | null>;
  log: Logger;
}

interface Allowed {
  types: string[];
  /** By the client; null: not at all. */
  declaredType: string | null;
  /** Aborts when the body is cut short because the process shuts down. */
  stopped: AbortSignal;
}

/** What `source` yields, if it begins as a file of an allowed type. @throws {AppError} type_not_allowed */
export async function* ofAllowedType(
  deps: TypeCheckDeps,
  allowed: Allowed,
  source: AsyncIterable<Uint8Array>,
): AsyncGenerator<Uint8Array> {
  const sample = createSample();
  const waiting: Uint8Array[] = [];
  let next = ENOUGH;
  for await (const chunk of source) {
    if (next === Infinity) {
      yield chunk;
      continue;
    }
    waiting.push(chunk);
    sample.push(chunk);
    if (sample.size() < next) continue;
    const isKnown = await check(deps, allowed, sample, false);
    next = isKnown || sample.size() >= HEAD ? Infinity : HEAD;
    if (next === Infinity) yield* waiting;
  }
  if (next === Infinity) return;
  if (!allowed.stopped.aborted) await check(deps, allowed, sample, true);
  yield* waiting;
}

/** Returns whether it is allowed; false: nobody knows yet. @throws {AppError} type_not_allowed */
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
