import type { Api } from '../api.js';
import { ApiError } from '../api-error.js';
import { suspectOutage } from '../connection.js';

/** The server sends at least a comment every 15 seconds. Without any, a proxy keeps the answer, or the connection is dead. */
const SILENCE_MS = 40_000;
const FIRST_RETRY_MS = 2_000;
const MAX_RETRY_MS = 60_000;

/** Something that has happened to an upload or a file of the user. */
export interface LiveEvent {
  type: string;
  subjectId: string | null;
  data: Record<string, unknown>;
}

interface Listener {
  /** Called when events begin to arrive, and when they stop. */
  onLive(isLive: boolean): void;
  onEvent(event: LiveEvent): void;
}

/**
 * Listens to the live events of the signed-in user while the page is visible. A hidden page would hold one of the few
 * connections that a browser opens to a server. It reads the stream itself: EventSource does not show comments, nor why
 * a server refuses.
 */
export async function followEvents(api: Api, listener: Listener): Promise<never> {
  for (let delay = FIRST_RETRY_MS; ; ) {
    await whenVisible();
    try {
      await follow(api, listener.onEvent, () => {
        delay = FIRST_RETRY_MS;
        listener.onLive(true);
      });
    } catch (error) {
      if (!(error instanceof ApiError)) suspectOutage();
      const asked = error instanceof ApiError ? (error.retryAfterMs ?? 0) : 0;
      delay = Math.max(asked, Math.min(2 * delay, MAX_RETRY_MS));
    }
    listener.onLive(false);
    // Many pages lose the same server at the same time.
    await new Promise((resolve) => setTimeout(resolve, delay * (1 + Math.random() / 2)));
  }
}

function whenVisible(): Promise<void> {
  return new Promise((resolve) => {
    const look = () => {
      if (document.hidden) return;
      document.removeEventListener('visibilitychange', look);
      resolve();
    };
    document.addEventListener('visibilitychange', look);
    look();
  });
}

/** Listens until the stream ends, the page is hidden, or nothing arrives any more. @param onBegin at the first bytes */
async function follow(api: Api, onEvent: (event: LiveEvent) => void, onBegin: () => void): Promise<void> {
  const stop = new AbortController();
  const stopIfHidden = () => {
    if (document.hidden) stop.abort();
  };
  document.addEventListener('visibilitychange', stopIfHidden);
  let silence = window.setTimeout(() => stop.abort(), SILENCE_MS);
  try {
    const reader = (await api.stream('/api/events', stop.signal)).getReader();
    let line = '';
    for (let isFirst = true; ; isFirst = false) {
      const { done, value = '' } = await reader.read();
      if (done) return;
      clearTimeout(silence);
      silence = window.setTimeout(() => stop.abort(), SILENCE_MS);
      if (isFirst) onBegin();
      const lines = (line + value).split('\n');
      line = lines.pop() ?? '';
      for (const one of lines) {
        if (one.startsWith('data:')) onEvent(JSON.parse(one.slice('data:'.length)));
      }
    }
  } catch (error) {
    if (!document.hidden) throw error;
  } finally {
    clearTimeout(silence);
    document.removeEventListener('visibilitychange', stopIfHidden);
  }
}
