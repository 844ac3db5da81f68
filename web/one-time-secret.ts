import { setText } from './dom.js';

/*
 * A secret that the server tells once: shown until it is put away, with a button that copies it.
 */

/** Shows `secret` in `place`, which holds nothing else, and puts the focus on it. @param words what it is good for */
export function showSecret(place: HTMLElement, words: string, secret: string): void {
  const template = document.getElementById('secret-template') as HTMLTemplateElement;
  place.replaceChildren(template.content.cloneNode(true));
  const value = place.querySelector('input') as HTMLInputElement;
  const state = place.querySelector('.done') as HTMLElement;
  setText(place.querySelector('.words') as HTMLElement, words);
  value.value = secret;
  place.querySelector('.copy')?.addEventListener('click', async () => {
    const copied = await copy(value);
    setText(
      state,
      copied ? 'Copied.' : 'The browser does not let this page copy: it is selected, press Ctrl+C.',
    );
  });
  place.querySelector('.put-away')?.addEventListener('click', () => {
    const summary = place.closest('details')?.querySelector('summary');
    hideSecret(place);
    summary?.focus();
  });
  value.focus();
  value.select();
}

export function hideSecret(place: HTMLElement): void {
  place.replaceChildren();
}

async function copy(field: HTMLInputElement): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(field.value);
    return true;
  } catch {
    // Browsers offer the clipboard to secure origins only, and the older way everywhere.
    field.focus();
    field.select();
    return document.execCommand('copy');
  }
}
