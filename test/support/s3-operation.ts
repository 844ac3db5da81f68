import type { IncomingHttpHeaders } from 'node:http';

export type S3Operation =
  | 'PutObject'
  | 'CopyObject'
  | 'UploadPart'
  | 'UploadPartCopy'
  | 'CreateMultipartUpload'
  | 'CompleteMultipartUpload'
  | 'AbortMultipartUpload'
  | 'ListParts'
  | 'ListMultipartUploads'
  | 'ListObjectsV2'
  | 'GetObject'
  | 'HeadObject'
  | 'DeleteObject'
  | 'DeleteObjects'
  | 'HeadBucket'
  | 'CreateBucket'
  | 'DeleteBucket'
  | 'Other';

/** Parameters that turn a request into one about something beside the object or the list of objects. */
const SUBRESOURCES = ['tagging', 'acl', 'location', 'versioning', 'versions', 'policy', 'lifecycle', 'cors'];

/**
 * Tells the operation of an S3 request from what distinguishes them on the wire.
 * @param key empty for a request about the bucket
 */
export function nameOperation(
  method: string,
  key: string,
  query: URLSearchParams,
  headers: IncomingHttpHeaders,
): S3Operation {
  if (SUBRESOURCES.some((name) => query.has(name))) return 'Other';
  return key ? nameObjectOperation(method, query, headers) : nameBucketOperation(method, query);
}

function nameObjectOperation(
  method: string,
  query: URLSearchParams,
  headers: IncomingHttpHeaders,
): S3Operation {
  const ofUpload = query.has('uploadId');
  const isCopy = 'x-amz-copy-source' in headers;
  switch (method) {
    case 'PUT':
      if (ofUpload) return isCopy ? 'UploadPartCopy' : 'UploadPart';
      return isCopy ? 'CopyObject' : 'PutObject';
    case 'POST':
      if (query.has('uploads')) return 'CreateMultipartUpload';
      return ofUpload ? 'CompleteMultipartUpload' : 'Other';
    case 'GET':
      return ofUpload ? 'ListParts' : 'GetObject';
    case 'HEAD':
      return 'HeadObject';
    case 'DELETE':
      return ofUpload ? 'AbortMultipartUpload' : 'DeleteObject';
    default:
      return 'Other';
  }
}

function nameBucketOperation(method: string, query: URLSearchParams): S3Operation {
  switch (method) {
    case 'PUT':
      return 'CreateBucket';
    case 'POST':
      return query.has('delete') ? 'DeleteObjects' : 'Other';
    case 'GET':
      if (query.has('uploads')) return 'ListMultipartUploads';
      return query.get('list-type') === '2' ? 'ListObjectsV2' : 'Other';
    case 'HEAD':
      return 'HeadBucket';
    case 'DELETE':
      return 'DeleteBucket';
    default:
      return 'Other';
  }
}
