/**
 * Takes the token of an invitation out of the page's URL: neither a copied URL nor the history may contain
 * it. The token is best placed after a `#`, where no server sees it: `/#invitation=…`; `/?invitation=…` works
 * too.
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

/** The URL for a person who is invited. */
export function invitationLink(token: string): string {
  return `${location.origin}/#${new URLSearchParams({ invitation: token })}`;
}
