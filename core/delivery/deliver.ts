import type { DataSource } from 'typeorm';
import type { S3Config } from '../config-groups.js';
import { AppError } from '../errors.js';
import { sourceOfBlob } from '../files/blobs.js';
import type { Logger } from '../log.js';
import type { Storage } from '../storage/storage.js';
import { type DeliveryConfig, readNamedTarget, type Target, targetOfType } from './config.js';
import type { Destination } from './destinations.js';
import { openFolder } from './folder.js';
import { type Delivery, deliveryRefused, type Receiver } from './receiver.js';
import {
  claimKey,
  type DeliveryRow,
  type FileToDeliver,
  findDelivery,
  findToDeliver,
  giveUpKey,
  noteUnfinished,
  recordDelivered,
} from './records.js';
import { renderPath, TemplateError } from './template.js';

/*
 * The delivery of clean files to where other systems expect them.
 *
 * A file is delivered once to each target. Nothing is overwritten: a key that belongs to another file, or at which something
 * else is found, is left alone, and the name of this file gets its id as a suffix. An attempt that was killed is continued
 * by the next one under the same key: it recognises the copy if that was complete, and otherwise cleans up and copies again.
 */

interface DeliveryDeps {
  database: DataSource;
  storage: Pick<Storage, 'blobs'>;
  config: DeliveryConfig;
  /** The store of this server; undefined: a folder. */
  s3: S3Config | undefined;
  log: Logger;
}

/**
 * Delivers a file.
 * @returns `nowhere`: files of its type, or this file, are not delivered
 * @throws {AppError} unavailable (retryable), delivery_refused; and the signal's reason
 */
export type Deliver = (fileId: string, signal: AbortSignal) => Promise<'delivered' | 'earlier' | 'nowhere'>;

export function createDelivery(deps: DeliveryDeps): Deliver {
  const { database, storage, config } = deps;
  const receiverOf = openReceivers(deps);

  return async (fileId, signal) => {
    const known = await findToDeliver(database, fileId);
    if (!known) throw new AppError('not_found');
    const target = chooseTarget(config, known);
    if (!target) return 'nowhere';
    const { file, blob } = known;
    const { destination } = target;
    const place = placeOf(destination);
    const earlier = await findDelivery(database, { fileId, target: target.text, place });
    if (earlier?.deliveredAt) return 'earlier';
    const delivery = { file, source: sourceOfBlob(storage.blobs, blob) };
    const receiver = await receiverOf(destination);
    const prefix = destination.kind === 's3' ? destination.s3.prefix : '';
    const keys = [
      earlier?.key ?? prefix + renderPath(target.path, file),
      prefix + renderPath(target.path, file, file.id),
    ];
    for (const key of new Set(keys)) {
      const address = destination.kind === 's3' ? `s3://${destination.s3.bucket}/${key}` : key;
      const claim = { fileId, target: target.text, place, key, destination: destination.name, address };
      const row = await claimKey(database, claim);
      if (!row) continue;
      if (row.deliveredAt) return 'earlier';
      if (await put(database, receiver, row, delivery, signal)) {
        await recordDelivered(database, row, { ownerId: file.ownerId, size: blob.size });
        return 'delivered';
      }
      await giveUpKey(database, row);
    }
    throw deliveryRefused(destination.name, 'something else is at its key already');
  };
}

/** @returns false: something else is at the key */
async function put(
  database: DataSource,
  receiver: Receiver,
  row: DeliveryRow,
  delivery: Delivery,
  signal: AbortSignal,
): Promise<boolean> {
  const found = await receiver.look(row.key, delivery);
  if (found !== 'free') return found === 'own';
  return receiver.put(row.key, delivery, {
    unfinished: row.unfinished,
    begin: (unfinished) => noteUnfinished(database, row, unfinished),
    signal,
  });
}

/** The target that a hook has chosen, or else that of the type. @throws {AppError} delivery_refused */
function chooseTarget(config: DeliveryConfig, { file, deliverTo }: FileToDeliver): Target | undefined {
  if (deliverTo === null) return targetOfType(config, file.type);
  try {
    return readNamedTarget(config, deliverTo);
  } catch (error) {
    if (!(error instanceof TemplateError)) throw error;
    // It was checked when the upload was created: the destinations have changed since.
    throw new AppError('delivery_refused', {
      detail: 'The destination that was chosen for this file is not there any more',
      cause: error,
    });
  }
}

/** The same for destinations that have the same keys, whatever their names. */
function placeOf(destination: Destination): string {
  if (destination.kind === 'folder') return destination.folder;
  const { endpoint, bucket } = destination.s3;
  return `${endpoint ?? 'aws'}/${bucket}`;
}

/** The SDK of S3 is loaded only where it is used. */
function openReceivers({ s3, log }: DeliveryDeps): (destination: Destination) => Promise<Receiver> {
  const opened = new Map<string, Receiver>();
  return async (destination) => {
    const id = `${destination.name} ${placeOf(destination)}`;
    const known = opened.get(id);
    if (known) return known;
    const receiver =
      destination.kind === 'folder'
        ? openFolder(destination)
        : (await import('./s3.js')).openBucket(destination, s3, log);
    opened.set(id, receiver);
    return receiver;
  };
}
