import type { AccountSection } from './account-section.js';
import type { Api } from './api.js';
import { byId } from './dom.js';
import { field, onSubmit } from './form.js';

/** The form that changes the password. A change ends all other sessions. */
export function preparePassword(api: Api, email: string, sessions: AccountSection): void {
  const form = byId('password-form', HTMLFormElement);
  // Password managers need the name of the account.
  field(form, 'username', HTMLInputElement).defaultValue = email;
  onSubmit(form, async () => {
    const currentPassword = field(form, 'current', HTMLInputElement).value;
    const newPassword = field(form, 'next', HTMLInputElement).value;
    await api.post<void>('/api/me/password', { currentPassword, newPassword });
    form.reset();
    await sessions.refresh();
    return 'The password is changed. You are signed out everywhere else.';
  });
}
