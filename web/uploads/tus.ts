import { Tus, type Uppy } from 'uppy';
import type { Api } from '../api.js';
import { ApiError, readRetryAfter } from '../api-error.js';
import { CreationGate } from './creation-gate.js';

/* How Uppy's tus client sends the files: with a valid token, again after what passes, and not before the server wants it. */

// Keep trying for about ten minutes while the server is away. While the browser is offline there are no
// attempts, and the attempts are counted anew after each byte that arrives.
const RETRY_DELAYS_MS = [0, 1000, 3000, 5000, 10_000, 20_000, ...Array<number>(20).fill(30_000)];
const AT_ONCE = 3;
/** How long to wait if the server does not say it. */
const LIMITED_MS = 5000;

export type Meta = { filename: string; filetype: string; relativePath?: string; modified: number };
export type Body = Record<string, unknown>;
export type Sent = ReturnType<Uppy<Meta, Body>['getFile']>;

interface TusEvents {
  /** A request got no answer. */
  onTrouble(): void;
  /** The server takes no new uploads for so long. */
  onHeld(ms: number): void;
}

/** Sends the files. Each request carries a valid token; new uploads wait until the server takes them. */
export function sendByTus(uppy: Uppy<Meta, Body>, api: Api, events: TusEvents): void {
  const gate = new CreationGate();
  const tokens = new WeakMap<object, string>();
  /** The current request of each file. */
  const latest = new Map<string, object>();
  uppy.on('upload-success', (file) => {
    if (file) latest.delete(file.id);
  });

  /** Whether a request that had to wait is still needed. */
  function isWanted(id: string, request: object): boolean {
    const file = uppy.getFile(id);
    return file !== undefined && !isPaused(file) && latest.get(id) === request;
  }

  uppy.use(Tus, {
    endpoint: '/uploads',
    limit: AT_ONCE,
    retryDelays: RETRY_DELAYS_MS,
    removeFingerprintOnSuccess: true,
    allowedMetaFields: ['filename', 'filetype', 'relativePath'],
    async onBeforeRequest(request, file) {
      const method = request.getMethod();
      if (method !== 'DELETE') latest.set(file.id, request);
      if (method === 'POST') await gate.passed();
      const token = await tokenWhenOnline(api);
      // A paused file has a newer request by now, and a removed file needs none.
      if (method !== 'DELETE' && !isWanted(file.id, request)) await new Promise(() => {});
      request.setHeader('Authorization', `Bearer ${token}`);
      tokens.set(request, token);
    },
    onAfterResponse(request, response) {
      const method = request.getMethod();
      const status = response.getStatus();
      const token = tokens.get(request);
      const isRefused = status === 401 || (status === 423 && response.getHeader('WWW-Authenticate'));
      if (isRefused && token !== undefined) api.tokenRefused(token);
      if (method === 'POST' && (status === 429 || status === 503)) {
        const asked = readRetryAfter(response.getHeader('Retry-After'));
        const ms = asked ?? LIMITED_MS;
        if ((status === 429 || asked !== undefined) && gate.closeFor(ms)) events.onHeld(ms);
      }
      if (isPassing(method, status)) throw new Error(`The server answered ${status}`);
    },
    onShouldRetry(error, _attempt, _options, next) {
      if (!error.originalResponse) events.onTrouble();
      return next(error);
    },
  });
}

/** An access token. Waits while the browser is offline or the server limits requests. */
async function tokenWhenOnline(api: Api): Promise<string> {
  for (;;) {
    try {
      return await api.accessToken();
    } catch (error) {
      if (error instanceof ApiError && error.status === 429) {
        await new Promise((resolve) => setTimeout(resolve, error.retryAfterMs ?? LIMITED_MS));
        continue;
      }
      if (error instanceof ApiError || navigator.onLine) throw error;
      await new Promise((resolve) => window.addEventListener('online', resolve, { once: true }));
    }
  }
}

/** The server's explanation of a failed upload: tus errors are plain text, others problem documents. */
export function refusalIn(request: unknown): string | undefined {
  if (!(request instanceof XMLHttpRequest)) return undefined;
  const type = request.getResponseHeader('content-type') ?? '';
  if (type.startsWith('text/plain')) return request.responseText.trim();
  try {
    const problem: { detail?: string; title?: string } = JSON.parse(request.responseText);
    return problem.detail ?? problem.title;
  } catch {
    return undefined; // a proxy's page
  }
}

/**
 * Whether an answer says nothing about the upload itself, so that the same request is sent again. The tus
 * client takes every failed HEAD (without a valid token, or from a proxy whose server restarts) for the loss
 * of the upload and begins again at the first byte. Only 404 and 410 mean that the upload is lost.
 */
export function isPassing(method: string, status: number): boolean {
  if (status === 401 || status === 429) return true;
  return method === 'HEAD' && status >= 400 && ![404, 410, 423].includes(status);
}

export function isPaused(file: Sent | undefined): boolean {
  return file !== undefined && 'isPaused' in file && file.isPaused === true;
}
