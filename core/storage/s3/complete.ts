import { text } from 'node:stream/consumers';
import { setTimeout as pause } from 'node:timers/promises';
import { BytesLost, type Part, type StoredUpload } from '../storage.js';
import { newKey } from './delivery.js';
import type { Body } from './http-put.js';
import { isMissing, type ObjectStore } from './operations.js';
import { MIN_PART } from './part-size.js';
import { bytesOf } from './plan.js';

/*
 * How the parts and the tail of an upload become one object. It may be tried any number of times.
 *
 * The object is made of the parts that the ledger names. Other parts may have reached the store too: when the server
 * was killed, or the store's answer was lost. AWS and MinIO leave parts out that are not named. Ceph completes an
 * upload only with all the parts that it has, so there the object is rescued: all parts are completed into a scrap
 * object, and the ranges of the named parts are copied out of it, within the store. The list of these ranges (the plan)
 * is stored first, because it cannot be derived from the scrap object.
 */

/** How often to look for an object whose completion was not answered, and the pause between, in milliseconds. */
const RECOGNISE_TRIES = 4;
const RECOGNISE_PAUSE_MS = 500;

/** Late parts of a stopped server may arrive while the parts are listed, so the rescue is tried this often. */
const RESCUE_TRIES = 5;

/** Bytes that the store copies in one call; more where an object would otherwise need more than MAX_COPIES calls. */
const COPY = 512 * 1024 ** 2;
const MAX_COPIES = 9_000;

interface Range {
  start: number;
  /** Behind the last byte. */
  end: number;
}

/** See UploadStore.complete. */
export async function completeInS3(
  objects: ObjectStore,
  { key, length, state }: StoredUpload,
  parts: Part[],
  signal?: AbortSignal,
): Promise<{ objectKey: string; untidy: boolean }> {
  const tail = state?.tail ?? [];
  const rest: Body = {
    size: bytesOf(tail),
    chunks: tail.length > 0 ? () => objects.join(tail, [], signal) : [],
    isReadBack: tail.length > 0,
  };
  if (!state?.multipartId || length === 0) {
    const objectKey = newKey(key);
    await objects.put(objectKey, rest, signal);
    return { objectKey, untidy: false };
  }
  const { multipartId, nextPart: number } = state;
  const named = [...parts];
  if (rest.size > 0) {
    const etag = await objects.putPart(key, multipartId, number, rest, signal).catch((error: unknown) => {
      // The upload is completed already; the answer was lost.
      if (isMissing(error)) return '';
      throw error;
    });
    named.push({ number, size: rest.size, etag });
  }
  try {
    await objects.completeMultipart(key, multipartId, named, signal);
    return { objectKey: key, untidy: false };
  } catch (error) {
    if (isInvalidPart(error)) return rescue(objects, key, multipartId, named, signal);
    return recognise(objects, key, length, error, signal);
  }
}

function isInvalidPart(error: unknown): boolean {
  return error instanceof Error && error.name === 'InvalidPart';
}

/**
 * Finds out whether an earlier call made the object and its answer was lost. Only the multipart upload that the ledger
 * names is ever completed under this key.
 * @throws `error` when this cannot be determined; {BytesLost} when neither multipart upload nor object exist
 */
async function recognise(
  objects: ObjectStore,
  key: string,
  length: number | null,
  error: unknown,
  signal?: AbortSignal,
): Promise<{ objectKey: string; untidy: boolean }> {
  for (let attempt = 1; ; attempt++) {
    const size = await objects.sizeOf(key, signal);
    if (size === length) return { objectKey: key, untidy: false };
    if (size !== undefined) return copyOut(objects, key, await readPlan(objects, key, size), signal);
    if (!isMissing(error)) throw error;
    if (attempt === RECOGNISE_TRIES) {
      throw new BytesLost('The storage has lost this upload: begin it anew', error);
    }
    await pause(RECOGNISE_PAUSE_MS, undefined, signal ? { signal } : {});
  }
}

