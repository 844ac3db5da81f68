import { once } from 'node:events';
import { Agent, createServer, type IncomingMessage, request, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as pause } from 'node:timers/promises';
import type { ByteSource } from '../core/uploads/receive.js';
import { readBody } from '../server/http/request-body.js';

const PIECES = 60;
const PIECE = Buffer.alloc(1024, 'a');

let server: Server;
let reads: number[];
let onRead: (source: ByteSource) => void;

beforeEach(async () => {
  reads = [];
  onRead = () => {};
  server = createServer(async (req, res) => {
    const source = readBody(req);
    await source.flow((chunk) => {
      reads.push(chunk.byteLength);
      onRead(source);
      return undefined;
    });
    req.resume();
    res.end('read');
  });
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
  expect(await sendSlowly(agent, PIECES, 20)).toBe(200);
  agent.destroy();
  expect(reads.reduce((sum, bytes) => sum + bytes, 0)).toBe(PIECES * PIECE.length);
  expect(reads.length).toBeLessThan(PIECES * 0.75);
});

test('a reader that ends while the socket rests leaves the connection to the next request', async () => {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  onRead = (source) => {
    // Just after this read the socket begins to rest.
    if (reads.length === 30) setTimeout(() => source.end(), 5);
  };
  expect(await sendSlowly(agent, PIECES, 20)).toBe(200);
  expect(await sendSlowly(agent, 1, 0)).toBe(200);
  agent.destroy();
});
