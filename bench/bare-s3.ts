import { createHash, createHmac, type Hash, type Hmac, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import {
  Agent,
  type ClientRequest,
  createServer,
  type IncomingMessage,
  request,
  type ServerResponse,
} from 'node:http';
import type { AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';
import { HttpRequest } from '@smithy/protocol-http';
import { SignatureV4 } from '@smithy/signature-v4';

/*
 * The yardstick of what Node can do between a client and S3: the body of a PATCH goes into UploadPart requests of
 * 8 MiB as it arrives, with one signature over unsigned bytes and no copy. It speaks as much tus as the bench's client
 * needs, keeps its state in memory and survives no crash.
 */

const PART = 8 * 1024 ** 2;
/** How many parts may be sent before S3 has answered them. */
const UNANSWERED = 4;

const { S3_ENDPOINT = '', S3_BUCKET, S3_ACCESS_KEY_ID = '', S3_SECRET_ACCESS_KEY = '' } = process.env;
const endpoint = new URL(S3_ENDPOINT);
const agent = new Agent({ keepAlive: true });

class Sha256 {
  private readonly hash: Hash | Hmac;
  constructor(secret?: string | ArrayBuffer | ArrayBufferView) {
    this.hash = secret ? createHmac('sha256', secret as Buffer) : createHash('sha256');
  }
  update(data: Uint8Array) {
    this.hash.update(data);
  }
  async digest() {
    return this.hash.digest();
  }
  reset() {}
}

const signer = new SignatureV4({
  service: 's3',
  region: 'us-east-1',
  credentials: { accessKeyId: S3_ACCESS_KEY_ID, secretAccessKey: S3_SECRET_ACCESS_KEY },
  sha256: Sha256,
  uriEscapePath: false,
});

interface Upload {
  length: number;
  offset: number;
  uploadId: string;
  etags: string[];
}
const uploads = new Map<string, Upload>();

async function openRequest(method: string, id: string, query: Record<string, string>, length: number) {
  const { hostname, port, host } = endpoint;
  const path = `/${S3_BUCKET}/${id}`;
  const headers = { host, 'content-length': String(length), 'x-amz-content-sha256': 'UNSIGNED-PAYLOAD' };
  const signed = await signer.sign(new HttpRequest({ method, hostname, path, query, headers }));
  const search = new URLSearchParams(query);
  return request({ agent, hostname, port, method, path: `${path}?${search}`, headers: signed.headers });
}

async function answerOf(
  outgoing: ClientRequest,
): Promise<{ headers: IncomingMessage['headers']; body: string }> {
  const [response] = (await once(outgoing, 'response')) as [IncomingMessage];
  const body = await text(response);
  if (response.statusCode !== 200) throw new Error(`S3 answered ${response.statusCode} ${body}`);
  return { headers: response.headers, body };
}

async function call(id: string, query: Record<string, string>, body = ''): Promise<string> {
  return (await answerOf((await openRequest('POST', id, query, body.length)).end(body))).body;
}

/** Sends a body of known length as parts. @returns their ETags */
async function sendParts(
  id: string,
  uploadId: string,
  firstNumber: number,
  req: IncomingMessage,
): Promise<string[]> {
  const answers: Promise<string>[] = [];
  let rest = Number(req.headers['content-length']);
  let part: ClientRequest | undefined;
  let left = 0;
  for await (const chunk of req as AsyncIterable<Buffer>) {
    for (let at = 0; at < chunk.length; ) {
      if (!part) {
        left = Math.min(PART, rest);
        await answers.at(-UNANSWERED);
        const partNumber = String(firstNumber + answers.length);
        part = await openRequest('PUT', id, { partNumber, uploadId }, left);
        answers.push(answerOf(part).then(({ headers }) => headers.etag ?? ''));
      }
      const slice = chunk.subarray(at, at + left);
      at += slice.length;
      left -= slice.length;
      rest -= slice.length;
      if (!part.write(slice)) await once(part, 'drain');
      if (left > 0) continue;
      part.end();
      part = undefined;
    }
  }
  return Promise.all(answers);
}

async function patch(id: string, upload: Upload, req: IncomingMessage): Promise<void> {
  if (upload.etags.length === 0) {
    upload.uploadId = /<UploadId>([^<]+)/.exec(await call(id, { uploads: '' }))?.[1] ?? '';
  }
  upload.etags.push(...(await sendParts(id, upload.uploadId, upload.etags.length + 1, req)));
  upload.offset += Number(req.headers['content-length']);
  if (upload.offset < upload.length) return;
  const parts = upload.etags.map(
    (etag, i) => `<Part><PartNumber>${i + 1}</PartNumber><ETag>${etag}</ETag></Part>`,
  );
  const { uploadId } = upload;
  await call(id, { uploadId }, `<CompleteMultipartUpload>${parts.join('')}</CompleteMultipartUpload>`);
  uploads.delete(id);
}

async function handle(req: IncomingMessage, res: ServerResponse): Promise<void> {
  if (req.method === 'POST') {
    const id = randomUUID();
    uploads.set(id, { length: Number(req.headers['upload-length']), offset: 0, uploadId: '', etags: [] });
    res.writeHead(201, { Location: `http://${req.headers.host}/uploads/${id}` }).end();
    return;
  }
  const id = req.url?.split('/').at(-1) ?? '';
  const upload = uploads.get(id);
  if (!upload) return void res.writeHead(404).end();
  if (req.method === 'PATCH') await patch(id, upload, req);
  res.writeHead(204, { 'Upload-Offset': upload.offset }).end();
}

const server = createServer({ requestTimeout: 0, keepAliveTimeout: 600_000 }, (req, res) => {
  handle(req, res).catch((error) => {
    console.error(error);
    res.destroy();
  });
});
server.listen(0, '127.0.0.1', () =>
  console.log(`http://localhost:${(server.address() as AddressInfo).port}`),
);
process.once('disconnect', () => process.exit(0));
