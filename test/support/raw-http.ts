import { connect } from 'node:net';

export interface Answer {
  status: number;
  headers: Headers;
  body: string;
}

/** A request as it goes over the wire, right or wrong; characters are bytes (Latin-1). */
export function formRequest(
  method: string,
  target: string,
  headers: Record<string, string>,
  body: string | Buffer = '',
): Buffer {
  const bytes = Buffer.from(body as string);
  const all = {
    Host: 'localhost',
    Connection: 'close',
    ...(bytes.length > 0 ? { 'Content-Length': String(bytes.length) } : {}),
    ...headers,
  };
  const lines = Object.entries(all).map(([name, value]) => `${name}: ${value}\r\n`);
  return Buffer.concat([
    Buffer.from(`${method} ${target} HTTP/1.1\r\n${lines.join('')}\r\n`, 'latin1'),
    bytes,
  ]);
}

/** Shorter than the server's time limit for a head, so that its 408 is not taken for an answer. */
const ANSWER_WITHIN_MS = 15_000;

/**
 * Sends `request` on a connection of its own.
 * @returns the first answer that is not provisional; undefined if the connection is closed without any
 */
export function exchange(url: string, request: string | Buffer): Promise<Answer | undefined> {
  const { hostname, port } = new URL(url);
  return new Promise((resolve, reject) => {
    const socket = connect(Number(port), hostname);
    const chunks: Buffer[] = [];
    const done = () => {
      socket.destroy();
      resolve(parse(Buffer.concat(chunks).toString('latin1')));
    };
    socket.setTimeout(ANSWER_WITHIN_MS, () => {
      socket.destroy();
      reject(new Error('the connection stays open'));
    });
    socket.on('data', (chunk) => chunks.push(chunk));
    // A request that is refused in its middle ends with a reset, after the answer has arrived.
    socket.on('error', () => {});
    socket.on('end', done).on('close', done);
    socket.write(request);
  });
}

function parse(text: string): Answer | undefined {
  const [head = '', ...rest] = text.split('\r\n\r\n');
  const [statusLine = '', ...lines] = head.split('\r\n');
  const [, status] = /^HTTP\/1\.1 (\d{3})/.exec(statusLine) ?? [];
  if (!status) return undefined;
  const body = rest.join('\r\n\r\n');
  if (status.startsWith('1')) return parse(body);
  const headers = new Headers();
  for (const line of lines) {
    const colon = line.indexOf(':');
    headers.append(line.slice(0, colon), line.slice(colon + 1).trim());
  }
  return { status: Number(status), headers, body };
}
