import { createServer, type IncomingHttpHeaders, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

/** A question to a hook, as its receiver gets it. */
interface Asked {
  type: string;
  // biome-ignore lint/suspicious/noExplicitAny: the tests look into it at many places
  event: any;
  headers: IncomingHttpHeaders;
  /** All of the body. */
  // biome-ignore lint/suspicious/noExplicitAny: as above
  body: any;
}

/** An object is answered as JSON; nothing: the receiver has answered by itself, or never will. */
type HookScript = (asked: Asked, res: ServerResponse) => object | undefined | Promise<object | undefined>;

/** A receiver of hooks that answers as its test wants. */
export interface HookReceiver {
  url: string;
  /** All questions since the last reset, in order. */
  asked: Asked[];
  answer: HookScript;
  /** Forgets the questions, and says yes to everything from now on. */
  reset(): void;
  /** The types of all questions. */
  types(): string[];
  close(): Promise<void>;
}

const YES = () => ({});

export async function startHookReceiver(): Promise<HookReceiver> {
  const http = createServer(async (req, res) => {
    let text = '';
    for await (const chunk of req.setEncoding('utf8')) text += chunk;
    const body = JSON.parse(text);
    const asked = { type: body.Type, event: body.Event, headers: req.headers, body };
    receiver.asked.push(asked);
    const reply = await receiver.answer(asked, res);
    if (reply) res.setHeader('Content-Type', 'application/json').end(JSON.stringify(reply));
  });
  await new Promise<void>((resolve) => http.listen(0, '127.0.0.1', resolve));
  const receiver: HookReceiver = {
    url: `http://127.0.0.1:${(http.address() as AddressInfo).port}/hooks`,
    asked: [],
    answer: YES,
    reset() {
      receiver.asked = [];
      receiver.answer = YES;
    },
    types: () => receiver.asked.map(({ type }) => type),
    close: () =>
      new Promise((resolve) => {
        http.close(() => resolve());
        http.closeAllConnections();
      }),
  };
  return receiver;
}
