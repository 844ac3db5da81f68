import { Api, explain, type User } from './api.js';
import { byId, confirmed, setText } from './dom.js';
import { FileList } from './file-list.js';
import { signIn } from './sign-in.js';
import { startUploader } from './uploader.js';

const RETRY_MS = 5000;

const api = new Api();
// Uploads stop with the page and go on when their owner signs in again.
api.onSessionLost = () => location.reload();
await showApp((await restoreSession()) ?? (await signIn(api)));

/** Who is still signed in from an earlier visit; waits for the server while it is away. */
async function restoreSession(): Promise<User | undefined> {
  const notice = byId('notice', HTMLElement);
  for (;;) {
    try {
      const user = await api.restore();
      notice.hidden = true;
      return user;
    } catch (error) {
      setText(notice, `${explain(error)} Trying again …`);
      notice.hidden = false;
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }
}

async function showApp(user: User): Promise<void> {
  setText(byId('who', HTMLElement), user.email);
  byId('queue', HTMLElement).hidden = user.role !== 'admin';
  byId('account', HTMLElement).hidden = false;
  byId('app', HTMLElement).hidden = false;

  const files = new FileList(api);
  const uploader = await startUploader(api, user, byId('dashboard', HTMLElement), () => files.expectChange());

  byId('sign-out', HTMLButtonElement).addEventListener('click', async () => {
    const question = 'Uploads are running. They stop now, and go on when you sign in here again.';
    if (uploader.isUploading() && !(await confirmed(question, 'Sign out'))) return;
    try {
      await api.signOut();
      location.reload();
    } catch (error) {
      setText(byId('notice', HTMLElement), explain(error));
      byId('notice', HTMLElement).hidden = false;
    }
  });
}
