import type { Request } from 'express';
import { AppError } from '../../core/errors.js';
import type { Keys } from './keys.js';
import { isLinkValid } from './links.js';
import { verifyToken } from './tokens.js';

/** Who may call a route. `link`: a user, or anyone with a link that was signed for exactly this path. */
export type Access = 'public' | 'user' | 'link' | 'admin';

/** Sets `req.principal`, or throws if `access` asks for more than the request brings. */
export type Authenticate = (req: Request, access: Access) => void;

/** @throws {AppError} unauthenticated, forbidden (from the function that it makes) */
export function createAuthenticate(keys: Keys): Authenticate {
  return (req, access) => {
    if (access === 'public') return;
    const { token } = req.query;
    if (access === 'link' && typeof token === 'string') {
      if (isLinkValid(req.baseUrl + req.path, token, keys.link)) return;
      throw new AppError('unauthenticated', { detail: 'The link has expired or is not valid' });
    }
    const [, bearer] = /^Bearer ([\w.-]+)$/i.exec(req.get('Authorization') ?? '') ?? [];
    if (!bearer)
      throw new AppError('unauthenticated', { detail: 'Send Authorization: Bearer <access token>' });
    const principal = verifyToken(bearer, keys.access);
    if (access === 'admin' && principal.role !== 'admin') throw new AppError('forbidden');
    req.principal = principal;
  };
}
