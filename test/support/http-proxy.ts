import { createServer, type IncomingMessage, type ServerResponse, request as send } from 'node:http';
import type { AddressInfo } from 'node:net';
import { pipeline } from 'node:stream';

/** What the proxy does with a request: nothing special, or what `answer` does in its place. */
type Meddle = (request: IncomingMessage, response: ServerResponse) => Promise<boolean> | boolean;

export interface HttpProxy {
  url: string;
  /** Asked for each request; true: it was dealt with, and the server does not see it. */
  meddle: Meddle;
  /**
   * What is done with the answer to the next request of this path, which the server has been through with:
   * the connection is broken, or nothing ever comes.
   */
  loseNext(path: string, how: 'broken' | 'silent'): void;
  /** Breaks all connections. */
  cut(): void;
  close(): void;
}

/** Stands between the page and a server, and does what networks and proxies do. */
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
