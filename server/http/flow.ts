import type { Readable } from 'node:stream';
import type { Take } from '../../core/uploads/receive.js';

/** Hands the chunks of a stream to `take`, and pauses the stream while that is full. @throws the error of the stream */
export function flowFrom(stream: Readable, take: Take): Promise<void> {
  return new Promise((resolve, reject) => {
    const onClose = () => reject(stream.errored ?? new Error('The stream was destroyed'));
    if (stream.readableEnded) return resolve();
    if (stream.destroyed) return onClose();
    stream.on('data', (chunk: Uint8Array) => {
      const full = take(chunk);
      if (!full) return;
      stream.pause();
      full.then(() => stream.resume());
    });
    stream.on('end', resolve).on('error', reject).on('close', onClose);
  });
}
