import type { Api } from './api.js';
import { explain } from './api-error.js';
import { byId, confirmed, setText } from './dom.js';

/** An entry in a list of the account dialog. */
export interface Item {
  id: string;
  name: string;
  /** A word that stands out, such as “This one”. */
  mark?: string | undefined;
  facts: string[];
  actions: Action[];
}

interface Action {
  text: string;
  /** Names the action and its object, for users who hear the button without its surroundings. */
  label: string;
  /** Asked before the action runs. */
  question?: string;
  /** Returns whether to load the items again afterwards. */
  run(item: HTMLElement): Promise<boolean>;
}

/** An action that deletes the resource at `path` of the API; then the items are loaded again. */
export function deletion(api: Api, path: string, words: Omit<Action, 'run'>): Action {
  return {
    ...words,
    async run() {
      await api.delete(path);
      return true;
    },
  };
}

export interface ItemPage {
  items: Item[];
  nextCursor: string | null;
}

/** A part of the account dialog that lists items. It loads them each time it is opened. */
export class AccountSection {
  readonly #details: HTMLDetailsElement;
  readonly #load: (cursor: string | null) => Promise<ItemPage>;
  readonly #list: HTMLElement;
  readonly #more: HTMLButtonElement | null;
  #cursor: string | null = null;

  constructor(id: string, load: (cursor: string | null) => Promise<ItemPage>) {
    this.#details = byId(id, HTMLDetailsElement);
    this.#load = load;
    this.#list = this.#details.querySelector('.items') as HTMLElement;
    this.#more = this.#details.querySelector('.more');
    this.#more?.addEventListener('click', () => this.#loadMore());
    this.#details.addEventListener('toggle', () => {
      if (this.#details.open) void this.refresh();
    });
  }

  /** Loads the first items again and shows them. */
  async refresh(): Promise<void> {
    await this.#tried(async () => {
      const page = await this.#load(null);
      this.#list.replaceChildren(...page.items.map((item) => this.#show(item)));
      this.#showEnd(page);
    });
  }

  /** Shows the new state of an item in its place. */
  replace(item: Item): void {
    const present = this.#find(item.id);
    const fresh = this.#show(item);
    present?.replaceWith(fresh);
    fresh.querySelector('button')?.focus();
  }

  async #loadMore(): Promise<void> {
    await this.#tried(async () => {
      const page = await this.#load(this.#cursor);
      const fresh = page.items.map((item) => this.#show(item));
      this.#list.append(...fresh);
      fresh[0]?.querySelector('button')?.focus();
      this.#showEnd(page);
    });
  }

  #showEnd({ nextCursor }: ItemPage): void {
    this.#cursor = nextCursor;
    if (this.#more) this.#more.hidden = nextCursor === null;
    const empty = this.#details.querySelector<HTMLElement>('.empty');
    if (empty) empty.hidden = this.#list.childElementCount > 0;
  }

  #show({ id, name, mark, facts, actions }: Item): HTMLElement {
    const template = byId('account-item', HTMLTemplateElement).content.cloneNode(true) as DocumentFragment;
    const element = template.firstElementChild as HTMLElement;
    element.dataset.id = id;
    setText(element.querySelector('.name') as HTMLElement, name);
    const badge = element.querySelector('.badge') as HTMLElement;
    badge.hidden = mark === undefined;
    setText(badge, mark ?? '');
    setText(element.querySelector('.facts') as HTMLElement, facts.filter((fact) => fact !== '').join(' · '));
    element.querySelector('.actions')?.append(...actions.map((action) => this.#button(action, element)));
    return element;
  }

  #button(action: Action, element: HTMLElement): HTMLButtonElement {
    const button = document.createElement('button');
    button.type = 'button';
    button.className = 'quiet';
    button.textContent = action.text;
    button.setAttribute('aria-label', action.label);
    button.addEventListener('click', async () => {
      if (action.question && !(await confirmed(action.question, action.text))) return;
      await this.#tried(async () => {
        if (await action.run(element)) await this.#refreshAround(element);
      });
    });
    return button;
  }

  /** Loads the items again and restores the focus to its place or near it. */
  async #refreshAround(element: HTMLElement): Promise<void> {
    const near = [element, element.nextElementSibling, element.previousElementSibling];
    const ids = near.map((one) => (one instanceof HTMLElement ? one.dataset.id : undefined));
    await this.refresh();
    const buttons = ids.map((id) => id && this.#find(id)?.querySelector('button'));
    const target = buttons.find((button) => button) || this.#details.querySelector('summary');
    if (target) target.focus();
  }

  #find(id: string): HTMLElement | undefined {
    return [...this.#list.children].find(
      (one): one is HTMLElement => one instanceof HTMLElement && one.dataset.id === id,
    );
  }

  async #tried(work: () => Promise<void>): Promise<void> {
    const problem = this.#details.querySelector(':scope > .problem') as HTMLElement;
    try {
      await work();
      setText(problem, '');
    } catch (error) {
      setText(problem, explain(error));
    }
  }
}
