import { Dashboard, GoldenRetriever, Tus, Uppy } from 'uppy';
import type { Api, User } from './api.js';
import { ApiError, readRetryAfter } from './api-error.js';
import { CreationGate } from './creation-gate.js';
import { soonText } from './format.js';

const MiB = 2 ** 20;
// Keep trying for about ten minutes while the server is away. While the browser is offline there are no
// attempts, and the attempts are counted anew after each byte that arrives.
const RETRY_DELAYS_MS = [0, 1000, 3000, 5000, 10_000, 20_000, ...Array<number>(20).fill(30_000)];
const LOCK_WAIT_MS = 1000;
const REFUSAL_SHOWN_MS = 10_000;
/** How many refusals are shown at once: a folder that exceeds the quota may cause thousands. */
const REFUSALS_SHOWN = 3;
const WAIT_SHOWN_MS = 30_000;
/** How long to wait if the server does not say it. */
const LIMITED_MS = 5000;

/**
 * Creates the Dashboard in `target`, which uploads for this user. `onNews` is called after each file and
 * whenever an upload is disturbed, because the Dashboard does not report a server that is away.
 */
export async function startUploader(api: Api, user: User, target: HTMLElement, onNews: () => void) {
  const restores = await ownsRestore(user);
  // The data kept for a reload has this name, so no user restores the files of another.
  const uppy = new Uppy({ id: `landfall-${user.id}${restores ? '' : `-${Date.now()}`}` });

  uppy.use(Dashboard, {
    inline: true,
    target,
    width: '100%',
    height: 340,
    theme: 'auto',
    proudlyDisplayPoweredByUppy: false,
    note: 'Uploads go on after a lost connection or a reload.',
  });
  uppy.on('file-added', (file) => uppy.setFileMeta(file.id, { filename: file.name, filetype: file.type }));
  sendByTus(uppy, api, onNews);
  tellOutcomes(uppy, onNews);
  if (restores) restoreAfterReload(uppy);

  return {
    /** Whether an upload is in progress. */
    isUploading: () => uppy.getObjectOfFilesPerState().isUploadInProgress,
  };
}

/** Sends the files. Each request carries a valid token; new uploads wait until the server takes them. */
function sendByTus(uppy: Uppy, api: Api, onNews: () => void): void {
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
    return file !== undefined && !('isPaused' in file && file.isPaused) && latest.get(id) === request;
  }

  function holdNewUploads(ms: number): void {
    if (!gate.closeFor(ms)) return;
    const text = `The server takes no more new uploads for now. They go on by themselves ${soonText(ms)}.`;
    uppy.info(text, 'info', Math.min(ms, WAIT_SHOWN_MS));
  }

  uppy.use(Tus, {
    endpoint: '/uploads',
    limit: 3,
    retryDelays: RETRY_DELAYS_MS,
    removeFingerprintOnSuccess: true,
    allowedMetaFields: ['filename', 'filetype'],
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
        if (status === 429 || asked !== undefined) holdNewUploads(asked ?? LIMITED_MS);
      }
      if (isPassing(method, status)) throw new Error(`The server answered ${status}`);
    },
    onShouldRetry(error, _attempt, _options, next) {
      onNews();
      return next(error);
    },
  });
}

/** Shows how an upload has ended, and why. */
function tellOutcomes(uppy: Uppy, onNews: () => void): void {
  uppy.on('upload-success', onNews);
  uppy.on('upload-error', (file, _error, response) => {
    onNews();
    const reason = refusal(response?.body?.xhr);
    if (!file || !reason) return;
    // Otherwise the Dashboard would show the whole answer.
    if (uppy.getFile(file.id)) uppy.setFileState(file.id, { error: reason });
    const shown = uppy.getState().info?.filter(({ type }) => type === 'error') ?? [];
    if (shown.length < REFUSALS_SHOWN) uppy.info(`${file.name}: ${reason}`, 'error', REFUSAL_SHOWN_MS);
  });
}

/** Keeps unfinished uploads across a reload and continues them. */
function restoreAfterReload(uppy: Uppy): void {
  // After a reload users expect their uploads to continue. The Dashboard asks the user about files that must
  // be selected again (they are too large to be kept), were paused, or had not started.
  uppy.on('restored', () => {
    const waits = uppy.getFiles().some((file) => file.isGhost || ('isPaused' in file && file.isPaused));
    const started = Object.keys(uppy.getState().currentUploads).length > 0;
    if (started && !waits) uppy.emit('restore-confirmed');
  });
  // The types of GoldenRetriever lack these limits, which default to 10 and 300 MiB.
  const indexedDB: object = { maxFileSize: 1024 * MiB, maxTotalSize: 4096 * MiB };
  uppy.use(GoldenRetriever, { indexedDB });
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
function refusal(request: unknown): string | undefined {
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
function isPassing(method: string, status: number): boolean {
  if (status === 401 || status === 429) return true;
  return method === 'HEAD' && status >= 400 && ![404, 410, 423].includes(status);
}

/**
 * Whether this tab is the one that keeps and restores unfinished uploads. Two such tabs would send the same
 * upload and disturb each other.
 */
async function ownsRestore(user: User): Promise<boolean> {
  // Only secure origins have locks.
  if (!navigator.locks) return true;
  return new Promise((resolve) => {
    navigator.locks
      // A reloaded page may have to wait until its former self has released the lock.
      .request(`landfall-uploads-${user.id}`, { signal: AbortSignal.timeout(LOCK_WAIT_MS) }, () => {
        resolve(true);
        return new Promise(() => {}); // held until the page goes
      })
      .catch(() => resolve(false));
  });
}
