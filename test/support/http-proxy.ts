import { createServer, type IncomingMessage, type ServerResponse, request as send } from 'node:http';
import type { AddressInfo } from 'node:net';
import { pipeline } from 'node:stream';

/** Returns true if it has dealt with the request itself, so that the proxy does not forward it. */
type Meddle = (request: IncomingMessage, response: ServerResponse) => Promise<boolean> | boolean;

export interface HttpProxy {
  url: string;
  /** Called for each request; true: it has dealt with the request, and the server does not see it. */
  meddle: Meddle;
  /**
   * How the answer to the next request of this path is lost, after the server has carried the request out:
   * the connection breaks, or no answer ever comes.
   */
  loseNext(path: string, how: 'broken' | 'silent'): void;
  /** Breaks all connections. */
  cut(): void;
  close(): void;
}

/** A proxy between the page and a server, which can fail as networks and proxies do. */
export async function startHttpProxy(target: () => string): Promise<HttpProxy> {
  const losses = new Map<string, 'broken' | 'silent'>();
  const server = createServer(async (request, response) => {
    const path = request.url ?? '/';
    if (await proxy.meddle(request, response)) return;
    const loss = losses.get(path);
    losses.delete(path);
    const onward = send(`${target()}${path}`, { method: request.method ?? 'GET', headers: request.headers });
    onward.on('response', (answer) => {
      if (loss) {
        answer.resume().on('end', () => loss === 'broken' && request.socket.destroy());
        return;
      }
      response.writeHead(answer.statusCode ?? 502, answer.rawHeaders);
      pipeline(answer, response, () => {});
    });
    onward.on('error', () => request.socket.destroy());
    pipeline(request, onward, () => {});
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const proxy: HttpProxy = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    meddle: () => false,
    loseNext: (path, how) => losses.set(path, how),
    cut: () => server.closeAllConnections(),
    close: () => {
      server.closeAllConnections();
      server.close();
    },
  };
  return proxy;
}
