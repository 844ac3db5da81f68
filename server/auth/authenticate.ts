import type { Request } from 'express';
import type { DataSource } from 'typeorm';
import { validate as isUuid } from 'uuid';
import { AppError, type ErrorCode } from '../../core/errors.js';
import { findUploadId } from '../uploads/call.js';
import { isApiKey, verifyApiKey } from './api-keys.js';
import { type Action, can } from './can.js';
import { isExternal, type VerifyExternal } from './external.js';
import type { Keys } from './keys.js';
import { isFixedLinkValid, isLinkOver, isLinkValid, readCallerLink } from './links.js';
import type { AdmitLocal } from './local.js';
import { actorOf, type Principal } from './principal.js';
import type { Refusals } from './refusals.js';
import { getRoleNow } from './sessions.js';
import { createVerifyToken, isWrongToken, TokenExpired, verifyToken } from './tokens.js';
import { findAddressHolder } from './upload-addresses.js';
import { isUploadToken, verifyUploadToken } from './upload-tokens.js';

/** The action of can() that a caller must be allowed to do, or `public`. */
export type Access = 'public' | Action;

/**
 * The links signed for exactly the path of a request that grant access too: links to the resource, which set no
 * principal, or links that name their caller; false: none.
 */
export type LinkAccess = false | 'resource' | 'caller';

interface AuthenticateOptions {
  link?: LinkAccess;
  /** The cookie of the board, which is accepted if there is no Authorization header. */
  boardCookie?: string | undefined;
  /**
   * Whether to check in the database that the token still holds, even if `access` alone would not require it.
   */
  stillTrue?: boolean;
  /**
   * With AUTH=hook, on requests to uploads: the token in an upload's address counts. A new upload may come without
   * credentials of ours, and then there is no principal yet: the hook decides, and names the owner.
   */
  byHook?: boolean;
}

/** Sets `req.principal`, or throws if the request does not have the rights that `access` requires. */
export type Authenticate = (req: Request, access: Access, options?: AuthenticateOptions) => Promise<void>;

export interface AuthenticateDeps {
  database: DataSource;
  keys: Keys;
  /** Undefined: there is no identity provider. */
  verifyExternal: VerifyExternal | undefined;
  refusals: Refusals;
  /** Set with AUTH=off: then it alone decides, and tokens mean nothing. */
  admitLocal: AdmitLocal | undefined;
}

/**
 * A token states facts from the time of its signing. Requests that read or send bytes rely on it until it
 * expires. These actions check the facts in the database: otherwise somebody whose password was changed or
 * whose account was disabled could still create an API key or an upload token, or do something that cannot be
 * undone.
 */
const CHECKED: readonly Access[] = ['account', 'manage', 'admin'];

/** @throws {AppError} unauthenticated, forbidden, unavailable (from the function that it returns) */
export function createAuthenticate(deps: AuthenticateDeps): Authenticate {
  const { database, keys, verifyExternal, refusals, admitLocal } = deps;
  const verifyAccess = createVerifyToken(keys.access);

  async function verify(req: Request, { boardCookie }: AuthenticateOptions): Promise<Principal> {
    if (admitLocal) return admitLocal(req);
    const header = req.get('Authorization');
    if (!header && boardCookie) return verifyToken(boardCookie, keys.board);
    const [, bearer] = BEARER.exec(header ?? '') ?? [];
    if (!header) throw new NoToken();
    if (!bearer) throw new AppError('unauthenticated', { detail: HOW });
    if (isApiKey(bearer)) return verifyApiKey(database, bearer);
    if (isUploadToken(bearer)) return verifyUploadToken(database, keys.uploadToken, bearer);
    if (verifyExternal && isExternal(bearer)) return verifyExternal(bearer, actorOf(req));
    return verifyAccess(bearer);
  }

  /** Verifying a key or an upload token has already asked the database. */
  async function check(principal: Principal): Promise<Principal> {
    if (principal.key || principal.uploadToken) return principal;
    return { ...principal, role: await getRoleNow(database.manager, principal) };
  }

  function opensByLink(req: Request, kind: LinkAccess, token: string): boolean {
    const path = req.baseUrl + req.path;
    if (kind === 'resource') {
      if (isLinkValid(path, token, keys.link)) return true;
      if (!isFixedLinkValid(path, req.query, token, keys.link)) return false;
      req.hasFixedParameters = true;
      return true;
    }
    const caller = readCallerLink(path, token, keys.link);
    if (caller) req.principal = caller;
    return caller !== undefined;
  }

  /** Whether the address of an upload opens it, or a hook is to decide about a new one. */
  async function admitByHook(req: Request, action: Action): Promise<boolean> {
    const id = findUploadId(req.path);
    const { token } = req.query;
    if (id && typeof token === 'string') {
      const holder = await findAddressHolder(database, keys.uploadAddress, id, token);
      if (holder) {
        req.principal = holder;
        return true;
      }
      note(req, action, 'unauthenticated');
      throw new AppError('unauthenticated', { detail: 'The address of this upload is not valid' });
    }
    return !id && !(await isKnown(req));
  }

  /** Whether a request brings credentials that this server knows, valid or not any more. */
  async function isKnown(req: Request): Promise<boolean> {
    const [, bearer = ''] = BEARER.exec(req.get('Authorization') ?? '') ?? [];
    if (bearer === '' || isApiKey(bearer) || isUploadToken(bearer)) return bearer !== '';
    return verify(req, {}).then(
      () => true,
      (error: unknown) => !isWrongToken(error),
    );
  }

  function note(req: Request, action: Action, code: ErrorCode): void {
    const { id } = req.params;
    const subjectId = typeof id === 'string' && isUuid(id) ? id : undefined;
    refusals.note(req, { action, code, subjectId });
  }

  return async (req, access, options = {}) => {
    if (access === 'public') return;
    const { token } = req.query;
    if (options.link && typeof token === 'string') {
      if (opensByLink(req, options.link, token)) return;
      // A page that has been open for long uses expired links, which is no refusal worth noting.
      if (!isLinkOver(token)) note(req, access, 'unauthenticated');
      throw new AppError('unauthenticated', { detail: 'The link has expired or is not valid' });
    }
    if (options.byHook && (await admitByHook(req, access))) return;
    try {
      req.principal = await verify(req, options);
      // The principal is set before this check, so that the log names the refused user.
      if (options.stillTrue || CHECKED.includes(access)) req.principal = await check(req.principal);
    } catch (error) {
      const isRefused = error instanceof AppError && error.code === 'unauthenticated';
      const isQuiet = error instanceof TokenExpired || error instanceof NoToken;
      if (isRefused && !isQuiet) note(req, access, error.code);
      throw error;
    }
    if (can(req.principal, access)) return;
    note(req, access, 'forbidden');
    throw new AppError('forbidden', whyForbidden(req.principal, access));
  };
}

const BEARER = /^Bearer ([\w.-]+)$/i;

const HOW = 'Send Authorization: Bearer <access token>';

/** The request brought no token, so nothing was tried. */
class NoToken extends AppError {
  constructor() {
    super('unauthenticated', { detail: HOW });
  }
}

function whyForbidden({ key, uploadToken, byHook }: Principal, access: Access): { detail?: string } {
  if (byHook) return { detail: 'The address of an upload sends that upload and does nothing else' };
  if (uploadToken) return { detail: 'An upload token sends one file and does nothing else' };
  if (!key) return {};
  const isScope = access === 'upload' || access === 'read' || access === 'manage';
  return { detail: isScope ? `This API key lacks the scope ${access}` : 'An API key cannot do this' };
}
