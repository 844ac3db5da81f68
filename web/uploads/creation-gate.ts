/** The longest delay that a browser's timer accepts. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

/** Holds new uploads back while the server takes none. Uploads under way continue. */
export class CreationGate {
  #opensAt = 0;

  /** Closes the gate for this long. Returns whether it was open before. */
  closeFor(ms: number): boolean {
    const wasOpen = this.#opensAt <= Date.now();
    this.#opensAt = Math.max(this.#opensAt, Date.now() + ms);
    return wasOpen;
  }

  /** Resolves when the gate is open. */
  async passed(): Promise<void> {
    for (;;) {
      const wait = this.#opensAt - Date.now();
      if (wait <= 0) return;
      await new Promise((resolve) => setTimeout(resolve, Math.min(wait, LONGEST_TIMER_MS)));
    }
  }
}
