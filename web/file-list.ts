import type { Api, StoredFile } from './api.js';
import { ApiError, explain } from './api-error.js';
import { byId, confirmed, setText } from './dom.js';
import { FileRow, STATUS_WORDS } from './file-row.js';
import { soonText } from './format.js';

const BUSY_POLL_MS = 1000;
const IDLE_POLL_MS = 10_000;
/** While events tell of changes the list only renews the signed links of its rows, which are good for 15 minutes. */
const LIVE_POLL_MS = 5 * 60_000;
const AFTER_ERROR_MS = 5000;
/** How long to poll often after an upload: its file may take a moment to appear. */
const AFTER_UPLOAD_MS = 10_000;

/** The list “Your files”. It polls the server where no live events arrive, and changes only rows that differ. */
export class FileList {
  readonly #api: Api;
  readonly #onDeleted: () => void;
  readonly #list = byId('files', HTMLElement);
  readonly #more = byId('files-more', HTMLButtonElement);
  readonly #rows = new Map<string, FileRow>();
  /** The cursor of the files below the last row; null if there are none. */
  #cursor: string | null = null;
  #closeUntil = 0;
  #timer: number | undefined;
  #isPolling = false;
  /** Whether something may have changed since the last request. */
  #isOutdated = false;
  #isLive = false;
  /** The earliest time of the next request. */
  #notBefore = 0;
  #work: Promise<unknown> = Promise.resolve();

  /** @param onDeleted called after the user has deleted a file */
  constructor(api: Api, onDeleted: () => void) {
    this.#api = api;
    this.#onDeleted = onDeleted;
    this.#more.addEventListener('click', () => this.#loadMore());
    document.addEventListener('visibilitychange', () => this.#pollIn(0));
    window.addEventListener('online', () => this.#pollIn(0));
    this.#pollIn(0);
  }

  /** Polls often for a while, because something has just been uploaded. */
  expectChange(): void {
    this.#closeUntil = Date.now() + AFTER_UPLOAD_MS;
    this.noteChange();
  }

  /** Polls as soon as it may, because something has changed. */
  noteChange(): void {
    this.#isOutdated = true;
    this.#pollIn(0);
  }

  /** @param isLive whether every change is noted from now on */
  setLive(isLive: boolean): void {
    if (this.#isLive === isLive) return;
    this.#isLive = isLive;
    this.noteChange();
  }

  /** Polls after this many milliseconds, or later if it must wait. */
  #pollIn(ms: number): void {
    clearTimeout(this.#timer);
    const wait = Math.max(ms, this.#notBefore - Date.now());
    this.#timer = window.setTimeout(() => this.#poll(), wait);
  }

  #poll(): void {
    if (document.hidden || this.#isPolling) return;
    this.#isPolling = true;
    this.#isOutdated = false;
    this.#oneByOne(async () => {
      let delay = AFTER_ERROR_MS;
      try {
        const begun = Date.now();
        const pages = await this.#refresh();
        // This groups the changes of many uploads, and a long list is not loaded every second.
        this.#notBefore = begun + pages * BUSY_POLL_MS;
        delay = this.#isLive ? LIVE_POLL_MS : this.#isBusy() ? BUSY_POLL_MS : IDLE_POLL_MS;
        this.#showProblem('');
      } catch (error) {
        this.#notBefore = Date.now() + BUSY_POLL_MS;
        this.#explainPause(error);
      }
      this.#isPolling = false;
      this.#pollIn(this.#isOutdated ? 0 : delay);
    });
  }

  #isBusy(): boolean {
    return Date.now() < this.#closeUntil || [...this.#rows.values()].some((row) => row.isActive);
  }

  #explainPause(error: unknown): void {
    if (!(error instanceof ApiError) || error.status !== 429) {
      this.#showProblem(explain(error));
      return;
    }
    const wait = Math.max(AFTER_ERROR_MS, error.retryAfterMs ?? 0);
    this.#notBefore = Date.now() + wait;
    this.#showProblem(`The server is asked too often. The list goes on by itself ${soonText(wait)}.`);
  }

