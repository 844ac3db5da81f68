import type { NewUploadTokenJson, UploadTokenJson, UploadTokenPageJson } from '../server/answers/tokens.js';
import { AccountSection, deletion, type Item } from './account-section.js';
import type { Api } from './api.js';
import { byId } from './dom.js';
import { choiceOf, onSubmit, textOf, timeInHours } from './form.js';
import { sizeText, timeText } from './format.js';
import { showSecret } from './one-time-secret.js';
import { readSize } from './size-field.js';

/** Tokens that let somebody without an account send one file: list, create, revoke. */
export function prepareUploadTokens(api: Api): void {
  const section = new AccountSection('account-upload-tokens', async () => {
    const { items } = await api.get<UploadTokenPageJson>('/api/upload-tokens');
    return { items: items.map((token) => toItem(api, token)), nextCursor: null };
  });

  const form = byId('upload-token-form', HTMLFormElement);
  onSubmit(form, async () => {
    const label = textOf(form, 'label');
    const maxSize = readSize(form, 'size');
    const types = (textOf(form, 'types') ?? '').split(/[\s,;]+/).filter((type) => type !== '');
    const { token } = await api.post<NewUploadTokenJson>('/api/upload-tokens', {
      ...(label !== undefined && { label }),
      ...(maxSize !== undefined && { maxSize }),
      ...(types.length > 0 && { types }),
      expiresAt: timeInHours(choiceOf(form, 'expiry')),
    });
    form.reset();
    const words = 'With this token somebody can send you one file. It is shown only now.';
    showSecret(byId('upload-token-secret', HTMLElement), words, token);
    await section.refresh();
    return undefined;
  });
}

function toItem(api: Api, { id, label, maxSize, types, expiresAt, usedAt }: UploadTokenJson): Item {
  const name = label ?? 'Without a label';
  const isOver = usedAt === null && new Date(expiresAt) <= new Date();
  return {
    id,
    name,
    mark: usedAt ? 'Used' : isOver ? 'Expired' : undefined,
    facts: [
      maxSize === null ? 'any size' : `at most ${sizeText(maxSize)}`,
      types === null ? 'any type' : types.join(', '),
      usedAt ? `used ${timeText(usedAt)}` : `${isOver ? 'expired' : 'expires'} ${timeText(expiresAt)}`,
    ],
    actions: [
      deletion(api, `/api/upload-tokens/${id}`, {
        text: 'Revoke',
        label: `Revoke the upload token ${name}`,
        question: usedAt
          ? `Revoke “${name}”? An upload that it has begun and not finished is deleted.`
          : `Revoke “${name}”? Nobody can send a file with it any more.`,
      }),
    ],
  };
}
