import type { Request } from 'express';

/**
 * The address that the client reaches this server at, without a trailing slash: PUBLIC_URL if set, else what the
 * request says.
 */
export function originOf(req: Request, publicUrl: string | undefined): string {
  return publicUrl ?? `${schemeOf(req)}://${hostOf(req)}`;
}

/** Whether the client's own connection is encrypted, as far as this server can know. */
export function isEncrypted(req: Request): boolean {
  return schemeOf(req) === 'https';
}

function schemeOf(req: Request): string {
  const forwarded = forwardedBy(req, 'X-Forwarded-Proto')?.toLowerCase();
  if (forwarded === 'http' || forwarded === 'https') return forwarded;
  return 'encrypted' in req.socket ? 'https' : 'http';
}

function hostOf(req: Request): string {
  const host = forwardedBy(req, 'X-Forwarded-Host') || req.get('Host') || '';
  const port = forwardedBy(req, 'X-Forwarded-Port') ?? '';
  // A port in the host is the one that the client has asked for; the proxy's own may be another one.
  if (/:\d+$/.test(host) || !/^\d{1,5}$/.test(port) || port === usualPort(req)) return host;
  return `${host}:${port}`;
}

function usualPort(req: Request): string {
  return schemeOf(req) === 'https' ? '443' : '80';
}

/**
 * What the proxy next to this server says in one of its headers, if TRUST_PROXY names it. A proxy may append to what it
 * was sent, so only the last value is surely its own: the first one is whatever the client has sent.
 */
function forwardedBy(req: Request, name: string): string | undefined {
  const isTrusted = req.app.get('trust proxy fn') as (address: string | undefined, hop: number) => boolean;
  if (!isTrusted(req.socket.remoteAddress, 0)) return undefined;
  return req.get(name)?.split(',').at(-1)?.trim();
}
