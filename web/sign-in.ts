import type { Api, Registration, User } from './api.js';
import { explain } from './api-error.js';
import { byId, setText } from './dom.js';

const WORDS = {
  login: { title: 'Sign in', submit: 'Sign in', switchTo: 'Create an account' },
  register: { title: 'Create an account', submit: 'Create account', switchTo: 'I have an account' },
};

/** Shows the form until a user has signed in. @param invitation the token of an invitation, if any */
export function signIn(api: Api, invitation: string | undefined): Promise<User> {
  const form = byId('sign-in', HTMLFormElement);
  const email = byId('email', HTMLInputElement);
  const password = byId('password', HTMLInputElement);
  const submit = byId('sign-in-submit', HTMLButtonElement);
  const change = byId('sign-in-switch', HTMLButtonElement);
  const problem = byId('sign-in-error', HTMLElement);
  let action: keyof typeof WORDS = 'login';

  function show(next: keyof typeof WORDS): void {
    action = next;
    const registering = action === 'register';
    setText(byId('sign-in-title', HTMLElement), WORDS[action].title);
    setText(submit, WORDS[action].submit);
    setText(change, WORDS[action].switchTo);
    setText(problem, '');
    byId('password-hint', HTMLElement).hidden = !registering;
    password.autocomplete = registering ? 'new-password' : 'current-password';
    // The server checks an existing password, whatever its length.
    password.minLength = registering ? 8 : 0;
  }

  function offerRegistration(registration: Registration): void {
    const invited = registration !== 'closed' && invitation !== undefined;
    change.hidden = registration !== 'open' && !invited;
    setText(byId('sign-in-note', HTMLElement), registrationNote(registration, invitation));
    // A user with an invitation comes to register, unless the form is already in use.
    if (invited && email.value === '') show('register');
  }

  show('login');
  form.hidden = false;
  email.focus();
  // Without an answer no registration is offered; signing in then shows the server's problem.
  api.registration().then(offerRegistration, () => {});
  change.addEventListener('click', () => {
    show(action === 'login' ? 'register' : 'login');
    email.focus();
  });

  return new Promise((resolve) => {
    form.addEventListener('submit', async (event) => {
      event.preventDefault();
      setText(problem, '');
      submit.disabled = true;
      try {
        const withInvitation = action === 'register' && invitation !== undefined;
        const user = await api.signIn(action, {
          email: email.value,
          password: password.value,
          ...(withInvitation && { invitation }),
        });
        form.hidden = true;
        password.value = '';
        resolve(user);
      } catch (error) {
        setText(problem, explain(error));
        password.select();
      } finally {
        submit.disabled = false;
      }
    });
  });
}

function registrationNote(registration: Registration, invitation: string | undefined): string {
  if (registration === 'closed' && invitation !== undefined) {
    return 'Nobody can create an account here at the moment, even with an invitation.';
  }
  if (registration === 'invite' && invitation === undefined) {
    return 'No account yet? Ask an administrator for an invitation, and open the link in it.';
  }
  return '';
}
