import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { sendError } from './null-s3-http.js';
import { type Call, operations, takeStoredBytes } from './null-s3-operations.js';

/*
 * An S3 that discards bytes, so that the bench measures the server and not the store.
 *
 * DELETE /__counts answers with the counts since the last DELETE: `requests` by operation, and `stored`, the bytes of the
 * objects that were made. POST /__parts?key=&count=&size= pretends that parts of an unfinished upload have arrived.
 */

let requests: Record<string, number> = {};

function takeCounts({ res }: Call): void {
  res.end(JSON.stringify({ requests, stored: takeStoredBytes() }));
  requests = {};
}

function nameOperation(method: string, key: string, query: URLSearchParams): string {
  if (key.startsWith('__')) return `/${key}`;
  const ofUpload = query.has('uploadId');
  if (!key.includes('/')) {
    if (method === 'GET') return query.has('uploads') ? 'ListMultipartUploads' : 'ListObjectsV2';
    return { PUT: 'CreateBucket', HEAD: 'HeadBucket', POST: 'DeleteObjects' }[method] ?? method;
  }
  const names: Record<string, string> = {
    PUT: ofUpload ? 'UploadPart' : 'PutObject',
    GET: ofUpload ? 'ListParts' : 'GetObject',
    POST: ofUpload ? 'CompleteMultipartUpload' : 'CreateMultipartUpload',
    DELETE: ofUpload ? 'AbortMultipartUpload' : 'DeleteObject',
    HEAD: 'HeadObject',
  };
  return names[method] ?? method;
}

const server = createServer({ requestTimeout: 0, keepAliveTimeout: 600_000 }, async (req, res) => {
  const { pathname, searchParams } = new URL(req.url ?? '', 'http://s3');
  const key = decodeURIComponent(pathname).replace(/^\/|\/$/g, '');
  const name = nameOperation(req.method ?? '', key, searchParams);
  const operation = name === '/__counts' ? takeCounts : operations[name];
  if (!name.startsWith('/')) requests[name] = (requests[name] ?? 0) + 1;
  try {
    if (!operation) return sendError(res, 501, 'NotImplemented');
    await operation({ req, res, key, query: searchParams });
  } catch {
    // The body broke off.
    res.destroy();
  }
});
server.listen(0, '127.0.0.1', () =>
  console.log(`http://localhost:${(server.address() as AddressInfo).port}`),
);
process.once('disconnect', () => process.exit(0));
