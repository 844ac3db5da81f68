import { explain } from './api-error.js';
import { setText } from './dom.js';

/**
 * Runs `work` when the form is submitted, one run at a time. Shows an error in the form's `.problem` and the
 * result of `work` in its `.done`.
 */
export function onSubmit(form: HTMLFormElement, work: () => Promise<string | undefined>): void {
  const submit = form.querySelector<HTMLButtonElement>('button[type=submit]');
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    if (form.ariaBusy === 'true') return;
    form.ariaBusy = 'true';
    tell(form, '', '');
    // Do not disable the button: it would lose the focus.
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

/** The field called `name`. */
export function field<T extends HTMLElement>(form: HTMLFormElement, name: string, type: new () => T): T {
  const element = form.elements.namedItem(name);
  if (!(element instanceof type)) throw new Error(`#${form.id} has no ${type.name} called ${name}`);
  return element;
}

/** The text of a field without blanks around it; undefined if it is empty. */
export function textOf(form: HTMLFormElement, name: string): string | undefined {
  return field(form, name, HTMLInputElement).value.trim() || undefined;
}

/** The option chosen in a field, `''` included. */
export function choiceOf(form: HTMLFormElement, name: string): string {
  return field(form, name, HTMLSelectElement).value;
}

/** The time in this many hours, in the format of the API; undefined for never. */
export function timeInHours(hours: string): string | undefined {
  return hours === '' ? undefined : new Date(Date.now() + Number(hours) * 3_600_000).toISOString();
}
