import { setText } from './dom.js';

/*
 * Shows a secret that the server reveals only once, with a button that copies it, until the user hides it.
 */

/** Shows `secret` alone in `place` and gives it the focus. @param words the purpose of the secret */
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
    // Browsers offer the clipboard to secure origins only, but execCommand() everywhere.
    field.focus();
    field.select();
    return document.execCommand('copy');
  }
}
