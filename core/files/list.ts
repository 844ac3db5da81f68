import type { DataSource } from 'typeorm';
import { File, type FileStatus } from '../database/entities/file.js';
import { queryRows, toEntities } from '../database/rows.js';

/*
 * The lists of an owner's files. A page begins after a position, the values that the last file of the page before is
 * sorted by, so files that come or go meanwhile move no page. Each filter and each order has an index, and PostgreSQL
 * chooses: it reads the files in their order and leaves out those that do not match, or it takes the matching ones and
 * sorts them. The conditions are therefore written as the indexes of migrations/1763950000000-file-lists.ts have them.
 */

/** Which files a list has; undefined: all. */
interface FileFilter {
  /** Whether it is the list of the trash. */
  deleted: boolean;
  status?: FileStatus | undefined;
  /** In lower case, such as `image/png`, or `image/*` for all that begin so. */
  type?: string | undefined;
  /** Words that all occur in the name, in any case. */
  words?: string[] | undefined;
  /** Created from this time on, … */
  from?: Date | undefined;
  /** … and before this one. */
  to?: Date | undefined;
  /** Bytes. */
  minSize?: number | undefined;
  maxSize?: number | undefined;
}

export type FileOrderKey = 'createdAt' | 'size' | 'filename' | 'deletedAt';

export interface FileList {
  ownerId: string;
  filter: FileFilter;
  /** Files with the same value are sorted by their ids, in the same direction. */
  order: { by: FileOrderKey; descending: boolean };
}

/** Where a page of a list ended. */
export interface FilePosition {
  /** The value that the list is sorted by, as text: microseconds since 1970, bytes, or the sorted form of the name. */
  key: string;
  id: string;
}

/** A file of a list, and the position of a page that ends with this file. */
export interface ListedFile {
  file: File;
  position: FilePosition;
}

/** How a list is sorted: the expression that the index has, its value as text, and that text as a value again. */
interface Key {
  sorted: string;
  text: string;
  value(parameter: string): string;
}

/** A Date has only milliseconds, so a page could skip files of the same millisecond. */
function time(column: string): Key {
  return {
    sorted: column,
    text: `(extract(epoch FROM ${column}) * 1000000)::bigint::text`,
    value: (parameter) => `(timestamptz 'epoch' + ${parameter}::bigint * interval '1 microsecond')`,
  };
}

const NAME = 'file_name_key(filename)';
const TYPE = 'file_type(detected_type, declared_type) COLLATE "C"';

const KEYS: Record<FileOrderKey, Key> = {
  createdAt: time('created_at'),
  deletedAt: time('deleted_at'),
  size: { sorted: 'size', text: 'size::text', value: (parameter) => `${parameter}::bigint` },
  filename: { sorted: `${NAME} COLLATE "C"`, text: NAME, value: (parameter) => `${parameter}::text` },
};

/**
 * The index of names holds parts of three letters or digits. Without such a part it would have to be read as a whole,
 * and reading the owner's files is cheaper.
 */
const IN_INDEX = /[\p{L}\p{N}]{3}/u;

/** Always true. It lets PostgreSQL use files_search_idx, which has only files whose processing has ended. */
const ENDED_OR_NOT = "(status NOT IN ('pending', 'processing') OR status IN ('pending', 'processing'))";

/** One page of an owner's files. @param after the last file of the page before */
export async function listFiles(
  database: DataSource,
  list: FileList,
  after: FilePosition | undefined,
  limit: number,
): Promise<ListedFile[]> {
  const { sql, parameters } = selectFiles(list, after, limit);
  const rows = await queryRows<{ id: string; position: string }>(database, sql, parameters);
  return toEntities(database, File, rows).map((file, index) => ({
    file,
    position: { key: rows[index]?.position ?? '', id: file.id },
  }));
}

/** The statement of listFiles(). */
export function selectFiles(
  { ownerId, filter, order }: FileList,
  after: FilePosition | undefined,
  limit: number,
): { sql: string; parameters: unknown[] } {
  const parameters: unknown[] = [];
  const add = (value: unknown) => `$${parameters.push(value)}`;
  const { sorted, text, value } = KEYS[order.by];
  const conditions = [`owner_id = ${add(ownerId)}`, ...conditionsOf(filter, add)];
  if (after) {
    const [key, id] = [value(add(after.key)), `${add(after.id)}::uuid`];
    conditions.push(`(${sorted}, id) ${order.descending ? '<' : '>'} (${key}, ${id})`);
  }
  const direction = order.descending ? 'DESC' : 'ASC';
  const sql = `SELECT *, ${text} AS position FROM files WHERE ${conditions.join(' AND ')}
     ORDER BY ${sorted} ${direction}, id ${direction} LIMIT ${add(limit)}`;
  return { sql, parameters };
}

function conditionsOf(filter: FileFilter, add: (value: unknown) => string): string[] {
  const { deleted, status, type, words = [], from, to, minSize, maxSize } = filter;
  const conditions = [`deleted_at IS ${deleted ? 'NOT NULL' : 'NULL'}`];
  if (status !== undefined) conditions.push(`status = ${add(status)}`);
  if (type !== undefined) conditions.push(...typeIs(type, add));
  if (from) conditions.push(`created_at >= ${add(from)}`);
  if (to) conditions.push(`created_at < ${add(to)}`);
  if (minSize !== undefined) conditions.push(`size >= ${add(minSize)}`);
  if (maxSize !== undefined) conditions.push(`size <= ${add(maxSize)}`);
  for (const word of words) conditions.push(nameHas(add(word)));
  if (words.some((word) => IN_INDEX.test(word))) conditions.push(ENDED_OR_NOT);
  return conditions;
}

function typeIs(type: string, add: (value: unknown) => string): string[] {
  if (!type.endsWith('/*')) return [`${TYPE} = ${add(type)}`];
  const family = type.slice(0, -2);
  // `0` is the character after `/`.
  return [`${TYPE} >= ${add(`${family}/`)}`, `${TYPE} < ${add(`${family}0`)}`];
}

/** The characters that mean something in a pattern are escaped after normalisation, which can make some of others. */
function nameHas(parameter: string): string {
  return `${NAME} LIKE '%' || regexp_replace(file_name_key(${parameter}::text), '([\\\\%_])', '\\\\\\1', 'g') || '%'`;
}
