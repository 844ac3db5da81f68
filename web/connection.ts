import { signal } from '@preact/signals';

/*
 * Whether the server can be reached. Requests that got no answer report it here; then the page asks for a sign of life until
 * there is one, and tells everybody who waits for it.
 */

export type Connection =
  | { state: 'online' }
  /** The browser says that it has no network. */
  | { state: 'offline' }
  /** @property nextTryAt milliseconds since 1970; undefined: it is being tried now */
  | { state: 'away'; nextTryAt?: number };

export const connection = signal<Connection>({ state: navigator.onLine ? 'online' : 'offline' });

const FIRST_PAUSE_MS = 2_000;
const LONGEST_PAUSE_MS = 30_000;
const ANSWER_MS = 10_000;

const listeners = new Set<() => void>();
let skipPause = () => {};
let isAsking = false;

/** Calls `listener` each time the server is there again. */
export function onServerBack(listener: () => void): void {
  listeners.add(listener);
}

/** Reports that a request got no answer. */
export function suspectOutage(): void {
  if (connection.value.state === 'online') void askUntilBack();
}

/** Asks at once instead of at the next time. */
export function tryNow(): void {
  skipPause();
}

window.addEventListener('offline', () => {
  connection.value = { state: 'offline' };
});
window.addEventListener('online', () => {
  skipPause();
  void askUntilBack();
});

async function askUntilBack(): Promise<void> {
  if (isAsking) return;
  isAsking = true;
  const wasShown = connection.value.state !== 'online';
  for (let pause = FIRST_PAUSE_MS, isFirst = true; !(await answers()); isFirst = false) {
    if (navigator.onLine) connection.value = { state: 'away', nextTryAt: Date.now() + pause };
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, pause);
      skipPause = () => {
        clearTimeout(timer);
        resolve();
      };
    });
    skipPause = () => {};
    if (navigator.onLine) connection.value = { state: 'away' };
    if (!isFirst) pause = Math.min(2 * pause, LONGEST_PAUSE_MS);
  }
  isAsking = false;
  const wasAway = wasShown || connection.value.state !== 'online';
  connection.value = { state: 'online' };
  if (wasAway) for (const listener of listeners) listener();
}

/** Whether the server answers, and not only a proxy before it. */
async function answers(): Promise<boolean> {
  try {
    const answer = await fetch('/health/live', { cache: 'no-store', signal: AbortSignal.timeout(ANSWER_MS) });
    return answer.ok;
  } catch {
    return false;
  }
}
