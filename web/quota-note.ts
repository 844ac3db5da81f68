import type { UsageJson } from '../server/answers/account.js';
import type { Api } from './api.js';
import { ApiError } from './api-error.js';
import { byId, setText } from './dom.js';
import { quotaNote } from './usage.js';

/** Many files may finish in a second, and one request is enough for all of them. */
const GATHER_MS = 1500;

/** Shows a note beside the upload area when the quota is nearly used up. */
export class QuotaNote {
  readonly #api: Api;
  #timer: number | undefined;

  constructor(api: Api) {
    this.#api = api;
    this.#look();
  }

  /** Call this after something was uploaded, refused or deleted. */
  expectChange(): void {
    this.#lookIn(GATHER_MS);
  }

  #lookIn(ms: number): void {
    this.#timer ??= window.setTimeout(() => {
      this.#timer = undefined;
      this.#look();
    }, ms);
  }

  async #look(): Promise<void> {
    try {
      setText(byId('quota-note', HTMLElement), quotaNote(await this.#api.get<UsageJson>('/api/me')));
    } catch (error) {
      // The list of files shows the problem with the server.
      const wait = error instanceof ApiError ? error.retryAfterMs : undefined;
      if (wait !== undefined) this.#lookIn(Math.max(GATHER_MS, wait));
    }
  }
}
