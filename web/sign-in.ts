import { type Api, explain, type User } from './api.js';
import { byId, setText } from './dom.js';

const WORDS = {
  login: { title: 'Sign in', submit: 'Sign in', switchTo: 'Create an account' },
  register: { title: 'Create an account', submit: 'Create account', switchTo: 'I have an account' },
};

/** Shows the form until someone has signed in or registered. */
export function signIn(api: Api): Promise<User> {
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
    // An existing password is the server's to judge.
    password.minLength = registering ? 8 : 0;
  }

  show('login');
  form.hidden = false;
  email.focus();
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
        const user = await api.signIn(action, email.value, password.value);
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
