import type { Request } from 'express';

/**
 * The address that the client reaches this server at, without a trailing slash: PUBLIC_URL if set, else what the
 * request says. Express reads X-Forwarded-Proto and X-Forwarded-Host only from proxies that TRUST_PROXY names.
 */
export function originOf(req: Request, publicUrl: string | undefined): string {
  return publicUrl ?? `${req.protocol}://${req.host}`;
}
