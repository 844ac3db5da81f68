import type { Request } from 'express';
import type { Scope } from '../../core/database/entities/api-key.js';
import type { Actor } from '../../core/database/entities/event.js';
import type { UploadToken } from '../../core/database/entities/upload-token.js';
import type { Role } from '../../core/database/entities/user.js';

/** The user for whom a request acts. */
export interface Principal {
  userId: string;
  role: Role;
  /** The session that the access token belongs to; tokens of an identity provider have none. */
  sessionId?: string;
  /** When the token, the key or the link of the request expires; absent: never. */
  expiresAt?: Date;
  /** Set if the request came with an API key of the user. */
  key?: { id: string; scopes: Scope[] };
  /** Set if the request came with an upload token of the user. */
  uploadToken?: UploadToken;
  /** Set if only a hook knows the sender, who may send and end one upload; see upload-addresses.ts. */
  byHook?: true;
}

declare global {
  namespace Express {
    interface Request {
      /** Set by authenticate(), except on public routes and with a signed link. */
      principal?: Principal;
      /** Set by authenticate() if a signed link covers the parameters of the request too. */
      hasFixedParameters?: true;
    }
  }
}

/** The actor of a request whose user is known. */
export type SignedInActor = Actor & { userId: string };

/** Only the beginning of a User-Agent is useful. */
const MAX_USER_AGENT = 200;

/**
 * An address with a port has at most 47 characters. A trusted proxy may pass on text that is not an address.
 */
const MAX_ADDRESS = 64;

/** The actor of this request, for the event log. */
export function actorOf(req: Request): Actor {
  const { principal, ip } = req;
  const userAgent = req.get('User-Agent');
  return {
    ...(principal ? { userId: principal.userId } : {}),
    ...(principal?.sessionId ? { sessionId: principal.sessionId } : {}),
    ...(principal?.key ? { keyId: principal.key.id } : {}),
    ...(principal?.uploadToken ? { uploadTokenId: principal.uploadToken.id } : {}),
    ...(ip ? { address: toPrintable(ip, MAX_ADDRESS) } : {}),
    ...(userAgent ? { userAgent: toPrintable(userAgent, MAX_USER_AGENT) } : {}),
    requestId: req.id,
  };
}

/** Replaces invisible characters and control characters, which a terminal would obey. */
function toPrintable(text: string, maxLength: number): string {
  return text.slice(0, maxLength).replace(/\p{C}/gu, '\uFFFD');
}
