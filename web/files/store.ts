import { batch, computed, type ReadonlySignal, signal } from '@preact/signals';
import type { Api, StoredFile } from '../api.js';
import { ApiError, explain } from '../api-error.js';
import { onServerBack, suspectOutage } from '../connection.js';
import { soonText } from '../format.js';
import type { LiveEvent } from './live.js';

/*
 * The files of the user, newest first, as far as they were read. Live events say which file has changed, so that only this
 * one is asked for. Where no events arrive, the newest files are asked for from time to time.
 */

export interface Files {
  readonly list: ReadonlySignal<StoredFile[]>;
  /** Whether the first page was read. */
  readonly isKnown: ReadonlySignal<boolean>;
  readonly hasMore: ReadonlySignal<boolean>;
  /** In words for the user; empty: none. */
  readonly problem: ReadonlySignal<string>;
  /** What screen readers are to say: how files have ended. */
  readonly news: ReadonlySignal<string>;
  loadMore(): void;
  note(event: LiveEvent): void;
  setLive(isLive: boolean): void;
  /** Reads a file that has just been made. @returns when the list has it, or cannot get it for now */
  look(id: string): Promise<void>;
  /** @throws ApiError */
  remove(id: string): Promise<void>;
}

const LOOK_EVERY_MS = 1_000;
const LOOKS = 50;
/** A file at a time up to so many; more at once are read as a page. */
const ONE_BY_ONE = 5;
const BUSY_POLL_MS = 2_000;
const IDLE_POLL_MS = 10_000;
const AFTER_ERROR_MS = 10_000;

export const isActive = ({ status }: Pick<StoredFile, 'status'>) =>
  status === 'pending' || status === 'processing';

