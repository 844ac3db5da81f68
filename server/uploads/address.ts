import type { Request } from 'express';
import type { Keys } from '../auth/keys.js';
import { signUploadAddress } from '../auth/upload-addresses.js';
import { originOf } from '../http/origin.js';

export interface AddressDeps {
  keys: Keys;
  /** Undefined: each request tells it. */
  publicUrl: string | undefined;
}

/** The address at which the client of a request goes on with an upload. */
export function addressOf({ keys, publicUrl }: AddressDeps, req: Request, id: string): string {
  const address = `${originOf(req, publicUrl)}/uploads/${id}`;
  return req.principal?.byHook ? `${address}?token=${signUploadAddress(id, keys.uploadAddress)}` : address;
}
