import type { InvitationJson, InvitationPageJson, NewInvitationJson } from '../server/answers/admin.js';
import { AccountSection, deletion, type Item } from './account-section.js';
import type { Api } from './api.js';
import { byId } from './dom.js';
import { choiceOf, onSubmit, textOf } from './form.js';
import { timeText } from './format.js';
import { invitationLink } from './invitation.js';
import { showSecret } from './one-time-secret.js';

/** Invitations to register, for admins: list, create, revoke. */
export function prepareInvitations(api: Api): void {
  const section = new AccountSection('account-invitations', async () => {
    const { items } = await api.get<InvitationPageJson>('/api/admin/invitations');
    return { items: items.map((invitation) => toItem(api, invitation)), nextCursor: null };
  });

  const form = byId('invitation-form', HTMLFormElement);
  onSubmit(form, async () => {
    const email = textOf(form, 'email');
    const { token } = await api.post<NewInvitationJson>('/api/admin/invitations', {
      ...(email !== undefined && { email }),
      expiresInHours: Number(choiceOf(form, 'expiry')),
    });
    form.reset();
    const words = `With this link ${email ?? 'one person'} can create an account. It is shown only now.`;
    showSecret(byId('invitation-secret', HTMLElement), words, invitationLink(token));
    await section.refresh();
    return undefined;
  });
}

function toItem(api: Api, { id, email, createdAt, expiresAt }: InvitationJson): Item {
  const name = email ?? 'For anybody';
  return {
    id,
    name,
    facts: [`made ${timeText(createdAt)}`, `expires ${timeText(expiresAt)}`],
    actions: [
      deletion(api, `/api/admin/invitations/${id}`, {
        text: 'Take back',
        label: `Take back the invitation made ${timeText(createdAt)}, ${name}`,
        question: 'Take this invitation back? Its link stops working.',
      }),
    ],
  };
}
