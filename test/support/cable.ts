import { type AddressInfo, connect, createServer, type Socket } from 'node:net';

/**
 * A TCP connection to the server that can be cut. The offline mode of browsers stops only new requests, not
 * those under way.
 */
export async function layCable(port: number) {
  const sockets = new Set<Socket>();
  let whole = true;
  let most = Number.POSITIVE_INFINITY;
  let held = 0;
  const server = createServer((near) => {
    if (!whole) {
      near.destroy();
      return;
    }
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
      socket.pipe(other);
    }
    let carried = 0;
    near.on('data', (chunk) => {
      carried += chunk.length;
      if (carried <= most) return;
      near.unpipe(far).pause();
      held++;
    });
  });
  await new Promise<void>((resolve) => server.listen(0, 'localhost', resolve));
  const cut = () => {
    whole = false;
    for (const socket of sockets) socket.destroy();
  };
  return {
    url: `http://localhost:${(server.address() as AddressInfo).port}`,
    cut,
    /** Each connection that has carried more than so many bytes to the server carries no others from then on. */
    carryAtMost: (bytes: number) => {
      most = bytes;
    },
    /** How many connections have come to a standstill by carryAtMost() so far. */
    held: () => held,
    mend: () => {
      whole = true;
    },
    close: () => {
      cut();
      server.close();
    },
  };
}
