import type { IncomingMessage, ServerResponse } from 'node:http';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { afterBody, metadataOf, readBody, sendError, sendXml, sizeOf, splitKey } from './null-s3-http.js';

/*
 * The store that discards bytes: its state and its operations. It remembers the size and ETag of parts and objects. It
 * keeps the bytes of small objects, because stock and tusd read their `.info` again; for larger ones it sends zeros. It
 * checks neither signatures nor buckets, but a completion must name parts that have arrived.
 */

/** Bytes of objects up to this size are kept, such as the `.info` of stock and of tusd. */
const KEPT = 64 * 1024;
const PAGE = 1000;
const ZEROS = Buffer.alloc(256 * 1024);

interface Part {
  size: number;
  etag: string;
}

interface StoredObject extends Part {
  bytes?: Buffer;
  metadata: Record<string, string>;
}

interface MultipartUpload {
  key: string;
  parts: Map<number, Part>;
  metadata: Record<string, string>;
}

/** One request to the store. */
export interface Call {
  req: IncomingMessage;
  res: ServerResponse;
  /** `<bucket>/<key>`, or only `<bucket>`. */
  key: string;
  query: URLSearchParams;
}

const uploads = new Map<string, MultipartUpload>();
const objects = new Map<string, StoredObject>();
let storedBytes = 0;
let serial = 0;

