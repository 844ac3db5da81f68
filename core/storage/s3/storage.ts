import { text } from 'node:stream/consumers';
import {
  CreateBucketCommand,
  GetObjectCommand,
  HeadBucketCommand,
  UploadPartCommand,
} from '@aws-sdk/client-s3';
import { getSignedUrl } from '@aws-sdk/s3-request-presigner';
import { ConfigError } from '../../config-error.js';
import type { S3Config } from '../../config-groups.js';
import { AppError } from '../../errors.js';
import type { Logger } from '../../log.js';
import type { Metrics } from '../../metrics/metrics.js';
import { BytesLost, MARKER, type Storage, StoreAway, type StoredUpload } from '../storage.js';
import { completeInS3, copyObject } from './complete.js';
import { openConnection, type S3Connection } from './connection.js';
import { S3Unavailable } from './http-put.js';
import { S3Error } from './http-request.js';
import { createMemory } from './memory.js';
import { createObjectStore, isMissing } from './operations.js';
import { MIN_PART, partSize } from './part-size.js';
import { createSinks } from './sinks.js';
import { NO_SPOOL, type Spool } from './spool.js';

/* Objects in S3: AWS, MinIO, Ceph and compatible stores. See plan.ts for how uploads grow. */

/** How many seconds signed addresses are valid: for a client's download, and for sending a part. */
const LINK_SECONDS = 300;
const PART_SECONDS = 3600;

const CHECK_MS = 3_000;

/**
 * Opens the storage and creates the bucket if it is missing.
 * @param memoryBudget bytes that uploads may hold in this process
 * @param options.spool holds the bytes of slow uploads; by default there is none
 * @throws {ConfigError} naming the variable, with why the bucket cannot be used
 */
export async function openS3Storage(
  config: S3Config,
  memoryBudget: number,
  log: Logger,
  { spool = NO_SPOOL, metrics }: { spool?: Spool; metrics?: StoreMetrics | undefined } = {},
): Promise<Storage> {
  const connection = timed(openConnection(config), metrics);
  await ensureBucket(connection, log);
  const objects = createObjectStore(connection, log);
  const memory = createMemory(memoryBudget);
  const openSink = createSinks({ objects, memory, spool });
  const { client, publicClient } = connection;
  const named = (key: string) => ({ Bucket: config.bucket, Key: config.prefix + key });

  async function discard({ key, state }: StoredUpload, keep: string | null): Promise<void> {
    if (state?.multipartId && keep !== key) await objects.abortMultipart(key, state.multipartId);
    for await (const found of objects.listMultiparts(key)) {
      await objects.abortMultipart(found.key, found.multipartId);
    }
    for await (const object of objects.list(key)) {
      if (object.key !== keep) await objects.delete(object.key);
    }
  }

  return {
    blobs: {
      read: (key, range) =>
        objects.open(key, range).catch((error: unknown) => {
          if (error instanceof S3Error && error.status === 416) throw shorter(error);
          const detail = 'The stored bytes cannot be read';
          throw new AppError('unavailable', { detail, cause: error, retryable: true });
        }),
      write: (key, bytes) =>
        objects.put(key, { size: bytes.byteLength, chunks: [bytes] }).catch(rethrowUnavailable),
      copy: (key, size, to) => copyObject(objects, key, size, to).catch(rethrowUnavailable),
      delete: (key) => objects.delete(key).catch(rethrowIfAway),
      ...(config.redirect
        ? {
            async link(key, { contentType, contentDisposition }) {
              const command = new GetObjectCommand({
                ...named(key),
                ResponseContentType: contentType,
                ResponseContentDisposition: contentDisposition,
              });
              return getSignedUrl(publicClient, command, { expiresIn: LINK_SECONDS });
            },
          }
        : {}),
    },
    uploads: {
      async open(upload, commit, time) {
        requireFewStrays(upload);
        return openSink(upload, commit, time);
      },
      complete: (upload, parts, signal) =>
        completeInS3(objects, upload, parts, signal).catch(rethrowUnavailable),
      discard: (upload, keep) => discard(upload, keep).catch(rethrowIfAway),
    },
    direct: {
      async begin(key) {
        const multipartId = await objects.createMultipart(key).catch(rethrowUnavailable);
        return { multipartId, nextPart: 1, tail: [] };
      },
      addressSeconds: PART_SECONDS,
      partSize: (length) => partSize(length, 1),
      sign: (key, { multipartId }, parts) =>
        Promise.all(
          parts.map(({ number, size }) => {
            const command = new UploadPartCommand({
              ...named(key),
              UploadId: multipartId ?? '',
              PartNumber: number,
              ContentLength: size,
            });
            // The length is signed, so that the store refuses a part of another size.
            const signableHeaders = new Set(['content-length']);
            return getSignedUrl(publicClient, command, { expiresIn: PART_SECONDS, signableHeaders });
          }),
        ),
      listParts: (key, { multipartId }) =>
        objects.listParts(key, multipartId ?? '').catch((error: unknown) => {
          if (isMissing(error)) return [];
          throw unavailable(error);
        }),
    },
    usage: () => ({ memory: memory.taken, spool: spool.used }),
    async check() {
      const signal = AbortSignal.timeout(CHECK_MS);
      await client.send(new HeadBucketCommand({ Bucket: config.bucket }), { abortSignal: signal });
    },
    async *list() {
      for await (const object of objects.list('')) if (object.key !== MARKER) yield object;
      yield* objects.listMultiparts('');
    },
    remove: ({ key, multipartId }) =>
      multipartId ? objects.abortMultipart(key, multipartId) : objects.delete(key),
    marker: {
      place: `S3_BUCKET=${config.bucket}${config.prefix ? `, S3_PREFIX=${config.prefix}` : ''}`,
      name: MARKER,
      async read() {
        try {
          return await text(await objects.open(MARKER));
        } catch (error) {
          if (isMissing(error)) return undefined;
          throw error;
        }
      },
      async write(content) {
        const bytes = Buffer.from(content);
        await objects.put(MARKER, { size: bytes.byteLength, chunks: [bytes] });
      },
    },
  };
}

