import { prepareInvitations } from './account-invitations.js';
import { prepareKeys } from './account-keys.js';
import { preparePassword } from './account-password.js';
import { prepareSessions } from './account-sessions.js';
import { prepareUploadTokens } from './account-upload-tokens.js';
import { showUsage } from './account-usage.js';
import { prepareUsers } from './account-users.js';
import type { Api, User } from './api.js';
import { byId, setText } from './dom.js';
import { hideSecret } from './one-time-secret.js';

/** Prepares the account dialog and returns the function that opens it. The browser restores the focus. */
export function prepareAccountDialog(api: Api, user: User): () => void {
  const dialog = byId('account-dialog', HTMLDialogElement);
  const sessions = prepareSessions(api);
  preparePassword(api, user.email, sessions);
  prepareKeys(api);
  prepareUploadTokens(api);
  for (const section of dialog.querySelectorAll<HTMLElement>('.admins'))
    section.hidden = user.role !== 'admin';
  if (user.role === 'admin') {
    prepareInvitations(api);
    prepareUsers(api);
  }

  byId('account-close', HTMLButtonElement).addEventListener('click', () => dialog.close());
  // The next person who opens the dialog must not find secrets or half-written forms.
  dialog.addEventListener('close', () => {
    for (const secret of dialog.querySelectorAll<HTMLElement>('.secret')) hideSecret(secret);
    for (const form of dialog.querySelectorAll('form')) form.reset();
    for (const told of dialog.querySelectorAll('.done, .problem')) setText(told, '');
    for (const section of dialog.querySelectorAll('details')) section.open = false;
  });

  return () => {
    void showUsage(api);
    dialog.showModal();
  };
}
