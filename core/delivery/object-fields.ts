import contentDisposition from 'content-disposition';
import type { S3Destination } from './destinations.js';
import { cutBytes, type DeliveredFile, renderText, type Template } from './template.js';

/* How a delivered object is described in S3. Pure. */

/** The user metadata that names the file, so that Landfall recognises its own objects. */
export const ID_MARK = 'landfall-id';
const SHA256_MARK = 'landfall-sha256';

/** As the AWS SDK names them. */
export interface ObjectFields {
  ContentType: string;
  ContentDisposition?: string;
  CacheControl?: string;
  ContentLanguage?: string;
  Metadata: Record<string, string>;
  Tagging?: string;
  StorageClass?: 'STANDARD';
  ServerSideEncryption?: 'AES256' | 'aws:kms';
  SSEKMSKeyId?: string;
}

/** Characters of a tag's value; bytes of a header's. */
const MAX_TAG = 256;
const MAX_HEADER = 256;

export function objectFields(destination: S3Destination, file: DeliveredFile): ObjectFields {
  const { s3, storageClass, disposition } = destination;
  const tags = objectTags(destination, file);
  return {
    ContentType: file.type,
    ...headerValues(destination.headers, file),
    ...(disposition && {
      ContentDisposition: contentDisposition(file.filename, {
        type: disposition,
        fallback: file.filename.replace(/[^ -~]/g, '?'),
      }),
    }),
    Metadata: {
      [ID_MARK]: file.id,
      [SHA256_MARK]: file.sha256,
      ...headerValues(destination.metadata, file),
    },
    ...(tags.length > 0 && { Tagging: new URLSearchParams(tags).toString() }),
    // The SDK knows those of AWS only; other stores have their own.
    ...(storageClass && { StorageClass: storageClass as 'STANDARD' }),
    ...(s3.sse && { ServerSideEncryption: s3.sse }),
    ...(s3.kmsKeyId && { SSEKMSKeyId: s3.kmsKeyId }),
  };
}

export function objectTags({ tags }: S3Destination, file: DeliveredFile): [key: string, value: string][] {
  return tags.map(([key, value]) => [key, tagValue(renderText(value, file))]);
}

const HEADERS: Record<Exclude<keyof ObjectFields, 'Metadata'>, string> = {
  ContentType: 'content-type',
  ContentDisposition: 'content-disposition',
  CacheControl: 'cache-control',
  ContentLanguage: 'content-language',
  Tagging: 'x-amz-tagging',
  StorageClass: 'x-amz-storage-class',
  ServerSideEncryption: 'x-amz-server-side-encryption',
  SSEKMSKeyId: 'x-amz-server-side-encryption-aws-kms-key-id',
};

/** The same as headers of a request. */
export function toHeaders({ Metadata, ...fields }: ObjectFields): Record<string, string> {
  const own = Object.entries(fields).map(([name, value]) => [HEADERS[name as keyof typeof fields], value]);
  const user = Object.entries(Metadata).map(([name, value]) => [`x-amz-meta-${name}`, value]);
  return Object.fromEntries([...own, ...user]);
}

/** Without headers that would be empty. */
function headerValues(
  templates: [name: string, value: Template][],
  file: DeliveredFile,
): Record<string, string> {
  const values = templates.map(([name, value]) => [name, headerValue(renderText(value, file))]);
  return Object.fromEntries(values.filter(([, value]) => value !== ''));
}

/** Headers have printable ASCII only: other characters are percent-encoded, and so is the percent sign. */
function headerValue(text: string): string {
  let encoded = '';
  for (const character of text.trim()) {
    const next = /^[ -$&-~]$/.test(character) ? character : encodeURIComponent(character);
    if (encoded.length + next.length > MAX_HEADER) break;
    encoded += next;
  }
  return encoded.trim();
}

/** "letters, numbers, and spaces representable in UTF-8, and the following characters: + - = . _ : / @" */
function tagValue(text: string): string {
  return cutBytes(text.replace(/[^\p{L}\p{Nd} +\-=._:/@]/gu, '_'), MAX_TAG).trim();
}
