import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { setTimeout as pause } from 'node:timers/promises';

/** How long the link takes for one portion, in milliseconds. */
const PORTION_MS = 10;

/**
 * A link to a port of this machine on which each connection carries at most so many bytes a second towards the server.
 * @returns the address at which the link begins
 */
export async function openSlowLink(port: number, bytesPerSecond: number) {
  const sockets = new Set<Socket>();
  const server = createServer((near) => {
    const far = connect(port, 'localhost');
    for (const [socket, other] of [
      [near, far],
      [far, near],
    ] as const) {
      sockets.add(socket);
      socket.on('error', () => other.destroy());
      socket.on('close', () => {
        sockets.delete(socket);
        other.destroy();
      });
    }
    far.pipe(near);
    void carry(near, far, bytesPerSecond).catch(() => near.destroy());
  });
  server.listen(0, 'localhost');
  await once(server, 'listening');
  return {
    url: `http://localhost:${(server.address() as AddressInfo).port}`,
    close() {
      for (const socket of sockets) socket.destroy();
      server.close();
    },
  };
}

async function carry(near: Socket, far: Socket, bytesPerSecond: number): Promise<void> {
  const portion = Math.ceil((bytesPerSecond * PORTION_MS) / 1000);
  let free = performance.now();
  for await (const chunk of near as AsyncIterable<Buffer>) {
    for (let at = 0; at < chunk.length; at += portion) {
      const bytes = chunk.subarray(at, at + portion);
      free = Math.max(free, performance.now()) + (bytes.length / bytesPerSecond) * 1000;
      // Timers are coarse: the link may run ahead of its rate for one portion, never for more.
      if (free - performance.now() > PORTION_MS) await pause(free - performance.now() - PORTION_MS);
      if (!far.write(bytes)) await Promise.race([once(far, 'drain'), once(far, 'close')]);
    }
  }
  far.end();
}
