import type { ApiKeyJson, ApiKeyPageJson, NewApiKeyJson } from '../server/answers/tokens.js';
import { AccountSection, deletion, type Item } from './account-section.js';
import type { Api } from './api.js';
import { byId } from './dom.js';
import { choiceOf, onSubmit, textOf, timeInHours } from './form.js';
import { timeText } from './format.js';
import { showSecret } from './one-time-secret.js';

/** API keys for programs: list, create, revoke. */
export function prepareKeys(api: Api): void {
  const section = new AccountSection('account-keys', async () => {
    const { items } = await api.get<ApiKeyPageJson>('/api/keys');
    return { items: items.map((key) => toItem(api, key)), nextCursor: null };
  });

  const form = byId('key-form', HTMLFormElement);
  onSubmit(form, async () => {
    const scopes = [...form.querySelectorAll<HTMLInputElement>('input[name=scope]:checked')];
    const expiresAt = timeInHours(choiceOf(form, 'expiry'));
    const { key, name } = await api.post<NewApiKeyJson>('/api/keys', {
      name: textOf(form, 'name') ?? '',
      scopes: scopes.map((box) => box.value),
      ...(expiresAt !== undefined && { expiresAt }),
    });
    form.reset();
    showSecret(
      byId('key-secret', HTMLElement),
      `The key “${name}”. It is shown only now: keep it in a safe place.`,
      key,
    );
    await section.refresh();
    return undefined;
  });
}

function toItem(api: Api, { id, name, prefix, scopes, lastUsedAt, expiresAt }: ApiKeyJson): Item {
  const isOver = expiresAt !== null && new Date(expiresAt) <= new Date();
  return {
    id,
    name,
    mark: isOver ? 'Expired' : undefined,
    facts: [
      `${prefix}…`,
      scopes.join(', '),
      lastUsedAt ? `last used ${timeText(lastUsedAt)}` : 'never used',
      expiresAt ? `${isOver ? 'expired' : 'expires'} ${timeText(expiresAt)}` : 'does not expire',
    ],
    actions: [
      deletion(api, `/api/keys/${id}`, {
        text: 'Revoke',
        label: `Revoke the key ${name}`,
        question: `Revoke the key “${name}”? Programs that use it stop working at once.`,
      }),
    ],
  };
}