/** Completes the upload when the store does not take the parts that the ledger names. */
async function rescue(
  objects: ObjectStore,
  key: string,
  multipartId: string,
  named: Part[],
  signal?: AbortSignal,
): Promise<{ objectKey: string; untidy: boolean }> {
  for (let attempt = 1; ; attempt++) {
    const stored = await objects.listParts(key, multipartId, signal);
    checkStored(stored, named);
    const numbers = new Set(named.map(({ number }) => number));
    const small = stored.slice(0, -1).filter(({ number, size }) => size < MIN_PART && !numbers.has(number));
    // Only the last part may be smaller than MIN_PART.
    for (const { number } of small) await objects.putPart(key, multipartId, number, FILLING, signal);
    if (small.length > 0) continue;
    const size = stored.reduce((bytes, part) => bytes + part.size, 0);
    const plan = rangesOf(stored, numbers);
    const onlyNamed = stored.length === named.length;
    try {
      if (!onlyNamed) await writePlan(objects, key, size, plan);
      await objects.completeMultipart(key, multipartId, stored, signal);
    } catch (error) {
      if (attempt < RESCUE_TRIES && isInvalidPart(error)) continue;
      throw error;
    }
    return onlyNamed ? { objectKey: key, untidy: false } : copyOut(objects, key, plan, signal);
  }
}

const FILLING = { size: MIN_PART, chunks: [new Uint8Array(MIN_PART)] };

/**
 * Checks that all named parts are stored, by their sizes. The ETags may differ: when a part was sent twice because the
 * first answer was late, an encrypting store gives the second one another ETag although the bytes are the same. No other
 * lease ever used the number, so comparing the size is enough.
 * @throws {BytesLost}
 */
function checkStored(stored: Part[], named: Part[]): void {
  const sizes = new Map(stored.map(({ number, size }) => [number, size]));
  if (named.every(({ number, size }) => sizes.get(number) === size)) return;
  throw new BytesLost('The storage has lost a part of this upload: begin it anew');
}

/** The ranges of the parts with these numbers in the object of all parts. Adjacent ranges are merged. */
function rangesOf(stored: Part[], numbers: Set<number>): Range[] {
  const ranges: Range[] = [];
  let start = 0;
  for (const { number, size } of stored) {
    const end = start + size;
    const last = ranges.at(-1);
    if (numbers.has(number)) {
      if (last?.end === start) last.end = end;
      else ranges.push({ start, end });
    }
    start = end;
  }
  return ranges;
}

const planKey = (key: string, size: number) => `${key}.plan-${size}`;

async function writePlan(objects: ObjectStore, key: string, size: number, plan: Range[]): Promise<void> {
  const bytes = Buffer.from(JSON.stringify(plan));
  await objects.put(planKey(key, size), { size: bytes.length, chunks: [bytes] });
}

/** @param size of the scrap object that the plan belongs to. @throws {BytesLost} */
async function readPlan(objects: ObjectStore, key: string, size: number): Promise<Range[]> {
  try {
    return JSON.parse(await text(await objects.open(planKey(key, size))));
  } catch (error) {
    if (!isMissing(error)) throw error;
    throw new BytesLost('The storage holds other bytes than were sent: begin the upload anew', error);
  }
}

/** Copies the ranges out of the scrap object into the object. The scrap object is discarded with the other leftovers. */
async function copyOut(
  objects: ObjectStore,
  key: string,
  plan: Range[],
  signal?: AbortSignal,
): Promise<{ objectKey: string; untidy: boolean }> {
  const objectKey = newKey(key);
  await copyRanges(objects, key, plan, objectKey, signal);
  return { objectKey, untidy: true };
}

/** Copies an object of any size, within the store. */
export async function copyObject(
  objects: ObjectStore,
  source: string,
  size: number,
  target: string,
): Promise<void> {
  if (size <= COPY) return objects.copy(source, target);
  await copyRanges(objects, source, [{ start: 0, end: size }], target);
}

/** Makes an object of ranges of another one. */
async function copyRanges(
  objects: ObjectStore,
  source: string,
  plan: Range[],
  target: string,
  signal?: AbortSignal,
): Promise<void> {
  const multipartId = await objects.createMultipart(target, signal);
  const parts: Part[] = [];
  const total = plan.reduce((bytes, { start, end }) => bytes + end - start, 0);
  const size = Math.max(COPY, Math.ceil(total / MAX_COPIES));
  for (const { start, end } of plan.flatMap((range) => split(range, size))) {
    const number = parts.length + 1;
    const etag = await objects.copyPart(source, start, end, target, multipartId, number, signal);
    parts.push({ number, size: end - start, etag });
  }
  await objects.completeMultipart(target, multipartId, parts, signal);
}

/** Pieces of about the same size, so that none is too small for a part. */
function split({ start, end }: Range, limit: number): Range[] {
  const count = Math.ceil((end - start) / limit);
  const size = Math.ceil((end - start) / count);
  return Array.from({ length: count }, (_, index) => ({
    start: start + index * size,
    end: Math.min(start + (index + 1) * size, end),
  }));
}
