import { fileTypeFromBuffer } from 'file-type';
import { type TaskInput } from './task-input.js';
import { type Detected, HEAD, judge } from './types.js';

/** Detects the type of a file. The bytes are a sample: see sample.ts. */
export async function detectType({
  bytes,
  size,
}: Pick<TaskInput, 'bytes' | 'size'>): Promise<Detected | null> {
  const head = bytes.subarray(0, HEAD);
  const tail = bytes.length < size ? bytes.subarray(HEAD) : bytes;
  // If file-type throws, there is no witness.
  const witness = await fileTypeFromBuffer(head).catch(() => undefined);
  return judge({ head, tail, size }, witness);
}
