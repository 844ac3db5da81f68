import type { Request } from 'express';
import type { AuthOff } from '../../core/config-groups.js';
import { isLoopback } from '../../core/loopback.js';
import { isKnownPage, type KnownPages } from '../http/cors.js';
import { originOf } from '../http/origin.js';
import type { Principal } from './principal.js';
import { RefusedError } from './refusals.js';

/*
 * AUTH=off: a request needs no token, so the browser of anybody who runs such a server could be used against it. A page
 * of another origin can send requests to this machine, and a page whose name is made to point at this machine (DNS
 * rebinding) can even read the answers. So every request must name this server by a name that no stranger controls, and
 * must not come from a foreign page.
 */

/** Returns the local account as the caller of a request. @throws {RefusedError} forbidden, for a foreign page */
export type AdmitLocal = (req: Request) => Principal;

export interface LocalDeps extends KnownPages {
  authOff: AuthOff;
  /** Id of the local account. */
  userId: string;
}

export function createAdmitLocal({ authOff, userId, ...pages }: LocalDeps): AdmitLocal {
  const publicHost = pages.publicUrl && new URL(pages.publicUrl).hostname;
  const isOwnName = (host: string) =>
    isLoopback(host) || host === publicHost || (authOff === 'anywhere' && isAddress(host));
  return (req) => {
    if (authOff === 'loopback' && PROXIED.some((name) => req.get(name) !== undefined)) {
      throw refusal('This request came through a proxy; set AUTH_OFF_ANYWHERE=true if it may');
    }
    if (!isOwnName(hostOf(req))) {
      throw refusal(
        'The request names a host that is not known to be this server: set PUBLIC_URL to its address',
      );
    }
    if (!isOfOwnPage(req, pages)) {
      throw refusal('Pages of other origins may not do this; name the origin in CORS_ORIGINS if it is yours');
    }
    return { userId, role: 'admin' };
  };
}

/** Headers that proxies and tunnels add: their clients may be anywhere. */
const PROXIED = ['Forwarded', 'X-Forwarded-For', 'X-Forwarded-Host', 'Via'];

function refusal(detail: string): RefusedError {
  return new RefusedError('forbidden', { action: 'authenticate' }, detail);
}

/** The host that the client asked for, in the notation of URL; empty if there is none. */
function hostOf(req: Request): string {
  const asked = originOf(req, undefined);
  if (!URL.canParse(asked)) return '';
  const { hostname, username } = new URL(asked);
  return username === '' ? hostname : '';
}

/** Nobody can make an address point elsewhere. Such a host is written with digits and dots only, or in brackets. */
function isAddress(host: string): boolean {
  return /^([\d.]+|\[.+\])$/.test(host);
}

/** Whether the request was sent by a page of this server, by a known page, or by no page at all. */
function isOfOwnPage(req: Request, pages: KnownPages): boolean {
  const origin = req.get('Origin');
  if (origin !== undefined) return isKnownPage(req, origin, pages);
  // Browsers send no Origin when a page shows an image or follows a link. `none`: somebody has typed the address.
  return ['same-origin', 'none', undefined].includes(req.get('Sec-Fetch-Site'));
}
