import type { Readable } from 'node:stream';
import {
  AbortMultipartUploadCommand,
  CompleteMultipartUploadCommand,
  CopyObjectCommand,
  CreateMultipartUploadCommand,
  DeleteObjectCommand,
  HeadObjectCommand,
  ListMultipartUploadsCommand,
  ListObjectsV2Command,
  ListPartsCommand,
  UploadPartCopyCommand,
} from '@aws-sdk/client-s3';
import type { Logger } from '../../log.js';
import { BytesLost, type Part, type Segment, type StoredObject } from '../storage.js';
import type { S3Connection } from './connection.js';
import type { Body } from './http-put.js';
import { S3Error } from './http-request.js';

/* The operations of S3 that Landfall uses. Keys go in and come out without the configured prefix. */

/** Time limit for completing 10,000 parts or copying half a GiB, in milliseconds. */
const LONG_MS = 60_000;

/** Concurrent deletions of deleteLater(). */
const MAX_DELETIONS = 16;

export type ObjectStore = ReturnType<typeof createObjectStore>;

export function createObjectStore(connection: S3Connection, log: Logger) {
  const { client, config } = connection;
  const { bucket: Bucket, prefix } = config;
  const encryption = {
    ...(config.sse ? { ServerSideEncryption: config.sse } : {}),
    ...(config.kmsKeyId ? { SSEKMSKeyId: config.kmsKeyId } : {}),
  };
  const encryptionHeaders: Record<string, string> = {
    ...(config.sse ? { 'x-amz-server-side-encryption': config.sse } : {}),
    ...(config.kmsKeyId ? { 'x-amz-server-side-encryption-aws-kms-key-id': config.kmsKeyId } : {}),
  };
  const named = (key: string) => ({ Bucket, Key: prefix + key });
  const options = (signal?: AbortSignal) => (signal ? { abortSignal: signal } : {});
  const toDelete: string[] = [];
  let deletions = 0;

  const store = {
    /** Stores a whole object. */
    async put(key: string, body: Body, signal?: AbortSignal): Promise<void> {
      await connection.put({
        key: prefix + key,
        headers: encryptionHeaders,
        body,
        signal,
      });
    },

    /** Stores a part of a multipart upload. @returns its ETag */
    async putPart(
      key: string,
      uploadId: string,
      number: number,
      body: Body,
      signal?: AbortSignal,
    ): Promise<string> {
      const query = { partNumber: String(number), uploadId };
      const { etag } = await connection.put({
        key: prefix + key,
        query,
        body,
        ...(signal ? { signal } : {}),
      });
      if (!etag) throw new Error('S3 answered UploadPart without an ETag');
      return etag;
    },

    /** @returns its UploadId */
    async createMultipart(key: string, signal?: AbortSignal): Promise<string> {
      const command = new CreateMultipartUploadCommand({ ...named(key), ...encryption });
      const { UploadId } = await client.send(command, options(signal));
      if (!UploadId) throw new Error('S3 answered CreateMultipartUpload without an UploadId');
      return UploadId;
    },

    async completeMultipart(
      key: string,
      uploadId: string,
      parts: Part[],
      signal?: AbortSignal,
    ): Promise<void> {
      const command = new CompleteMultipartUploadCommand({
        ...named(key),
        UploadId: uploadId,
        MultipartUpload: { Parts: parts.map(({ number, etag }) => ({ PartNumber: number, ETag: etag })) },
      });
      await client.send(command, { ...options(signal), requestTimeout: LONG_MS });
    },

    /**
     * Makes a part from bytes of another object, within the store.
     * @param end position after the last byte
     * @returns its ETag
     */
    async copyPart(
      source: string,
      start: number,
      end: number,
      key: string,
      uploadId: string,
      number: number,
      signal?: AbortSignal,
    ): Promise<string> {
      const command = new UploadPartCopyCommand({
        ...named(key),
        UploadId: uploadId,
        PartNumber: number,
        CopySource: `${Bucket}/${prefix}${source}`,
        CopySourceRange: `bytes=${start}-${end - 1}`,
      });
      const { CopyPartResult } = await client.send(command, { ...options(signal), requestTimeout: LONG_MS });
      return CopyPartResult?.ETag ?? '';
    },

    /** Copies an object of at most half a GiB, within the store. */
    async copy(source: string, key: string): Promise<void> {
      const command = new CopyObjectCommand({
        ...named(key),
        ...encryption,
        CopySource: `${Bucket}/${prefix}${source}`,
      });
      await client.send(command, { requestTimeout: LONG_MS });
    },

    /** No error if there is none. */
    async abortMultipart(key: string, uploadId: string): Promise<void> {
      const command = new AbortMultipartUploadCommand({ ...named(key), UploadId: uploadId });
      await client.send(command).catch(ignoreMissing);
    },

    /** By number. */
    async listParts(key: string, uploadId: string, signal?: AbortSignal): Promise<Part[]> {
      const parts: Part[] = [];
      let marker: string | undefined;
      do {
        const answer = await client.send(
          new ListPartsCommand({ ...named(key), UploadId: uploadId, PartNumberMarker: marker }),
          options(signal),
        );
        for (const { PartNumber = 0, Size = 0, ETag = '' } of answer.Parts ?? []) {
          parts.push({ number: PartNumber, size: Size, etag: ETag });
        }
        marker = answer.IsTruncated ? answer.NextPartNumberMarker : undefined;
      } while (marker);
      return parts;
    },

    /** Opens an object, or a range of it. */
    open: (key: string, range?: { start: number; end: number }, signal?: AbortSignal): Promise<Readable> =>
      connection.get(prefix + key, range, signal),

    /** Yields the bytes of the segments, then the others. @throws {BytesLost} when a segment is missing */
    async *join(
      segments: Segment[],
      others: Body['chunks'],
      signal?: AbortSignal,
    ): AsyncGenerator<Uint8Array> {
      for (const { key } of segments) {
        yield* await store.open(key, undefined, signal).catch((error: unknown) => {
          if (!isMissing(error)) throw error;
          throw new BytesLost('The storage has lost bytes of this upload: begin it anew', error);
        });
      }
      yield* typeof others === 'function' ? others() : others;
    },

    /** Bytes of an object; undefined if there is none. */
    async sizeOf(key: string, signal?: AbortSignal): Promise<number | undefined> {
      const answer = await client
        .send(new HeadObjectCommand(named(key)), options(signal))
        .catch(ignoreMissing);
      return answer?.ContentLength;
    },

    /** No error if there is none. */
    async delete(key: string): Promise<void> {
      await client.send(new DeleteObjectCommand(named(key))).catch(ignoreMissing);
    },

    /** Deletes objects in the background. An object that could not be deleted is found later by its upload's key. */
    deleteLater(keys: string[]): void {
      toDelete.push(...keys);
      while (deletions < MAX_DELETIONS && toDelete.length > 0) {
        deletions++;
        void deleteAll().finally(() => {
          deletions--;
        });
      }
    },

    /** Objects whose keys begin with `begin`. */
    async *list(begin: string): AsyncGenerator<StoredObject> {
      let token: string | undefined;
      do {
        const answer = await client.send(
          new ListObjectsV2Command({ Bucket, Prefix: prefix + begin, ContinuationToken: token }),
        );
        for (const { Key = '', Size = 0, LastModified } of answer.Contents ?? []) {
          yield { key: Key.slice(prefix.length), size: Size, modified: LastModified ?? new Date(0) };
        }
        token = answer.IsTruncated ? answer.NextContinuationToken : undefined;
      } while (token);
    },

    /** Multipart uploads whose keys begin with `begin`. (MinIO lists them only where `begin` is a whole key.) */
    async *listMultiparts(begin: string): AsyncGenerator<StoredObject & { multipartId: string }> {
      let marker: { KeyMarker?: string | undefined; UploadIdMarker?: string | undefined } | undefined;
      do {
        const answer = await client.send(
          new ListMultipartUploadsCommand({ Bucket, Prefix: prefix + begin, ...marker }),
        );
        for (const { Key = '', UploadId = '', Initiated } of answer.Uploads ?? []) {
          yield {
            key: Key.slice(prefix.length),
            size: 0,
            modified: Initiated ?? new Date(0),
            multipartId: UploadId,
          };
        }
        marker = answer.IsTruncated
          ? { KeyMarker: answer.NextKeyMarker, UploadIdMarker: answer.NextUploadIdMarker }
          : undefined;
      } while (marker);
    },
  };

  async function deleteAll(): Promise<void> {
    for (let key = toDelete.shift(); key !== undefined; key = toDelete.shift()) {
      await store
        .delete(key)
        .catch((error: unknown) => log.warn({ err: error }, 'an object could not be deleted now'));
    }
  }

  return store;
}

/** Whether S3 says that an object or multipart upload does not exist. Stores use different names for this error. */
export function isMissing(error: unknown): boolean {
  const names = ['NoSuchUpload', 'NoSuchKey', 'NotFound'];
  return error instanceof Error && names.includes(error instanceof S3Error ? error.code : error.name);
}

function ignoreMissing(error: unknown): undefined {
  if (!isMissing(error)) throw error;
}
