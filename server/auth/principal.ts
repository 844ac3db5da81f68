import type { Request } from 'express';
import type { Scope } from '../../core/database/entities/api-key.js';
import type { Actor } from '../../core/database/entities/event.js';
import type { UploadToken } from '../../core/database/entities/upload-token.js';
import type { Role } from '../../core/database/entities/user.js';

/** For whom a request acts. */
export interface Principal {
  userId: string;
  role: Role;
  /** Of the sign-in that the access token came from; an identity provider's tokens have none. */
  sessionId?: string;
  /** It came with an API key of that user. */
  key?: { id: string; scopes: Scope[] };
  /** It came with an upload token of that user. */
  uploadToken?: UploadToken;
}

declare global {
  namespace Express {
    interface Request {
      /** Set where the route asks for it. */
      principal?: Principal;
    }
  }
}

/** Who makes a request, where it is known for whom it acts. */
export type SignedInActor = Actor & { userId: string };

/** More of a User-Agent says nothing. */
const MAX_USER_AGENT = 200;

/** An address with a port has 47 characters at most; a proxy that is trusted may hand on what is none. */
const MAX_ADDRESS = 64;

/** Who makes this request, for the event log. */
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

/** Control characters, which a terminal would obey, and others that nobody sees are replaced. */
function toPrintable(text: string, maxLength: number): string {
  return text.slice(0, maxLength).replace(/\p{C}/gu, '\uFFFD');
}
