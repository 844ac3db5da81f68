import { createHmac, type KeyObject, timingSafeEqual } from 'node:crypto';
import type { DataSource } from 'typeorm';
import { queryRows } from '../../core/database/rows.js';
import type { Principal } from './principal.js';

/*
 * The addresses of uploads whose senders only a hook knows (AUTH=hook). The hook is asked once, when the upload is created.
 * From then on the address itself, `/uploads/<id>?token=<signature>`, lets its holder send and end this upload and nothing
 * else, as in tusd. The id alone does not: it is the file's id too, and others may see it.
 */

const TOKEN = /^[\w-]{43}$/;

function sign(id: string, key: KeyObject): Buffer {
  return createHmac('sha256', key).update(id).digest();
}

/** The token in the address of an upload. It holds as long as the upload. */
export function signUploadAddress(id: string, key: KeyObject): string {
  return sign(id, key).toString('base64url');
}

/**
 * The holder of an upload's address, who acts for its owner.
 * @returns undefined if the token is not that of this upload, or its owner is disabled
 */
export async function findAddressHolder(
  database: DataSource,
  key: KeyObject,
  id: string,
  token: string,
): Promise<Principal | undefined> {
  if (!TOKEN.test(token) || !timingSafeEqual(Buffer.from(token, 'base64url'), sign(id, key)))
    return undefined;
  const [owner] = await queryRows<{ id: string }>(
    database,
    `SELECT users.id FROM uploads JOIN users ON users.id = owner_id WHERE uploads.id = $1 AND disabled_at IS NULL`,
    [id],
  );
  return owner && holderOf(owner.id);
}

/** Somebody who may send and end one upload of this owner. */
export function holderOf(userId: string): Principal {
  return { userId, role: 'user', byHook: true };
}
