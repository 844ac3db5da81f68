import type { DataSource } from 'typeorm';
import type { z } from 'zod';
import type { File } from '../../core/database/entities/file.js';
import { listDeliveries, type StoredDelivery } from '../../core/delivery/records.js';
import { findTwin } from '../../core/files/duplicates.js';
import { listDerivatives, type StoredDerivative } from '../../core/files/queries.js';
import { endedSteps } from '../../core/files/steps.js';
import type { file as fileAnswer, sentFile } from '../answers/files.js';
import { can } from '../auth/can.js';
import type { Keys } from '../auth/keys.js';
import { signLink } from '../auth/links.js';
import type { Principal } from '../auth/principal.js';

const THUMBNAIL = /^thumbnail-(\w+)$/;

type FileValue = z.output<typeof fileAnswer>;

interface FileJsonDeps {
  database: DataSource;
  keys: Keys;
}

/** Files as the API shows them, with signed links to their readable parts. */
export async function filesToJson({ database, keys }: FileJsonDeps, files: File[]): Promise<FileValue[]> {
  const ids = files.map((file) => file.id);
  const [derivatives, deliveries] = await Promise.all([
    listDerivatives(database, ids),
    listDeliveries(database, ids),
  ]);
  return files.map((file) => fileJson(file, derivatives, deliveries, keys.link));
}

/** One file as the API shows it. */
export async function fileToJson(deps: FileJsonDeps, file: File): Promise<FileValue> {
  const [json] = await filesToJson(deps, [file]);
  if (!json) throw new Error('a file without JSON');
  return json;
}

/**
 * A file as the API shows it to its sender: without facts and links if the sender may not read files. Such a sender must not
 * learn either whether the owner had these bytes.
 * @param sha256 hex; of a file that was measured while it arrived: an older file with these bytes is named at once
 */
export async function sentFileToJson(
  deps: FileJsonDeps,
  file: File,
  principal: Principal,
  sha256?: string,
): Promise<z.output<typeof sentFile>> {
  if (can(principal, 'read', file)) {
    const known = await fileToJson(deps, file);
    const twin = sha256 && !known.duplicateOf ? await findTwin(deps.database, file, sha256) : undefined;
    return twin ? { ...known, duplicateOf: twin.id } : known;
  }
  const { id, filename, size, declaredType, status, createdAt } = file;
  return { id, filename, size, declaredType, status, createdAt };
}

/** The number of attempts. An attempt that was interrupted or taken over by another worker does not count. */
export function attemptsOf(file: File): number {
  return file.countedAttempts ?? file.attempts;
}

/** @param derivatives also those of other files, as the deliveries */
function fileJson(
  file: File,
  derivatives: StoredDerivative[],
  deliveries: StoredDelivery[],
  linkKey: Keys['link'],
): FileValue {
  const path = `/api/files/${file.id}`;
  const own = derivatives.filter(({ fileId }) => fileId === file.id);
  const thumbnails = own.map(({ name }) => THUMBNAIL.exec(name)?.[1]).filter((size) => size !== undefined);
  const isShown = file.clean && !file.inQuarantine && !file.corruptedAt && !file.deletedAt;
  return {
    id: file.id,
    filename: file.filename,
    size: file.size,
    declaredType: file.declaredType,
    detectedType: file.detectedType,
    sha256: file.sha256,
    duplicateOf: file.duplicateOf,
    status: file.status,
    step: file.step,
    progress: file.progress,
    attempts: attemptsOf(file),
    steps: endedSteps(file),
    metadata: file.metadata,
    settings: file.settings,
    warnings: file.warnings,
    error: file.error,
    createdAt: file.createdAt,
    completedAt: file.completedAt,
    deletedAt: file.deletedAt,
    derived: own
      .filter(({ name }) => !THUMBNAIL.test(name))
      .map(({ name, contentType, width, height, blob }) => ({
        name,
        contentType,
        size: blob.size,
        width,
        height,
        link: isShown ? signLink(`${path}/derived/${name}`, linkKey) : null,
      })),
    deliveries: deliveries
      .filter(({ fileId }) => fileId === file.id)
      .map(({ destination, address, deliveredAt }) => ({ destination, address, at: deliveredAt })),
    links: {
      content: isShown ? signLink(`${path}/content`, linkKey) : null,
      thumbnails:
        thumbnails.length > 0 && isShown
          ? Object.fromEntries(
              thumbnails.map((size) => [size, signLink(`${path}/thumbnails/${size}`, linkKey)]),
            )
          : null,
    },
  };
}
