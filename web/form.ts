import { explain } from './api-error.js';
import { setText } from './dom.js';

/**
 * Runs `work` when the form is sent, one run at a time. What went wrong is told in the form's `.problem`; what `work`
 * returns, in its `.done`.
 */
export function onSubmit(form: HTMLFormElement, work: () => Promise<string | undefined>): void {
  const submit = form.querySelector<HTMLButtonElement>('button[type=submit]');
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    if (form.ariaBusy === 'true') return;
    form.ariaBusy = 'true';
    tell(form, '', '');
    // Not disabled: it would lose the focus.
    submit?.setAttribute('aria-disabled', 'true');
    try {
      tell(form, '', (await work()) ?? '');
    } catch (error) {
      tell(form, explain(error), '');
    } finally {
      form.ariaBusy = 'false';
      submit?.removeAttribute('aria-disabled');
    }
  });
}

function tell(form: HTMLFormElement, problem: string, done: string): void {
  for (const [selector, text] of [
    ['.problem', problem],
    ['.done', done],
  ] as const) {
    const place = form.querySelector(selector);
    if (place) setText(place, text);
  }
}

/** The field with this name. */
export function field<T extends HTMLElement>(form: HTMLFormElement, name: string, type: new () => T): T {
  const element = form.elements.namedItem(name);
  if (!(element instanceof type)) throw new Error(`#${form.id} has no ${type.name} called ${name}`);
  return element;
}

/** The text of a field without the blanks around it; undefined if there is none. */
export function textOf(form: HTMLFormElement, name: string): string | undefined {
  return field(form, name, HTMLInputElement).value.trim() || undefined;
}

/** What was chosen in a field of a form, `''` included. */
export function choiceOf(form: HTMLFormElement, name: string): string {
  return field(form, name, HTMLSelectElement).value;
}

/** So many hours from now, as the API wants it; undefined for never. */
export function timeInHours(hours: string): string | undefined {
  return hours === '' ? undefined : new Date(Date.now() + Number(hours) * 3_600_000).toISOString();
}
