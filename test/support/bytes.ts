import type { Progress, StoredUpload, UploadStore } from '../../core/storage/storage.js';
import type { ByteSource } from '../../core/uploads/receive.js';

/** A body that gives these parts. */
export async function* parts(...texts: string[]): AsyncGenerator<Uint8Array> {
  for (const text of texts) yield Buffer.from(text);
}

/** Pushes the chunks of an iterator. */
export function sourceOf(chunks: AsyncIterable<Uint8Array>): ByteSource {
  let ended = false;
  return {
    async flow(take) {
      for await (const chunk of chunks) {
        if (ended) return;
        await take(chunk);
      }
    },
    end() {
      ended = true;
    },
  };
}

/** Stores the chunks of an iterator, also those from before an error of the iterator. @throws the first error */
export async function appendTo(
  store: UploadStore,
  upload: StoredUpload,
  chunks: AsyncIterable<Uint8Array>,
  commit: (progress: Progress) => Promise<void>,
): Promise<void> {
  const sink = await store.open(upload, commit);
  const source = sourceOf(chunks);
  sink.failed.addEventListener('abort', source.end);
  const flowing = source.flow((chunk) => sink.write(chunk));
  await flowing.catch(() => sink.hurry());
  await sink.end();
  await flowing;
}
