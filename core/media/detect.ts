import { fileTypeFromBuffer } from 'file-type';
import type { TaskInput } from './tasks.js';
import { type Detected, HEAD, judge } from './types.js';

/** Finds out what a file is. The bytes are a sample: see sample.ts. */
export async function detectType({
  bytes,
  size,
}: Pick<TaskInput, 'bytes' | 'size'>): Promise<Detected | null> {
  const head = bytes.subarray(0, HEAD);
  const tail = bytes.length < size ? bytes.subarray(HEAD) : bytes;
  // A witness that stumbles over the bytes has seen nothing.
  const witness = await fileTypeFromBuffer(head).catch(() => undefined);
  return judge({ head, tail, size }, witness);
}
