import { once } from 'node:events';
import { Agent, createServer, type IncomingMessage, request, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as pause } from 'node:timers/promises';
import type { ByteSource } from '../core/uploads/receive.js';
import { readBody } from '../server/http/request-body.js';

/** Sent in about two seconds. A socket does not rest before the last 32 of them. */
const PIECES = 120;
const PIECE = Buffer.alloc(1024, 'a');
const EVERY_MS = 15;

let server: Server;
let reads: number[];
let connections: number;
let onRead: (source: ByteSource, bytes: number) => void;

beforeEach(async () => {
  reads = [];
  connections = 0;
  onRead = () => {};
  server = createServer(async (req, res) => {
    const source = readBody(req);
    await source.flow((chunk) => {
      reads.push(chunk.byteLength);
      onRead(source, chunk.byteLength);
      return undefined;
    });
    req.resume();
    res.end('read');
  });
  server.on('connection', () => connections++);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
});

afterEach(() => {
  server.closeAllConnections();
  server.close();
});

/** Sends pieces with pauses between them. @returns the answer's status */
async function sendSlowly(agent: Agent, pieces: number, everyMs: number): Promise<number | undefined> {
  const { port } = server.address() as AddressInfo;
  const headers = { 'Content-Length': pieces * PIECE.length };
  const outgoing = request({ port, host: '127.0.0.1', method: 'POST', agent, headers });
  const answered = once(outgoing, 'response') as Promise<[IncomingMessage]>;
  for (let i = 0; i < pieces; i++) {
    outgoing.write(PIECE);
    await pause(everyMs);
  }
  outgoing.end();
  const [answer] = await answered;
  await once(answer.resume(), 'end');
  return answer.statusCode;
}

test('the small packets of a slow sender gather, and few reads take all of them', async () => {
  const agent = new Agent();
  expect(await sendSlowly(agent, PIECES, EVERY_MS)).toBe(200);
  agent.destroy();
  expect(reads.reduce((sum, bytes) => sum + bytes, 0)).toBe(PIECES * PIECE.length);
  expect(reads.length).toBeLessThan(PIECES * 0.75);
});

test('a reader that ends while the socket rests leaves the connection to the next request', async () => {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  let endings = 0;
  onRead = (source, bytes) => {
    // These gathered in a rest, so the sender is slow and the socket begins to rest again.
    if (bytes < 4 * PIECE.length || endings > 0) return;
    endings++;
    setTimeout(() => source.end(), 5);
  };
  expect(await sendSlowly(agent, PIECES, EVERY_MS)).toBe(200);
  expect(endings).toBe(1);
  expect(await sendSlowly(agent, 1, 0)).toBe(200);
  expect(connections).toBe(1);
  agent.destroy();
});
