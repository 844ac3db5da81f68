import type { OpenSessionJson, SessionPageJson } from '../server/answers/account.js';
import { AccountSection, deletion, type Item } from './account-section.js';
import type { Api } from './api.js';
import { explain } from './api-error.js';
import { byId, confirmed, setText } from './dom.js';
import { programText, timeText } from './format.js';

/** The user's open sessions. Returns the section. */
export function prepareSessions(api: Api): AccountSection {
  const others = byId('sessions-end-others', HTMLButtonElement);
  const section = new AccountSection('account-sessions', async () => {
    const { items } = await api.get<SessionPageJson>('/api/me/sessions');
    others.hidden = !items.some((session) => !session.current);
    return { items: items.map((session) => toItem(api, session)), nextCursor: null };
  });

  others.addEventListener('click', async () => {
    if (!(await confirmed('Sign out everywhere but here?', 'Sign out'))) return;
    const state = byId('sessions-done', HTMLElement);
    try {
      await api.delete('/api/me/sessions');
      await section.refresh();
      setText(state, 'You are signed in only here.');
      byId('account-sessions', HTMLElement).querySelector('summary')?.focus();
    } catch (error) {
      setText(state, explain(error));
    }
  });
  return section;
}

function toItem(api: Api, { id, current, createdAt, lastUsedAt, address, userAgent }: OpenSessionJson): Item {
  const program = programText(userAgent);
  return {
    id,
    name: program,
    mark: current ? 'This one' : undefined,
    facts: [`Last used ${timeText(lastUsedAt)}`, address ?? '', `since ${timeText(createdAt)}`],
    actions: current
      ? []
      : [
          deletion(api, `/api/me/sessions/${id}`, {
            text: 'Sign out',
            label: `Sign out ${program}, last used ${timeText(lastUsedAt)}`,
          }),
        ],
  };
}
