/** Reports that are under way at once in one process; further ones are left out. */
const MAX_UNDER_WAY = 32;

/** Decides which reports of progress are sent: for each upload one at a time, and not too often. */
export interface ProgressThrottle {
  /** @returns whether a report may be sent; the caller then calls `done` at its end */
  begin(uploadId: string): boolean;
  done(uploadId: string): void;
}

/** @param everyMs the shortest time between two reports of one upload */
export function createProgressThrottle(everyMs: number, now = () => performance.now()): ProgressThrottle {
  /** When the last report of an upload began, oldest first. */
  const began = new Map<string, number>();
  const underWay = new Set<string>();
  return {
    begin(uploadId) {
      const time = now();
      for (const [id, at] of began) {
        if (time - at < everyMs) break;
        began.delete(id);
      }
      if (began.has(uploadId) || underWay.has(uploadId) || underWay.size >= MAX_UNDER_WAY) return false;
      began.set(uploadId, time);
      underWay.add(uploadId);
      return true;
    },
    done: (uploadId) => underWay.delete(uploadId),
  };
}
