import type { FileHandle } from 'node:fs/promises';

/**
 * Writes chunks behind each other. The system may take less in one call than it was given.
 * @param bytes of all chunks together
 * @param position of the first byte in the file
 */
export async function writeAll(
  handle: FileHandle,
  chunks: Uint8Array[],
  bytes: number,
  position: number,
): Promise<void> {
  const { bytesWritten } = await handle.writev(chunks, position);
  if (bytesWritten === bytes) return;
  const rest = Buffer.concat(chunks).subarray(bytesWritten);
  for (let done = 0; done < rest.length; ) {
    const at = position + bytesWritten + done;
    done += (await handle.write(rest, done, rest.length - done, at)).bytesWritten;
  }
}
