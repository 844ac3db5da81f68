import type { UploadAccess } from '../../core/uploads/queries.js';
import type { Principal } from './principal.js';

/*
 * Who may do what. The only place that decides it, except that statements which find an upload and change or list it at
 * once check by UploadAccess whose it is.
 *
 * Users see their own files only, and so do admins: to run a system is not to read what is in it. A key does what its
 * scopes say, in the name of its owner, and never touches accounts. An upload token sends one file.
 */

/**
 * `upload`: begin, resume and end uploads. `read`: list and fetch files, with links to them. `manage`: change and delete files, hand out
 * upload tokens. `account`: passwords, sessions, keys. `admin`: users, the queue, the audit log.
 */
export type Action = 'upload' | 'read' | 'manage' | 'account' | 'admin';

/** Something that belongs to somebody. */
export interface Owned {
  ownerId: string;
  /** Of an upload: the token that it was begun with. */
  uploadTokenId?: string | null;
}

/** @param resource undefined: the action itself, whatever it is about */
export function can(principal: Principal, action: Action, resource?: Owned): boolean {
  return mayDo(principal, action) && (resource === undefined || isOwn(principal, resource));
}

function mayDo({ role, key, uploadToken }: Principal, action: Action): boolean {
  if (uploadToken) return action === 'upload';
  if (key) return key.scopes.some((scope) => scope === action);
  return action === 'admin' ? role === 'admin' : true;
}

function isOwn({ userId, uploadToken }: Principal, resource: Owned): boolean {
  return resource.ownerId === userId && (!uploadToken || resource.uploadTokenId === uploadToken.id);
}

/** The same as isOwn(), for statements that find an upload and check it at once. */
export function uploadAccessOf({ userId, uploadToken }: Principal): UploadAccess {
  return { ownerId: userId, uploadTokenId: uploadToken?.id };
}
