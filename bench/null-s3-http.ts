import type { IncomingMessage, ServerResponse } from 'node:http';

/* HTTP for the store that discards bytes: it reads bodies and headers, and answers in XML. */

/** Bytes of the body without the frames of `aws-chunked`, as the headers say. */
export function sizeOf(req: IncomingMessage): number {
  return Number(req.headers['x-amz-decoded-content-length'] ?? req.headers['content-length'] ?? Infinity);
}

/** Discards the body; `done` gets its size. */
export function afterBody(req: IncomingMessage, done: (size: number) => void): void {
  req.resume().once('end', () => done(sizeOf(req)));
}

export async function readBody(req: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of req) chunks.push(chunk);
  const body = Buffer.concat(chunks);
  return req.headers['x-amz-decoded-content-length'] ? unframe(body) : body;
}

/** Takes off the frames of `aws-chunked`, in which the SDK sends bodies with a checksum: `<hex size>\r\n<bytes>\r\n`. */
function unframe(framed: Buffer): Buffer {
  const slices: Buffer[] = [];
  for (let at = 0; ; ) {
    const begin = framed.indexOf('\r\n', at) + 2;
    const size = Number.parseInt(framed.toString('latin1', at, begin), 16);
    if (!size) return Buffer.concat(slices);
    slices.push(framed.subarray(begin, begin + size));
    at = begin + size + 2;
  }
}

export function metadataOf(req: IncomingMessage): Record<string, string> {
  const wanted = Object.entries(req.headers).filter(
    ([name]) => name.startsWith('x-amz-meta-') || name === 'content-type',
  );
  return Object.fromEntries(wanted) as Record<string, string>;
}

export function splitKey(key: string): [string, string] {
  const slash = key.indexOf('/');
  return [key.slice(0, slash), key.slice(slash + 1)];
}

export function sendXml(res: ServerResponse, root: string, content: string): void {
  const body = `<?xml version="1.0" encoding="UTF-8"?><${root} xmlns="http://s3.amazonaws.com/doc/2006-03-01/">${content}</${root}>`;
  res.writeHead(200, { 'Content-Type': 'application/xml', 'Content-Length': body.length }).end(body);
}

export function sendError(res: ServerResponse, status: number, code: string): void {
  res
    .writeHead(status, { 'Content-Type': 'application/xml' })
    .end(
      `<?xml version="1.0" encoding="UTF-8"?><Error><Code>${code}</Code><Message>${code}</Message></Error>`,
    );
}
