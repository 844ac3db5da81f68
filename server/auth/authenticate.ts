import type { Request } from 'express';
import type { DataSource } from 'typeorm';
import { validate as isUuid } from 'uuid';
import { User } from '../../core/database/entities/user.js';
import { AppError, type ErrorCode } from '../../core/errors.js';
import { isApiKey, verifyApiKey } from './api-keys.js';
import { type Action, can } from './can.js';
import { isExternal, type VerifyExternal } from './external.js';
import type { Keys } from './keys.js';
import { isLinkOver, isLinkValid } from './links.js';
import { actorOf, type Principal } from './principal.js';
import type { Refusals } from './refusals.js';
import { TokenExpired, verifyToken } from './tokens.js';
import { isUploadToken, verifyUploadToken } from './upload-tokens.js';

/** What a caller must be allowed to do: an action of can(), or nothing at all. */
export type Access = 'public' | Action;

/** Sets `req.principal`, or throws if `access` asks for more than the request brings. */
export type Authenticate = (req: Request, access: Access, options?: { link?: boolean }) => Promise<void>;

export interface AuthenticateDeps {
  database: DataSource;
  keys: Keys;
  /** Undefined: there is no identity provider. */
  verifyExternal: VerifyExternal | undefined;
  refusals: Refusals;
}

/**
 * With `link`, a link that was signed for exactly this path opens the door too, and no principal is set.
 * @throws {AppError} unauthenticated, forbidden, unavailable (from the function that it makes)
 */
export function createAuthenticate(deps: AuthenticateDeps): Authenticate {
  const { database, keys, verifyExternal, refusals } = deps;

  async function verify(req: Request, bearer: string): Promise<Principal> {
    if (isApiKey(bearer)) return verifyApiKey(database, bearer);
    if (isUploadToken(bearer)) return verifyUploadToken(database, keys.uploadToken, bearer);
    if (verifyExternal && isExternal(bearer)) return verifyExternal(bearer, actorOf(req));
    return verifyToken(bearer, keys.access);
  }

  function note(req: Request, action: Action, code: ErrorCode): void {
    const { id } = req.params;
    const subjectId = typeof id === 'string' && isUuid(id) ? id : undefined;
    refusals.note(req, { action, code, subjectId });
  }

  return async (req, access, { link = false } = {}) => {
    if (access === 'public') return;
    const { token } = req.query;
    if (link && typeof token === 'string') {
      if (isLinkValid(req.baseUrl + req.path, token, keys.link)) return;
      // An old page asks for what it was allowed to see.
      if (!isLinkOver(token)) note(req, access, 'unauthenticated');
      throw new AppError('unauthenticated', { detail: 'The link has expired or is not valid' });
    }
    const [, bearer] = /^Bearer ([\w.-]+)$/i.exec(req.get('Authorization') ?? '') ?? [];
    if (!bearer) {
      if (req.get('Authorization')) note(req, access, 'unauthenticated');
      throw new AppError('unauthenticated', { detail: 'Send Authorization: Bearer <access token>' });
    }
    const principal = await verify(req, bearer).catch((error: unknown) => {
      const isRefused = error instanceof AppError && error.code === 'unauthenticated';
      if (isRefused && !(error instanceof TokenExpired)) note(req, access, error.code);
      throw error;
    });
    req.principal = principal;
    if (can(principal, access) && (access !== 'admin' || (await isStillAdmin(database, principal)))) return;
    note(req, access, 'forbidden');
    throw new AppError('forbidden', whyForbidden(principal, access));
  };
}

/** A token says what was true when it was made. Where most is at stake that is not enough. */
export async function isStillAdmin(database: DataSource, { userId }: Principal): Promise<boolean> {
  const user = await database.getRepository(User).findOneBy({ id: userId });
  return user?.role === 'admin' && user.disabledAt === null;
}

function whyForbidden({ key, uploadToken }: Principal, access: Access): { detail?: string } {
  if (uploadToken) return { detail: 'An upload token sends one file and does nothing else' };
  if (!key) return {};
  const isScope = access === 'upload' || access === 'read' || access === 'manage';
  return { detail: isScope ? `This API key lacks the scope ${access}` : 'An API key cannot do this' };
}
