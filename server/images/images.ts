import { createHash } from 'node:crypto';
import type { DataSource } from 'typeorm';
import { createLimiter, untilAborted } from '../../core/concurrency.js';
import { AppError } from '../../core/errors.js';
import { openBlob, type StoredBlob } from '../../core/files/blobs.js';
import { findVariant, keepVariant, type Variant } from '../../core/files/variants.js';
import type { Logger } from '../../core/log.js';
import { type ParserOptions, type Parsers, startParsers } from '../../core/media/parsers.js';
import { keyOf, type Rendering } from '../../core/media/rendering.js';
import type { Storage } from '../../core/storage/storage.js';

/*
 * Renders images on request, in parser processes of the server. Requests for the same rendering wait for the same job. Only so
 * many jobs run at once, and only so many wait: further requests are refused, and the clients come back. Clients get the
 * image as soon as it is rendered; it is stored afterwards.
 */

export interface Images {
  /**
   * Renders a form of a file, which is kept afterwards if that is possible.
   * @throws {AppError} unavailable when too many wait; not_found when the file is gone; unreadable, too_many_pixels,
   * too_much_memory, took_too_long, parser_died; the error of `admit`
   * @throws {Abandoned}
   */
  render(order: Order): Promise<Variant>;
  /** Ends jobs, and waits for images that are being stored. */
  close(): Promise<void>;
}

/** All clients of a job have gone before it began, so it was dropped. */
export class Abandoned extends Error {
  override name = 'Abandoned';
}

interface Order {
  fileId: string;
  /** Of the file. */
  blob: StoredBlob;
  rendering: Rendering;
  /** Called if no such job is under way. It may refuse the order by throwing. */
  admit(): Promise<void>;
  /** Aborts when the client has gone. A job is dropped if it has not begun and all its clients have gone. */
  gone: AbortSignal;
}

interface ImageDeps {
  database: DataSource;
  storage: Storage;
  log: Logger;
}

interface Job {
  outcome: Promise<Variant>;
  /** Settles when the image is stored, or cannot be; it never rejects. */
  kept: Promise<void>;
  /** How many clients wait for it. */
  clients: number;
  hasBegun: boolean;
  dropped: AbortController;
}

/** Characters of 6 bits. */
const ETAG_LENGTH = 22;

/** Jobs that may wait for each one that runs. */
const MOST_WAITING = 16;

/** @param limits of the parser processes; the first one starts with the first job */
export function openImages(
  { database, storage, log }: ImageDeps,
  limits: Omit<ParserOptions, 'log'>,
): Images {
  const jobs = new Map<string, Job>();
  const limiter = createLimiter(limits.count);
  const closed = new AbortController();
  let parsers: Parsers | undefined;
  let waiting = 0;

  async function make({ fileId, blob, rendering }: Order): Promise<Variant> {
    // Another job may have kept it after this client had looked for it.
    const kept = await findVariant(database, fileId, keyOf(rendering));
    if (kept) return kept;
    parsers ??= startParsers({ ...limits, log });
    const source = { size: blob.size, read: () => openBlob(storage.blobs, blob) };
    const { bytes, contentType } = await parsers.run('render', source, closed.signal, rendering);
    const etag = createHash('sha256').update(bytes).digest('base64url').slice(0, ETAG_LENGTH);
    return { body: bytes, contentType, etag, createdAt: new Date() };
  }

  /** Without a place it is rendered again for the next request. */
  async function keep({ fileId, rendering }: Order, outcome: Job['outcome']): Promise<void> {
    const image = await outcome.catch(() => undefined);
    if (!(image?.body instanceof Uint8Array)) return;
    try {
      await keepVariant({ database, storage }, fileId, keyOf(rendering), { ...image, body: image.body });
    } catch (err) {
      log.warn({ err, fileId }, 'a rendered image was not kept');
    }
  }

  function begin(id: string, order: Order): Job {
    if (waiting >= limits.count * MOST_WAITING) {
      throw new AppError('unavailable', { detail: 'Too many images wait to be rendered', retryable: true });
    }
    waiting++;
    const dropped = new AbortController();
    const turn: Omit<Job, 'outcome' | 'kept'> = { clients: 0, hasBegun: false, dropped };
    const outcome = limiter(async () => {
      dropped.signal.throwIfAborted();
      turn.hasBegun = true;
      waiting--;
      return make(order);
    });
    const job: Job = Object.assign(turn, {
      outcome: untilAborted(dropped.signal, 0, outcome),
      kept: keep(order, outcome),
    });
    const forget = () => jobs.get(id) === job && jobs.delete(id);
    job.kept.then(forget);
    jobs.set(id, job);
    return job;
  }

  function find(id: string): Job | undefined {
    const job = jobs.get(id);
    return job?.dropped.signal.aborted ? undefined : job;
  }

  function leave(job: Job): void {
    job.clients--;
    if (job.clients > 0 || job.hasBegun || job.dropped.signal.aborted) return;
    waiting--;
    job.dropped.abort(new Abandoned('nobody waits for this image'));
  }

  return {
    async render(order) {
      const { gone } = order;
      const id = `${order.fileId} ${keyOf(order.rendering)}`;
      if (!find(id)) await order.admit();
      const job = find(id) ?? begin(id, order);
      job.clients++;
      const onGone = () => leave(job);
      if (gone.aborted) onGone();
      else gone.addEventListener('abort', onGone);
      return job.outcome.finally(() => gone.removeEventListener('abort', onGone));
    },
    async close() {
      closed.abort();
      parsers?.close();
      await Promise.all([...jobs.values()].map(({ kept }) => kept));
    },
  };
}
