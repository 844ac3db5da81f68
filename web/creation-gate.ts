/** What a browser's timer can count. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

/** Holds new uploads back while the server takes none. What was begun goes on meanwhile. */
export class CreationGate {
  #opensAt = 0;

  /** Says for how long the server takes no new uploads. Answers whether the gate was open before. */
  closeFor(ms: number): boolean {
    const wasOpen = this.#opensAt <= Date.now();
    this.#opensAt = Math.max(this.#opensAt, Date.now() + ms);
    return wasOpen;
  }

  /** Returns when the gate is open. */
  async passed(): Promise<void> {
    for (;;) {
      const wait = this.#opensAt - Date.now();
      if (wait <= 0) return;
      await new Promise((resolve) => setTimeout(resolve, Math.min(wait, LONGEST_TIMER_MS)));
    }
  }
}