/** The operations, by the names that AWS gives them. A name that begins with `/__` is an address for benches. */
export const operations: Record<string, (call: Call) => void | Promise<void>> = {
  CreateBucket: ({ req, res }) => afterBody(req, () => res.end()),
  HeadBucket: ({ res }) => void res.end(),

  CreateMultipartUpload({ req, res, key }) {
    const id = `upload-${++serial}`;
    uploads.set(id, { key, parts: new Map(), metadata: metadataOf(req) });
    const [bucket, name] = splitKey(key);
    const answer = `<Bucket>${bucket}</Bucket><Key>${name}</Key><UploadId>${id}</UploadId>`;
    afterBody(req, () => sendXml(res, 'InitiateMultipartUploadResult', answer));
  },

  UploadPart({ req, res, query }) {
    const upload = uploads.get(query.get('uploadId') ?? '');
    afterBody(req, (size) => {
      if (!upload) return sendError(res, 404, 'NoSuchUpload');
      const part = { size, etag: newEtag() };
      upload.parts.set(Number(query.get('partNumber')), part);
      res.writeHead(200, { ETag: part.etag, 'Content-Length': 0 }).end();
    });
  },

  ListParts({ res, key, query }) {
    const upload = uploads.get(query.get('uploadId') ?? '');
    if (!upload) return sendError(res, 404, 'NoSuchUpload');
    const after = Number(query.get('part-number-marker') ?? 0);
    const limit = Math.min(Number(query.get('max-parts') ?? PAGE), PAGE);
    const rest = [...upload.parts].filter(([number]) => number > after).sort(([a], [b]) => a - b);
    const page = rest.slice(0, limit);
    const [bucket, name] = splitKey(key);
    sendXml(
      res,
      'ListPartsResult',
      `<Bucket>${bucket}</Bucket><Key>${name}</Key><UploadId>${query.get('uploadId')}</UploadId>` +
        `<PartNumberMarker>${after}</PartNumberMarker><MaxParts>${limit}</MaxParts>` +
        `<NextPartNumberMarker>${page.at(-1)?.[0] ?? after}</NextPartNumberMarker>` +
        `<IsTruncated>${rest.length > page.length}</IsTruncated>` +
        page
          .map(
            ([number, { size, etag }]) =>
              `<Part><PartNumber>${number}</PartNumber><LastModified>2026-01-01T00:00:00.000Z</LastModified>` +
              `<ETag>${etag}</ETag><Size>${size}</Size></Part>`,
          )
          .join(''),
    );
  },

  async CompleteMultipartUpload({ req, res, key, query }) {
    const body = (await readBody(req)).toString();
    const id = query.get('uploadId') ?? '';
    const upload = uploads.get(id);
    if (!upload) return sendError(res, 404, 'NoSuchUpload');
    const named = [...body.matchAll(/<PartNumber>(\d+)</g)].map(([, number]) =>
      upload.parts.get(Number(number)),
    );
    if (named.length === 0 || named.includes(undefined)) return sendError(res, 400, 'InvalidPart');
    uploads.delete(id);
    const size = named.reduce((sum, part) => sum + (part?.size ?? 0), 0);
    const { etag } = store(key, { size, etag: newEtag(), metadata: upload.metadata });
    const [bucket, name] = splitKey(key);
    const answer = `<Bucket>${bucket}</Bucket><Key>${name}</Key><ETag>${etag}</ETag>`;
    sendXml(res, 'CompleteMultipartUploadResult', answer);
  },

  AbortMultipartUpload({ res, query }) {
    if (!uploads.delete(query.get('uploadId') ?? '')) return sendError(res, 404, 'NoSuchUpload');
    res.writeHead(204).end();
  },

  ListMultipartUploads({ res, key }) {
    const found = [...uploads].filter(([, upload]) => upload.key.startsWith(`${key}/`));
    sendXml(
      res,
      'ListMultipartUploadsResult',
      `<Bucket>${key}</Bucket><IsTruncated>false</IsTruncated>${found
        .map(
          ([id, upload]) =>
            `<Upload><Key>${splitKey(upload.key)[1]}</Key><UploadId>${id}</UploadId>` +
            '<Initiated>2026-01-01T00:00:00.000Z</Initiated></Upload>',
        )
        .join('')}`,
    );
  },

  async PutObject({ req, res, key }) {
    const metadata = metadataOf(req);
    const keep = sizeOf(req) <= KEPT;
    const bytes = keep ? await readBody(req) : undefined;
    const object = { etag: newEtag(), metadata };
    const done = (size: number) => {
      store(key, { ...object, size, ...(bytes ? { bytes } : {}) });
      res.writeHead(200, { ETag: object.etag, 'Content-Length': 0 }).end();
    };
    if (bytes) done(bytes.length);
    else afterBody(req, done);
  },

  HeadObject({ res, key }) {
    const object = objects.get(key);
    if (!object) return void res.writeHead(404).end();
    res.writeHead(200, headersOf(object, object.size)).end();
  },

  async GetObject({ req, res, key }) {
    const object = objects.get(key);
    if (!object) return sendError(res, 404, 'NoSuchKey');
    const [, first, last] = /^bytes=(\d+)-(\d*)$/.exec(req.headers.range ?? '') ?? [];
    const start = Number(first ?? 0);
    const end = Math.min(last ? Number(last) + 1 : object.size, object.size);
    const headers = headersOf(object, end - start);
    if (first) headers['Content-Range'] = `bytes ${start}-${end - 1}/${object.size}`;
    res.writeHead(first ? 206 : 200, headers);
    const body = object.bytes ? [object.bytes.subarray(start, end)] : zeros(end - start);
    // The client may close the connection before the end.
    await pipeline(Readable.from(body, { objectMode: false }), res).catch(() => {});
  },

  DeleteObject({ res, key }) {
    objects.delete(key);
    res.writeHead(204).end();
  },

  async DeleteObjects({ req, res, key }) {
    const body = (await readBody(req)).toString();
    for (const [, name] of body.matchAll(/<Key>([^<]*)</g)) objects.delete(`${key}/${name}`);
    sendXml(res, 'DeleteResult', '');
  },

  ListObjectsV2({ res, key, query }) {
    const prefix = `${key}/${query.get('prefix') ?? ''}`;
    const found = [...objects].filter(([name]) => name.startsWith(prefix));
    sendXml(
      res,
      'ListBucketResult',
      `<Name>${key}</Name><KeyCount>${found.length}</KeyCount><IsTruncated>false</IsTruncated>${found
        .map(
          ([name, { size, etag }]) =>
            `<Contents><Key>${splitKey(name)[1]}</Key><ETag>${etag}</ETag><Size>${size}</Size></Contents>`,
        )
        .join('')}`,
    );
  },

  '/__parts'({ res, query }) {
    const upload = [...uploads.values()].find(({ key }) => key === query.get('key'));
    if (!upload) return sendError(res, 404, 'NoSuchUpload');
    for (let number = 1; number <= Number(query.get('count')); number++) {
      upload.parts.set(number, { size: Number(query.get('size')), etag: newEtag() });
    }
    res.end();
  },
};

/** The bytes of the objects that were made since the last call. */
export function takeStoredBytes(): number {
  const bytes = storedBytes;
  storedBytes = 0;
  return bytes;
}

function store(key: string, object: StoredObject): StoredObject {
  objects.set(key, object);
  storedBytes += object.size;
  return object;
}

function newEtag(): string {
  return `"${(++serial).toString(16).padStart(32, '0')}"`;
}

function headersOf(object: StoredObject, length: number): Record<string, string | number> {
  return { ...object.metadata, ETag: object.etag, 'Content-Length': length, 'Accept-Ranges': 'bytes' };
}

function* zeros(size: number): Generator<Buffer> {
  for (let left = size; left > 0; left -= ZEROS.length) yield ZEROS.subarray(0, left);
}
