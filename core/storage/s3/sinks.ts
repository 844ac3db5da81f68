import type { CommitTime, StoredUpload, UploadSink } from '../storage.js';
import { type Commit, S3Sink, type SinkDeps } from './sink.js';

/* The sinks that are open, and the clock that tells each when its bytes have waited too long. */

const TICK_MS = 1_000;

/** @returns a function that opens a sink; see UploadStore.open */
export function createSinks(
  deps: SinkDeps,
): (upload: StoredUpload, commit: Commit, time?: CommitTime) => UploadSink {
  const open = new Set<S3Sink>();
  let ticking: NodeJS.Timeout | undefined;

  function tick(): void {
    const now = performance.now();
    for (const sink of open) sink.tick(now);
  }

  return (upload, commit, time) => {
    const onEnd = () => {
      open.delete(sink);
      if (open.size > 0) return;
      clearInterval(ticking);
      ticking = undefined;
    };
    const sink = new S3Sink(deps, upload, commit, onEnd, time);
    open.add(sink);
    ticking ??= setInterval(tick, TICK_MS).unref();
    return sink;
  };
}