  /** Runs `work` after the current work: two answers must not be mixed. */
  #oneByOne(work: () => Promise<void>): void {
    this.#work = this.#work.then(work, work);
  }

  /** Reads from the top to the oldest file that is still in process. Returns the number of pages read. */
  async #refresh(): Promise<number> {
    let { items, nextCursor } = await this.#api.files(null);
    let pages = 1;
    // If no item is known, unread files may lie between the page and the rows: begin again with this page.
    const connected = items.some((file) => this.#rows.has(file.id));
    while (connected && nextCursor !== null && this.#hasActiveBeyond(items)) {
      const page = await this.#api.files(nextCursor);
      items = [...items, ...page.items];
      nextCursor = page.nextCursor;
      pages += 1;
    }
    this.#removeMissing(items, connected && nextCursor !== null);
    const rest = this.#show(items, this.#list.firstElementChild);
    if (rest === null) this.#cursor = nextCursor;
    this.#showEnds();
    return pages;
  }

  #hasActiveBeyond(items: StoredFile[]): boolean {
    const seen = new Set(items.map((file) => file.id));
    return [...this.#rows].some(([id, row]) => row.isActive && !seen.has(id));
  }

  /** Removes the rows that are not in `items`. With `keepsRest`, rows below the last item stay. */
  #removeMissing(items: StoredFile[], keepsRest: boolean): void {
    const present = new Set(items.map((file) => file.id));
    let below = keepsRest;
    for (const [id, row] of this.#inOrder().reverse()) {
      if (present.has(id)) below = false;
      else if (!below) this.#drop(id, row);
    }
  }

  #inOrder(): [string, FileRow][] {
    const place = new Map([...this.#list.children].map((element, index) => [element, index]));
    return [...this.#rows].sort(([, a], [, b]) => (place.get(a.element) ?? 0) - (place.get(b.element) ?? 0));
  }

  #drop(id: string, row: FileRow): void {
    row.element.remove();
    this.#rows.delete(id);
  }

  /** Shows files before `place`, moving only rows that are out of order. Returns the element after them. */
  #show(files: StoredFile[], place: Element | null): Element | null {
    const news: string[] = [];
    let next = place;
    for (const file of files) {
      const known = this.#rows.get(file.id);
      const row = known ?? new FileRow(() => this.#delete(file.id));
      const before = row.status;
      row.update(file);
      this.#rows.set(file.id, row);
      if (known && before !== file.status && !row.isActive) {
        news.push(`${file.filename}: ${STATUS_WORDS[file.status]}`);
      }
      if (row.element === next) next = next.nextElementSibling;
      else this.#list.insertBefore(row.element, next);
    }
    if (news.length > 0) setText(byId('files-live', HTMLElement), news.join('. '));
    return next;
  }

  #loadMore(): void {
    this.#oneByOne(async () => {
      if (this.#cursor === null) return;
      try {
        const page = await this.#api.files(this.#cursor);
        const fresh = page.items.filter((file) => !this.#rows.has(file.id));
        this.#show(fresh, null);
        this.#cursor = page.nextCursor;
        this.#showEnds();
        this.#showProblem('');
        const first = fresh[0] && this.#rows.get(fresh[0].id);
        if (this.#more.hidden) first?.focus();
      } catch (error) {
        this.#showProblem(explain(error));
      }
    });
  }

  async #delete(id: string): Promise<void> {
    const row = this.#rows.get(id);
    if (
      !row ||
      !(await confirmed(`Delete “${row.filename}”? It cannot be restored from this page.`, 'Delete'))
    )
      return;
    try {
      await this.#api.delete(`/api/files/${encodeURIComponent(id)}`);
    } catch (error) {
      // The file is already deleted.
      if (!(error instanceof ApiError) || error.status !== 404) {
        this.#showProblem(explain(error));
        return;
      }
    }
    this.#onDeleted();
    // Wait for an answer under way: it may still contain the file and would show its row again.
    this.#oneByOne(async () => {
      const order = this.#inOrder();
      const index = order.findIndex(([other]) => other === id);
      const neighbour = order[index + 1]?.[1] ?? order[index - 1]?.[1];
      this.#drop(id, row);
      this.#showEnds();
      if (neighbour) neighbour.focus();
      else byId('files-title', HTMLElement).focus();
    });
  }

  #showEnds(): void {
    this.#more.hidden = this.#cursor === null;
    byId('files-empty', HTMLElement).hidden = this.#rows.size > 0;
  }

  #showProblem(text: string): void {
    setText(byId('files-problem', HTMLElement), text);
  }
}
