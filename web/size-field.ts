import { choiceOf, field } from './form.js';

/*
 * A number of bytes has two fields: `<name>`, a number, and `<name>-unit`, a choice whose values are bytes.
 */

/** The size in bytes; undefined if the field is empty. */
export function readSize(form: HTMLFormElement, name: string): number | undefined {
  const { value } = field(form, name, HTMLInputElement);
  return value === '' ? undefined : Math.round(Number(value) * Number(choiceOf(form, `${name}-unit`)));
}

/** Shows a number of bytes in the largest unit that divides it exactly. */
export function writeSize(form: HTMLFormElement, name: string, bytes: number): void {
  const choice = field(form, `${name}-unit`, HTMLSelectElement);
  const units = [...choice.options].map((option) => Number(option.value)).sort((a, b) => b - a);
  const unit = units.find((one) => bytes % one === 0 && bytes >= one) ?? units.at(-1) ?? 1;
  choice.value = String(unit);
  field(form, name, HTMLInputElement).value = String(bytes / unit);
}
