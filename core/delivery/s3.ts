import {
  CopyObjectCommand,
  CreateMultipartUploadCommand,
  HeadObjectCommand,
  PutObjectTaggingCommand,
  UploadPartCopyCommand,
} from '@aws-sdk/client-s3';
import { forEachOf } from '../concurrency.js';
import type { S3Config } from '../config-groups.js';
import { AppError } from '../errors.js';
import type { Logger } from '../log.js';
import { openConnection } from '../storage/s3/connection.js';
import { S3Unavailable } from '../storage/s3/http-put.js';
import { S3Error } from '../storage/s3/http-request.js';
import { createObjectStore, isMissing } from '../storage/s3/operations.js';
import type { Part } from '../storage/storage.js';
import { type PlannedPart, planCopying, planSending } from './copy-plan.js';
import type { S3Destination } from './destinations.js';
import { ID_MARK, type ObjectFields, objectFields, objectTags, toHeaders } from './object-fields.js';
import {
  type Delivery,
  type DeliveryAttempt,
  deliveryRefused,
  destinationAway,
  type Receiver,
} from './receiver.js';

/*
 * Delivery to a bucket. Where the source is in the same store, the store copies the bytes itself. If it refuses that, for
 * example because the keys of the destination may not read the source, the bytes are sent like those for any other store:
 * part by part, each read while it is sent, so that the memory does not depend on the size.
 *
 * A delivered object bears the id of its file, so that an attempt after a crash recognises it.
 */

/** Parts that are copied or sent at a time. */
const CONCURRENCY = 4;

/** Time limit for copying half a GiB, in milliseconds. */
const COPY_MS = 60_000;

