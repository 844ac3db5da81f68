import { createServer, type IncomingHttpHeaders, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

/** A message that a receiver has got. */
export interface Received {
  headers: IncomingHttpHeaders;
  text: string;
  // biome-ignore lint/suspicious/noExplicitAny: the tests know what they have sent
  body: any;
  at: number;
}

export type Answering = (res: ServerResponse, got: Received) => void;

export interface Receiver {
  url: string;
  /** In order of arrival. */
  received: Received[];
  /** How it answers from now on. At first: 204. */
  answer: Answering;
  /** How many requests wait for their answer. */
  open(): number;
  close(): Promise<void>;
}

/** A receiver of webhooks, in this process. */
export async function startReceiver(
  answer: Answering = (res) => res.writeHead(204).end(),
): Promise<Receiver> {
  let open = 0;
  const server = createServer(async (req, res) => {
    open++;
    res.once('close', () => open--);
    const text = await readText(req).catch(() => undefined);
    if (text === undefined) return;
    const got = { headers: req.headers, text, body: JSON.parse(text), at: Date.now() };
    receiver.received.push(got);
    receiver.answer(res, got);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const receiver: Receiver = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/hook`,
    received: [],
    answer,
    open: () => open,
    async close() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
  return receiver;
}

async function readText(req: IncomingMessage): Promise<string> {
  let text = '';
  for await (const chunk of req.setEncoding('utf8')) text += chunk;
  return text;
}
