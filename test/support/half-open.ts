import { type ClientRequest, request } from 'node:http';
import type { TestUser } from './client.js';

/** A PATCH of which `sent` arrives and whose rest does not come, on a connection that stays open. */
export function sendHalf(
  url: string,
  user: TestUser,
  path: string,
  body: { offset: number; length: number; sent: Uint8Array },
  headers: Record<string, string> = {},
): ClientRequest {
  const half = request(`${url}${path}`, {
    method: 'PATCH',
    headers: {
      Authorization: `Bearer ${user.token}`,
      'Tus-Resumable': '1.0.0',
      'Upload-Offset': String(body.offset),
      'Content-Type': 'application/offset+octet-stream',
      'Content-Length': String(body.length),
      ...headers,
    },
  });
  half.on('error', () => {});
  half.write(body.sent);
  return half;
}