/** Opens a bucket; nothing is sent yet. @param own the store of this server; undefined: a folder */
export function openBucket(destination: S3Destination, own: S3Config | undefined, log: Logger): Receiver {
  const { name, s3 } = destination;
  // Keys come with the prefix.
  const connection = openConnection({ ...s3, prefix: '' });
  const objects = createObjectStore(connection, log);
  const { client } = connection;
  const isSameStore = own !== undefined && own.endpoint === s3.endpoint;
  const { bucket: Bucket } = s3;

  const guarded = <T>(work: Promise<T>, signal?: AbortSignal): Promise<T> =>
    work.catch((error: unknown) => {
      throw signal?.aborted ? error : toDeliveryError(name, error);
    });

  async function look(Key: string, delivery: Delivery): Promise<'free' | 'own' | 'taken'> {
    const found = await client.send(new HeadObjectCommand({ Bucket, Key })).catch((error: unknown) => {
      if (!isMissing(error)) throw error;
    });
    if (!found) return 'free';
    const { file, source } = delivery;
    if (found.Metadata?.[ID_MARK] !== file.id || found.ContentLength !== source.size) return 'taken';
    // The attempt that made it may have been killed before it set the tags.
    await tag(Key, delivery);
    return 'own';
  }

  async function copy(key: string, delivery: Delivery, attempt: DeliveryAttempt, fields: ObjectFields) {
    const [object, ...more] = planCopying(delivery.source.objects);
    const { from } = object ?? {};
    if (!from || more.length > 0)
      return send(key, delivery, attempt, fields, object ? [object, ...more] : []);
    const command = new CopyObjectCommand({
      Bucket,
      Key: key,
      CopySource: sourceOf(from.key),
      MetadataDirective: 'REPLACE',
      TaggingDirective: 'REPLACE',
      ...fields,
    });
    await client.send(command, { abortSignal: attempt.signal, requestTimeout: COPY_MS });
    await tag(key, delivery);
  }

  async function send(
    Key: string,
    delivery: Delivery,
    { begin, signal }: DeliveryAttempt,
    fields: ObjectFields,
    plan: PlannedPart[],
  ): Promise<void> {
    const [only, ...more] = plan;
    if (more.length === 0) {
      const body = bodyOf(delivery, only ?? { start: 0, end: 0 });
      await connection.put({ key: Key, headers: toHeaders(fields), body, signal });
      return;
    }
    const created = await client.send(new CreateMultipartUploadCommand({ Bucket, Key, ...fields }), {
      abortSignal: signal,
    });
    const UploadId = created.UploadId ?? '';
    try {
      await begin(UploadId);
      const parts: Part[] = [];
      await forEachOf(plan.entries(), CONCURRENCY, async ([index, planned]) => {
        const number = index + 1;
        const etag = planned.from
          ? await copyPart(Key, UploadId, number, planned.from, signal)
          : await objects.putPart(Key, UploadId, number, bodyOf(delivery, planned), signal);
        parts.push({ number, size: planned.end - planned.start, etag });
      });
      parts.sort((a, b) => a.number - b.number);
      await objects.completeMultipart(Key, UploadId, parts, signal);
      await tag(Key, delivery);
    } catch (error) {
      // The first error counts. The next attempt aborts what this one cannot.
      await objects.abortMultipart(Key, UploadId).catch(() => {});
      throw error;
    }
  }

  async function copyPart(
    Key: string,
    UploadId: string,
    PartNumber: number,
    from: NonNullable<PlannedPart['from']>,
    signal: AbortSignal,
  ): Promise<string> {
    const command = new UploadPartCopyCommand({
      Bucket,
      Key,
      UploadId,
      PartNumber,
      CopySource: sourceOf(from.key),
      CopySourceRange: `bytes=${from.start}-${from.end - 1}`,
    });
    const { CopyPartResult } = await client.send(command, { abortSignal: signal, requestTimeout: COPY_MS });
    return CopyPartResult?.ETag ?? '';
  }

  /** Some stores (Ceph) ignore the tags of a copy and of a multipart upload. */
  async function tag(Key: string, { file }: Delivery): Promise<void> {
    const tags = objectTags(destination, file);
    if (tags.length === 0) return;
    const Tagging = { TagSet: tags.map(([key, value]) => ({ Key: key, Value: value })) };
    await client.send(new PutObjectTaggingCommand({ Bucket, Key, Tagging }));
  }

  /** Buckets, prefixes and keys of this server need no encoding. */
  const sourceOf = (key: string) => `${own?.bucket}/${own?.prefix}${key}`;

  return {
    look: (key, delivery) => guarded(look(key, delivery)),
    put: async (key, delivery, attempt) => {
      const { signal, unfinished } = attempt;
      const fields = objectFields(destination, delivery.file);
      if (unfinished) await guarded(objects.abortMultipart(key, unfinished), signal);
      if (isSameStore) {
        const copied = await guarded(copy(key, delivery, attempt, fields), signal).then(
          () => true,
          (error: unknown) => {
            if (!(error instanceof AppError) || error.code !== 'delivery_refused') throw error;
            log.info(
              { err: error.cause, destination: name },
              'the store does not copy this file: it is sent',
            );
            return false;
          },
        );
        if (copied) return true;
      }
      await guarded(send(key, delivery, attempt, fields, planSending(delivery.source.size)), signal);
      return true;
    },
  };
}

/** Bytes of the file that are read anew for each attempt to send them. */
function bodyOf({ source }: Delivery, { start, end }: PlannedPart) {
  if (end === start) return { size: 0, chunks: [] };
  return {
    size: end - start,
    async *chunks() {
      yield* await source.open({ start, end: end - 1 });
    },
    isReadBack: true,
  };
}

/** Refusals that pass. */
const PASSING = ['RequestTimeout', 'SlowDown', 'NoSuchUpload', 'OperationAborted', 'RequestTimeTooSkewed'];

function toDeliveryError(name: string, error: unknown): AppError {
  if (error instanceof AppError) return error;
  if (error instanceof S3Unavailable) return toDeliveryError(name, error.cause);
  const { status, code } = describe(error);
  if (status === undefined) return destinationAway(name, 'it does not answer', error);
  const why = `it answers ${status} ${code}`.trim();
  const passes = status >= 500 || status === 408 || status === 429 || PASSING.includes(code);
  return passes ? destinationAway(name, why, error) : deliveryRefused(name, why, error);
}

function describe(error: unknown): { status: number | undefined; code: string } {
  if (error instanceof S3Error) return error;
  const { name = '', $metadata } = error as { name?: string; $metadata?: { httpStatusCode?: number } };
  return { status: $metadata?.httpStatusCode, code: name };
}
