import type { AccountJson, AccountPageJson } from '../server/answers/admin.js';
import { AccountSection, type Item } from './account-section.js';
import type { Api } from './api.js';
import { byId, setText } from './dom.js';
import { choiceOf, field, onSubmit } from './form.js';
import { timeText } from './format.js';
import { readSize, writeSize } from './size-field.js';
import { usageTexts } from './usage.js';

/** All accounts, for admins: role, quota, disabling. */
export function prepareUsers(api: Api): void {
  const section: AccountSection = new AccountSection('account-users', async (cursor) => {
    const query = new URLSearchParams({ limit: '50', ...(cursor !== null && { cursor }) });
    const { items, nextCursor } = await api.get<AccountPageJson>(`/api/admin/users?${query}`);
    return { items: items.map(toItem), nextCursor };
  });

  function toItem(account: AccountJson): Item {
    const { bytes, files } = usageTexts(account);
    return {
      id: account.id,
      name: account.email,
      mark: account.disabled ? 'Locked out' : account.role === 'admin' ? 'Admin' : undefined,
      facts: [
        bytes,
        files,
        account.external ? 'of the identity provider' : '',
        `since ${timeText(account.createdAt)}`,
      ],
      actions: [
        {
          text: 'Change',
          label: `Change ${account.email}`,
          async run(element) {
            edit(account, element);
            return false;
          },
        },
      ],
    };
  }

  /** Shows the form below the account and removes a form that is open elsewhere. */
  function edit(account: AccountJson, element: HTMLElement): void {
    byId('account-users', HTMLElement).querySelector('.items form')?.remove();
    const form = formOf(account);
    form.querySelector('.cancel')?.addEventListener('click', () => {
      form.remove();
      element.querySelector('button')?.focus();
    });
    onSubmit(form, async () => {
      const change = changeIn(form, account);
      const isChanged = Object.keys(change).length > 0;
      const path = `/api/admin/users/${account.id}`;
      section.replace(toItem(isChanged ? await api.patch<AccountJson>(path, change) : account));
      return undefined;
    });
    element.append(form);
    field(form, 'role', HTMLSelectElement).focus();
  }
}

/** The form, filled with the current values of the account. */
function formOf({ email, role, disabled, quota }: AccountJson): HTMLFormElement {
  const template = byId('user-form', HTMLTemplateElement).content.cloneNode(true) as DocumentFragment;
  const form = template.firstElementChild as HTMLFormElement;
  form.setAttribute('aria-label', `Change ${email}`);
  field(form, 'role', HTMLSelectElement).value = role;
  field(form, 'disabled', HTMLInputElement).checked = disabled;
  setText(form.querySelector('.limits') as HTMLElement, limitsText(quota));
  if (quota.bytes !== null) writeSize(form, 'bytes', quota.bytes);
  if (quota.files !== null) field(form, 'files', HTMLInputElement).value = String(quota.files);
  for (const name of ['bytes', 'files']) prepareLimit(form, name);
  return form;
}

/** Shows the number field only if the limit is a number. */
function prepareLimit(form: HTMLFormElement, name: string): void {
  const choice = field(form, `${name}-limit`, HTMLSelectElement);
  const number = form.querySelector(`[data-limit="${name}"]`) as HTMLElement;
  const show = () => {
    number.hidden = choice.value !== 'number';
    field(form, name, HTMLInputElement).required = choice.value === 'number';
  };
  choice.addEventListener('change', show);
  show();
}

function limitsText(quota: AccountJson['quota']): string {
  const none = { bytes: 0, files: 0 };
  const { bytes, files } = usageTexts({ quota, usage: none });
  const limits = [quota.bytes === null ? '' : bytes, quota.files === null ? '' : files]
    .filter((text) => text !== '')
    .map((text) => text.replace(/^.* of /, ''));
  return limits.length === 0 ? 'No limit now.' : `At most ${limits.join(' and ')} now.`;
}

/** Returns only the changed values: a default limit that was not touched stays the default. */
function changeIn(form: HTMLFormElement, account: AccountJson): object {
  const role = choiceOf(form, 'role');
  const disabled = field(form, 'disabled', HTMLInputElement).checked;
  const limits = [
    ['maxBytes', choiceOf(form, 'bytes-limit'), readSize(form, 'bytes')],
    ['maxFiles', choiceOf(form, 'files-limit'), Number(field(form, 'files', HTMLInputElement).value)],
  ] as const;
  return {
    ...(role !== account.role && { role }),
    ...(disabled !== account.disabled && { disabled }),
    ...Object.fromEntries(
      limits
        .filter(([, choice]) => choice !== 'same')
        .map(([name, choice, number]) => [
          name,
          choice === 'number' ? number : choice === 'none' ? null : 'default',
        ]),
    ),
  };
}