/** @param onEnd a file is processed, or one was deleted */
export function openFiles(
  api: Api,
  statusWords: Record<StoredFile['status'], string>,
  onEnd: () => void,
): Files {
  const byId = signal<ReadonlyMap<string, StoredFile>>(new Map());
  const cursor = signal<string | null | undefined>(undefined);
  const problem = signal('');
  const news = signal('');
  /** The files to read again. */
  const outdated = new Set<string>();
  let isLive = false;
  let isReading = false;
  let timer: number | undefined;
  let notBefore = 0;

  const list = computed(() => [...byId.value.values()].sort(newestFirst));

  function put(files: StoredFile[]): void {
    const next = new Map(byId.value);
    const ended: string[] = [];
    for (const file of files) {
      const before = next.get(file.id);
      if (before && isActive(before) && !isActive(file))
        ended.push(`${file.filename}: ${statusWords[file.status]}`);
      next.set(file.id, keepLinks(before, file));
    }
    batch(() => {
      byId.value = next;
      if (ended.length > 0) news.value = ended.join('. ');
    });
    if (ended.length > 0) onEnd();
  }

  function drop(ids: string[]): void {
    const next = new Map(byId.value);
    for (const id of ids) next.delete(id);
    byId.value = next;
  }

  /** Reads the newest files. Those that are not among them any more, and would have to be, are gone. */
  async function readNewest(): Promise<void> {
    const { items, nextCursor } = await api.files(null);
    const present = new Set(items.map(({ id }) => id));
    const oldest = items.at(-1);
    const isMissing = (file: StoredFile) =>
      !present.has(file.id) &&
      (nextCursor === null || (oldest !== undefined && newestFirst(file, oldest) < 0));
    const isConnected =
      byId.value.size === 0 || items.length === 0 || items.some(({ id }) => byId.value.has(id));
    // Otherwise unread files may lie between this page and the others: begin again with this page.
    drop([...byId.value.values()].filter((file) => !isConnected || isMissing(file)).map(({ id }) => id));
    put(items);
    if (cursor.value === undefined || !isConnected) cursor.value = nextCursor;
    for (const id of present) outdated.delete(id);
  }

  async function readOutdated(): Promise<void> {
    if (outdated.size > ONE_BY_ONE) await readNewest();
    const some = [...outdated].slice(0, ONE_BY_ONE);
    for (const id of some) outdated.delete(id);
    const found = await Promise.all(
      some.map((id) =>
        api.get<StoredFile>(`/api/files/${encodeURIComponent(id)}`).catch((error: unknown) => {
          if (error instanceof ApiError && error.status === 404) return undefined;
          outdated.add(id);
          throw error;
        }),
      ),
    );
    drop(some.filter((_, index) => found[index] === undefined));
    put(found.filter((file) => file !== undefined));
  }

  function readIn(ms: number): void {
    clearTimeout(timer);
    timer = window.setTimeout(read, Math.max(ms, notBefore - Date.now()));
  }

  async function read(): Promise<void> {
    if (isReading || document.hidden) return;
    isReading = true;
    notBefore = Date.now() + LOOK_EVERY_MS;
    try {
      await (cursor.value === undefined || (!isLive && outdated.size === 0) ? readNewest() : readOutdated());
      problem.value = '';
    } catch (error) {
      explainPause(error);
    }
    isReading = false;
    if (outdated.size > 0) readIn(0);
    else if (!isLive) readIn(list.value.some(isActive) ? BUSY_POLL_MS : IDLE_POLL_MS);
  }

  function explainPause(error: unknown): void {
    const asked = error instanceof ApiError ? (error.retryAfterMs ?? 0) : 0;
    const wait = Math.max(AFTER_ERROR_MS, asked);
    notBefore = Date.now() + wait;
    if (!(error instanceof ApiError)) {
      // The page says it in one place.
      suspectOutage();
      problem.value = '';
    } else if (error.status === 429) {
      problem.value = `The server is asked too often. The list goes on by itself ${soonText(wait)}.`;
    } else problem.value = explain(error);
    readIn(wait);
  }

  function readAnew(): void {
    outdated.clear();
    cursor.value = undefined;
    notBefore = 0;
    readIn(0);
  }

  document.addEventListener('visibilitychange', () => {
    if (!document.hidden) readIn(0);
  });
  onServerBack(readAnew);
  readIn(0);

  return {
    list,
    isKnown: computed(() => cursor.value !== undefined),
    hasMore: computed(() => typeof cursor.value === 'string'),
    problem,
    news,
    loadMore() {
      const from = cursor.value;
      if (isReading || typeof from !== 'string') return;
      isReading = true;
      api
        .files(from)
        .then((page) => {
          batch(() => {
            put(page.items.filter(({ id }) => !byId.value.has(id)));
            cursor.value = page.nextCursor;
          });
        }, explainPause)
        .finally(() => {
          isReading = false;
          if (outdated.size > 0) readIn(0);
        });
    },
    note({ type, subjectId, data }) {
      if (!subjectId || !type.startsWith('file.')) return;
      const known = byId.value.get(subjectId);
      if (type === 'file.deleted' || type === 'file.purged') {
        if (known) drop([subjectId]);
        onEnd();
        return;
      }
      // These say all that the list shows.
      if (known && type === 'file.processing') return put([{ ...known, status: 'processing' }]);
      if (known && type === 'file.step' && typeof data.step === 'string') {
        const record = data as unknown as StoredFile['steps'][string];
        return put([{ ...known, status: 'processing', steps: { ...known.steps, [data.step]: record } }]);
      }
      outdated.add(subjectId);
      readIn(0);
    },
    setLive(now) {
      if (isLive === now) return;
      isLive = now;
      readAnew();
    },
    async look(id) {
      outdated.add(id);
      // The first one that is finished is shown at once; of many at a time the list tells soon enough.
      readIn(0);
      for (let tries = 0; tries < LOOKS && !byId.value.has(id); tries++) {
        await new Promise((resolve) => setTimeout(resolve, LOOK_EVERY_MS / 5));
      }
    },
    async remove(id) {
      await api.delete(`/api/files/${encodeURIComponent(id)}`).catch((error: unknown) => {
        // It is deleted already.
        if (!(error instanceof ApiError) || error.status !== 404) throw error;
      });
      drop([id]);
      onEnd();
    },
  };
}

function newestFirst(a: StoredFile, b: StoredFile): number {
  if (a.createdAt !== b.createdAt) return a.createdAt < b.createdAt ? 1 : -1;
  return a.id < b.id ? 1 : -1;
}

/** Each answer signs new addresses. The image of a row that is shown already would be fetched again. */
function keepLinks(before: StoredFile | undefined, now: StoredFile): StoredFile {
  const thumbnails = before?.links.thumbnails;
  if (!thumbnails || !now.links.thumbnails || before.completedAt !== now.completedAt) return now;
  return { ...now, links: { ...now.links, thumbnails } };
}
