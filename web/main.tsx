import { render } from 'preact';
import { prepareAccountDialog } from './account-dialog.js';
import { Api, type User } from './api.js';
import { ApiError, explain } from './api-error.js';
import { byId, confirmed, setText } from './dom.js';
import { followEvents } from './files/live.js';
import { STATUS_WORDS } from './files/rows.js';
import { openFiles } from './files/store.js';
import { FilesView } from './files/view.js';
import { takeInvitation } from './invitation.js';
import { QuotaNote } from './quota-note.js';
import { signIn } from './sign-in.js';
import { openUploads } from './uploads/store.js';

const RETRY_MS = 5000;

const invitation = takeInvitation();
const api = new Api();
// The other tabs of this browser have lost their session as well.
const tabs = new BroadcastChannel('landfall');
tabs.addEventListener('message', () => location.reload());
// Uploads stop with the page and continue when their owner signs in again.
api.onSessionLost = () => location.reload();
const restored = await restoreSession();
showApp(restored ?? (await signIn(api, invitation)));
// The form, which had the focus, is gone.
if (!restored) byId('files-title', HTMLElement).focus();

/** The user who is still signed in from an earlier visit. Waits while the server is away. */
async function restoreSession(): Promise<User | undefined> {
  const notice = byId('notice', HTMLElement);
  for (;;) {
    try {
      const user = await api.restore();
      notice.hidden = true;
      return user;
    } catch (error) {
      const asked = error instanceof ApiError ? (error.retryAfterMs ?? 0) : 0;
      setText(notice, asked > RETRY_MS ? explain(error) : `${explain(error)} Trying again …`);
      notice.hidden = false;
      await new Promise((resolve) => setTimeout(resolve, Math.max(RETRY_MS, asked)));
    }
  }
}

/** With AUTH=off there is neither a session to end nor a password to change. */
function hideSignIn(isNeeded: boolean): void {
  for (const id of ['sign-out', 'account-password', 'account-sessions'])
    byId(id, HTMLElement).hidden = !isNeeded;
}

function showApp(user: User): void {
  setText(byId('who', HTMLElement), user.email);
  byId('queue', HTMLElement).hidden = user.role !== 'admin';
  void api.needsSignIn().then(hideSignIn);
  byId('account', HTMLElement).hidden = false;
  byId('app', HTMLElement).hidden = false;
  byId('account-open', HTMLButtonElement).addEventListener('click', prepareAccountDialog(api, user));

  const quota = new QuotaNote(api);
  const files = openFiles(api, STATUS_WORDS, () => quota.expectChange());
  void followEvents(api, {
    onLive: (isLive) => files.setLive(isLive),
    onEvent: (event) => files.note(event),
  });
  const uploads = openUploads(api, user, {
    onFinished(id) {
      quota.expectChange();
      return files.look(id);
    },
    onNews: () => quota.expectChange(),
  });
  render(<FilesView api={api} files={files} uploads={uploads} />, byId('files-view', HTMLElement));

  byId('sign-out', HTMLButtonElement).addEventListener('click', async () => {
    const question = 'Uploads are running. They stop now, and go on when you sign in here again.';
    if (uploads.isUploading() && !(await confirmed(question, 'Sign out'))) return;
    try {
      await api.signOut();
      tabs.postMessage('signed out');
      location.reload();
    } catch (error) {
      setText(byId('notice', HTMLElement), explain(error));
      byId('notice', HTMLElement).hidden = false;
    }
  });
}