export type StoreMetrics = Pick<Metrics, 'sentToStore'>;

/** The connection, with the time of each sending measured. */
function timed(connection: S3Connection, metrics: StoreMetrics | undefined): S3Connection {
  if (!metrics) return connection;
  return {
    ...connection,
    async put(request) {
      const began = performance.now();
      let isOk = false;
      try {
        const answer = await connection.put(request);
        isOk = true;
        return answer;
      } finally {
        const isGivenUp = !isOk && request.signal?.aborted;
        const kind = request.query ? 'part' : 'object';
        if (!isGivenUp) metrics.sentToStore(kind, isOk, (performance.now() - began) / 1000);
      }
    },
  };
}

function shorter(cause: unknown): BytesLost {
  return new BytesLost('The storage has lost bytes of this object', cause);
}

function unavailable(error: unknown): AppError {
  if (error instanceof AppError) return error;
  return new AppError('unavailable', {
    ...(isAway(error)
      ? { detail: 'The storage does not answer', cause: new StoreAway(error) }
      : { detail: 'The storage refuses the request', cause: error }),
    retryable: true,
  });
}

/** Answers of a proxy in front of the store, or of an overloaded store. */
const AWAY_STATUSES = [502, 503, 504];

/** Whether the store has given no answer of its own; see StoreAway. */
function isAway(error: unknown): boolean {
  if (error instanceof S3Unavailable) return isAway(error.cause);
  const status =
    error instanceof S3Error
      ? error.status
      : (error as { $metadata?: { httpStatusCode?: number } }).$metadata?.httpStatusCode;
  return status === undefined || AWAY_STATUSES.includes(status);
}

function rethrowIfAway(error: unknown): never {
  throw isAway(error) ? new StoreAway(error) : error;
}

function rethrowUnavailable(error: unknown): never {
  throw unavailable(error);
}

/** @throws {ConfigError} */
async function ensureBucket({ client, config }: S3Connection, log: Logger): Promise<void> {
  const { bucket: Bucket } = config;
  try {
    await client.send(new HeadBucketCommand({ Bucket }));
    return;
  } catch (error) {
    const status = (error as { $metadata?: { httpStatusCode?: number } }).$metadata?.httpStatusCode;
    if (status === 403) {
      throw new ConfigError(`S3_BUCKET=${Bucket}: the keys may not use it, or it belongs to somebody else`);
    }
    if (status !== 404)
      throw new ConfigError(`S3_BUCKET=${Bucket}: ${explain(error, config)}`, { cause: error });
  }
  try {
    const elsewhere = !config.endpoint && config.region !== 'us-east-1';
    await client.send(
      new CreateBucketCommand({
        Bucket,
        ...(elsewhere
          ? { CreateBucketConfiguration: { LocationConstraint: config.region as 'eu-central-1' } }
          : {}),
      }),
    );
    log.info({ bucket: Bucket }, 'bucket created');
  } catch (error) {
    // Another process was quicker.
    if (error instanceof Error && error.name === 'BucketAlreadyOwnedByYou') return;
    throw new ConfigError(
      `S3_BUCKET=${Bucket}: it does not exist and could not be created: ${explain(error, config)}`,
      {
        cause: error,
      },
    );
  }
}

function explain(error: unknown, { endpoint }: S3Config): string {
  const { name = '', message = '', code } = error as { name?: string; message?: string; code?: string };
  const reason = code ?? (message && message !== 'UnknownError' ? message : name);
  return `${endpoint ?? 'AWS'} answers: ${reason}`;
}

/**
 * The store keeps the parts of bodies that did not count, for example because of a wrong checksum, until the upload ends.
 * No quota counts them.
 * @throws {BytesLost} when they are several times as many as the parts that the upload can need
 */
function requireFewStrays({ offset, length, state }: StoredUpload): void {
  const strays = (state?.nextPart ?? 1) - 1 - Math.ceil(offset / MIN_PART);
  if (strays <= 100 + 4 * Math.ceil((length ?? offset) / MIN_PART)) return;
  throw new BytesLost('Too many pieces of this upload had to be dropped: begin it anew');
}
