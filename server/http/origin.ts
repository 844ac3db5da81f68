import type { Request } from 'express';

/**
 * The URL at which the client reaches this server, without a trailing slash: PUBLIC_URL if set, otherwise
 * from the request.
 */
export function originOf(req: Request, publicUrl: string | undefined): string {
  return publicUrl ?? `${schemeOf(req)}://${hostOf(req)}`;
}

/** Whether the client's own connection is encrypted, as far as this server knows. */
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
  // A port in the host is the port that the client asked for; the proxy's port may differ.
  if (/:\d+$/.test(host) || !/^\d{1,5}$/.test(port) || port === usualPort(req)) return host;
  return `${host}:${port}`;
}

function usualPort(req: Request): string {
  return schemeOf(req) === 'https' ? '443' : '80';
}

/**
 * The header of the proxy next to this server, if TRUST_PROXY names that proxy. A proxy may append to the
 * client's header, so only the last value is certainly its own; the client may have sent the others.
 */
function forwardedBy(req: Request, name: string): string | undefined {
  const isTrusted = req.app.get('trust proxy fn') as (address: string | undefined, hop: number) => boolean;
  if (!isTrusted(req.socket.remoteAddress, 0)) return undefined;
  return req.get(name)?.split(',').at(-1)?.trim();
}
