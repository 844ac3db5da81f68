import { readFile } from 'node:fs/promises';
import { type ClientRequest, request } from 'node:http';
import type { TestUser } from './client.js';
import { until } from './until.js';

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

/**
 * Waits until the server has read all that was sent so far on this connection over IPv4. Only Linux tells how many bytes
 * its kernel still holds; elsewhere this waits for nothing.
 */
export async function whenRead({ socket }: ClientRequest): Promise<void> {
  if (process.platform !== 'linux') return;
  const portOf = (address = '') => Number.parseInt(address.split(':')[1] ?? '', 16);
  await until('the server to have read all that was sent', async () => {
    if (!socket?.localPort || socket.writableLength > 0) return false;
    const ports = [socket.localPort, socket.remotePort].sort().join();
    const [, ...lines] = (await readFile('/proc/net/tcp', 'utf8')).split('\n');
    const ends = lines
      .map((line) => line.trim().split(/\s+/))
      .filter(([, local, remote]) => [portOf(local), portOf(remote)].sort().join() === ports);
    return ends.length === 2 && ends.every(([, , , , queues]) => queues === '00000000:00000000');
  });
}
