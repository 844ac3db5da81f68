/** Bytes, or milliseconds, after which a new measurement begins. */
const WINDOW_BYTES = 256 * 1024;
const WINDOW_MS = 250;

/** Nothing is said of a sender before it has sent this many bytes, or for this long. */
const FIRST_BYTES = 64 * 1024;

/**
 * Bytes a millisecond from which a sender is fast: 1 MiB a second. Not more: on a busy machine the chunks of a fast sender
 * come late too.
 */
const FAST = 1024 ** 2 / 1000;

/** How long a fast sender may send nothing, in milliseconds. */
const SILENCE_MS = 250;

/** Measures how fast a sender sends. Times are milliseconds of performance.now(). */
export class Pace {
  private began: number | undefined;
  private last = 0;
  private bytes = 0;
  /** Bytes a millisecond in the last window; undefined as long as it cannot be said. */
  rate: number | undefined;

  note(bytes: number, now: number): void {
    this.last = now;
    if (this.began === undefined) {
      this.began = now;
      return;
    }
    this.bytes += bytes;
    const elapsed = now - this.began;
    const enough = this.rate === undefined ? FIRST_BYTES : WINDOW_BYTES;
    if (this.bytes < enough && elapsed < WINDOW_MS) return;
    this.rate = this.bytes / Math.max(elapsed, 0.01);
    this.began = now;
    this.bytes = 0;
  }

  /** The time in which nothing could be taken from the sender does not count. */
  pause(ms: number): void {
    if (this.began !== undefined) this.began += ms;
    this.last += ms;
  }

  /** Undefined as long as it cannot be said. */
  get isFast(): boolean | undefined {
    return this.rate === undefined ? undefined : this.rate >= FAST;
  }

  /** Whether the sender will have sent `bytes` more within `ms` milliseconds. */
  willSend(bytes: number, ms: number, now: number): boolean {
    if (now - this.last > SILENCE_MS) return false;
    return this.rate === undefined || this.rate * ms >= bytes;
  }
}
