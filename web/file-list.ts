import { type Api, ApiError, explain, type StoredFile } from './api.js';
import { byId, confirmed, setText } from './dom.js';
import { FileRow, STATUS_WORDS } from './file-row.js';

const BUSY_POLL_MS = 1000;
const IDLE_POLL_MS = 10_000;
const AFTER_ERROR_MS = 5000;
/** How long to keep looking closely after an upload: its file may take a moment to appear. */
const AFTER_UPLOAD_MS = 10_000;

/** The list “Your files”: it asks the server again and again, and changes only what has changed. */
export class FileList {
  readonly #api: Api;
  readonly #list = byId('files', HTMLElement);
  readonly #more = byId('files-more', HTMLButtonElement);
  readonly #rows = new Map<string, FileRow>();
  /** Where the files below the last row begin; null when there are none. */
  #cursor: string | null = null;
  #closeUntil = 0;
  #timer: number | undefined;
  #work: Promise<unknown> = Promise.resolve();

  constructor(api: Api) {
    this.#api = api;
    this.#more.addEventListener('click', () => this.#loadMore());
    document.addEventListener('visibilitychange', () => this.#poll());
    window.addEventListener('online', () => this.#poll());
    this.#poll();
  }

  /** Looks closely for a while: something has just been uploaded. */
  expectChange(): void {
    this.#closeUntil = Date.now() + AFTER_UPLOAD_MS;
    this.#poll();
  }

  #poll(): void {
    clearTimeout(this.#timer);
    if (document.hidden) return;
    this.#oneByOne(async () => {
      let delay = AFTER_ERROR_MS;
      try {
        await this.#refresh();
        const busy = Date.now() < this.#closeUntil || [...this.#rows.values()].some((row) => row.isActive);
        delay = busy ? BUSY_POLL_MS : IDLE_POLL_MS;
        this.#showProblem('');
      } catch (error) {
        if (error instanceof ApiError) delay = Math.max(delay, error.retryAfterMs ?? 0);
        this.#showProblem(explain(error));
      }
      clearTimeout(this.#timer);
      this.#timer = window.setTimeout(() => this.#poll(), delay);
    });
  }

  /** Runs after whatever runs now: two answers must not be woven into each other. */
  #oneByOne(work: () => Promise<void>): void {
    this.#work = this.#work.then(work, work);
  }

  /** Reads from the top down to the oldest file that is still in work. */
  async #refresh(): Promise<void> {
    let { items, nextCursor } = await this.#api.files(null);
    // With more new files than a page holds there would be a hole between them and the rows: begin anew.
    const connected = items.some((file) => this.#rows.has(file.id));
    while (connected && nextCursor !== null && this.#hasActiveBeyond(items)) {
      const page = await this.#api.files(nextCursor);
      items = [...items, ...page.items];
      nextCursor = page.nextCursor;
    }
    this.#removeMissing(items, connected && nextCursor !== null);
    const rest = this.#show(items, this.#list.firstElementChild);
    if (rest === null) this.#cursor = nextCursor;
    this.#showEnds();
  }

  #hasActiveBeyond(items: StoredFile[]): boolean {
    const seen = new Set(items.map((file) => file.id));
    return [...this.#rows].some(([id, row]) => row.isActive && !seen.has(id));
  }

  /** Removes the rows that are not in `items`, except those below the last of them when `keepsRest`. */
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

  /** Shows files in this order before `place`, moving no row that is in its place; answers what follows them. */
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
      await this.#api.deleteFile(id);
    } catch (error) {
      // Gone already is gone.
      if (!(error instanceof ApiError) || error.status !== 404) {
        this.#showProblem(explain(error));
        return;
      }
    }
    // After an answer that is on its way: it may still hold the file and would bring the row back.
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
