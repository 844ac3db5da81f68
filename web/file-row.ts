import type { FileStatus, StoredFile } from './api.js';
import { byId, setText } from './dom.js';
import { sizeText, timeText } from './format.js';

/** The word that users see for a status. */
export const STATUS_WORDS: Record<FileStatus, string> = {
  pending: 'Waiting',
  processing: 'Processing',
  completed: 'Completed',
  failed: 'Failed',
  infected: 'Infected',
  paused: 'Paused',
  canceled: 'Canceled',
};

const STEP_WORDS: Record<string, string> = {
  verify: 'Checking the bytes',
  sniff: 'Recognising the type',
  scan: 'Scanning for malware',
  metadata: 'Reading metadata',
  thumbnails: 'Making thumbnails',
  document: 'Reading the document',
  optimize: 'Optimising',
};

/** One file of the list. */
export class FileRow {
  readonly element: HTMLElement;
  filename = '';
  status: FileStatus = 'pending';
  readonly #thumb: HTMLElement;
  readonly #delete: HTMLButtonElement;
  #image: HTMLImageElement | undefined;

  constructor(onDelete: () => void) {
    const template = byId('file-row', HTMLTemplateElement).content.cloneNode(true) as DocumentFragment;
    this.element = template.firstElementChild as HTMLElement;
    this.#thumb = this.#part('.thumb');
    this.#delete = this.#part('.delete');
    this.#delete.addEventListener('click', onDelete);
  }

  /** Whether the worker still has work to do for the file. */
  get isActive(): boolean {
    return this.status === 'pending' || this.status === 'processing';
  }

  focus(): void {
    this.#delete.focus();
  }

  update(file: StoredFile): void {
    this.filename = file.filename;
    this.status = file.status;
    this.element.dataset.id = file.id;
    this.element.dataset.status = file.status;
    setText(this.#part('.name'), file.filename);
    setText(this.#part('.facts'), facts(file));
    setText(this.#part('.badge'), STATUS_WORDS[file.status] ?? file.status);
    setText(this.#part('.step'), this.isActive && file.step ? (STEP_WORDS[file.step] ?? file.step) : '');
    this.#delete.setAttribute('aria-label', `Delete ${file.filename}`);
    this.#showProgress(file);
    this.#showMessages(file);
    this.#showLinks(file);
  }

  #part<T extends HTMLElement>(selector: string): T {
    return this.element.querySelector(selector) as T;
  }

  #showProgress(file: StoredFile): void {
    const bar = this.#part('.progress');
    const progress = Math.round(file.progress);
    bar.hidden = !this.isActive && file.status !== 'paused';
    bar.setAttribute('aria-label', `Processing of ${file.filename}`);
    bar.setAttribute('aria-valuenow', String(progress));
    (bar.firstElementChild as HTMLElement).style.width = `${progress}%`;
  }

  #showMessages(file: StoredFile): void {
    const texts = [
      ...(file.error ? [file.error.detail || 'Processing failed.'] : []),
      ...file.warnings.map(({ step, code, detail }) => `${step}: ${detail || code}`),
    ];
    const messages = this.#part('.messages');
    if (texts.join('\n') === [...messages.children].map((item) => item.textContent).join('\n')) return;
    messages.hidden = texts.length === 0;
    messages.replaceChildren(
      ...texts.map((text) => {
        const item = document.createElement('li');
        item.textContent = text;
        return item;
      }),
    );
  }

  #showLinks({ filename, links }: StoredFile): void {
    const download = this.#part<HTMLAnchorElement>('.download');
    download.hidden = links.content === null;
    if (links.content !== null)
      download.href = `${links.content}${links.content.includes('?') ? '&' : '?'}download=1`;
    download.setAttribute('aria-label', `Download ${filename}`);

    setText(this.#part('.kind'), extension(filename));
    // Each answer signs a new URL; an image that is already shown does not need it.
    const address = links.thumbnails?.small;
    if (!address || this.#image) return;
    const image = document.createElement('img');
    image.alt = '';
    image.addEventListener('error', () => {
      image.remove();
      this.#image = undefined;
    });
    image.src = address;
    this.#image = image;
    this.#thumb.append(image);
  }
}

function facts(file: StoredFile): string {
  const type = file.detectedType ?? file.declaredType;
  const parts = [sizeText(file.size), type ?? '', timeText(file.createdAt)];
  return parts.filter((part) => part !== '').join(' · ');
}

function extension(filename: string): string {
  const match = /\.([a-z0-9]{1,4})$/i.exec(filename);
  return match?.[1]?.toUpperCase() ?? '';
}
