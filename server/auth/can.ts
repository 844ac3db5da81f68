import type { UploadAccess } from '../../core/uploads/queries.js';
import type { Principal } from './principal.js';

/*
 * Decides who may do what. This is the only place that does, with one exception: statements that find an
 * upload and change or list it at once check the owner by UploadAccess.
 *
 * Users see their own files only, and so do admins: running a system does not include reading its content. A
 * key does what its scopes allow, in the name of its owner, and never touches accounts. An upload token sends
 * one file.
 */

/**
 * `upload`: begin, resume and end uploads. `read`: list and fetch files, and create links to them. `manage`:
 * change and delete files, create upload tokens. `account`: passwords, sessions, keys. `admin`: users, the
 * queue, the audit log.
 */
export type Action = 'upload' | 'read' | 'manage' | 'account' | 'admin';

/** A resource that belongs to a user. */
export interface Owned {
  ownerId: string;
  /** For an upload: the token that began it. */
  uploadTokenId?: string | null;
}

/** @param resource undefined: asks for the action alone, whatever the resource */
export function can(principal: Principal, action: Action, resource?: Owned): boolean {
  return mayDo(principal, action) && (resource === undefined || isOwn(principal, resource));
}

function mayDo({ role, key, uploadToken, byHook }: Principal, action: Action): boolean {
  if (uploadToken || byHook) return action === 'upload';
  if (key) return key.scopes.some((scope) => scope === action);
  return action === 'admin' ? role === 'admin' : true;
}

function isOwn({ userId, uploadToken }: Principal, resource: Owned): boolean {
  return resource.ownerId === userId && (!uploadToken || resource.uploadTokenId === uploadToken.id);
}

/** The check of isOwn(), for statements that find an upload and check it at once. */
export function uploadAccessOf({ userId, uploadToken }: Principal): UploadAccess {
  return { ownerId: userId, uploadTokenId: uploadToken?.id };
}
