/**
 * The token of the invitation in the page's address, which is taken out of it: neither a copied address nor the history
 * shall hold it. Best after a `#`, where no server sees it: `/#invitation=…`; `/?invitation=…` is understood too.
 */
export function takeInvitation(): string | undefined {
  const url = new URL(location.href);
  const fragment = new URLSearchParams(url.hash.slice(1));
  const token = fragment.get('invitation') ?? url.searchParams.get('invitation');
  if (token === null) return undefined;
  fragment.delete('invitation');
  url.hash = fragment.toString();
  url.searchParams.delete('invitation');
  history.replaceState(history.state, '', url);
  return token || undefined;
}

/** The address that somebody who is invited opens. */
export function invitationLink(token: string): string {
  return `${location.origin}/#${new URLSearchParams({ invitation: token })}`;
}
