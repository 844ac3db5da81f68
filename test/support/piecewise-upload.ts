import { idOf, type TestUser } from './client.js';
import { type Dialect, type Piece, TUS } from './dialects.js';
import { until } from './until.js';

/*
 * A client that sends an upload in pieces that end at given offsets, and goes on whatever happens to the
 * server: after each piece that was not acknowledged it asks for the offset. It fails if an acknowledged
 * offset goes back.
 */

export interface PiecewiseUpload {
  id: string;
  user: TestUser;
  /** Path of the upload. */
  path: string;
  /** Sends the missing bytes, up to the end. @param gate awaited before each piece */
  finish(gate?: () => Promise<void>): Promise<void>;
  /** The offsets that were acknowledged by any answer, oldest first. */
  acknowledged: number[];
}

export const MIB = 1024 ** 2;

/**
 * With these sizes 24 MiB take every way to S3: small bodies that become segments, a whole part beside a
 * segment, several segments that a part consumes, and a smaller last part.
 */
export const UNEVEN = [1, 9, 0.3, 6.2, 3, 4.5].map((size) => Math.round(size * MIB));

/** How an upload is sent. */
export interface Manner {
  dialect?: Dialect;
  /** Of the request that creates the upload. */
  headers?: Record<string, string>;
  /** Whether each piece carries a digest; then it counts as a whole or not at all. */
  checksum?: boolean;
}

/**
 * Sends POST until the upload has an address. Uploads of which no address came are left to expire.
 * @param sizes bytes of the pieces. The rest is one more piece; bytes beyond the content do not count
 */
export async function beginUpload(
  user: TestUser,
  content: Buffer,
  sizes: number[],
  { dialect = TUS, headers = {}, checksum = false }: Manner = {},
): Promise<PiecewiseUpload> {
  const ends = sizes.map((_, index) => sizes.slice(0, index + 1).reduce((sum, size) => sum + size, 0));
  const acknowledged = [0];
  const last = () => acknowledged.at(-1) ?? 0;

  function note(offset: number): void {
    if (offset < last()) throw new Error(`${path}: the offset went back from ${last()} to ${offset}`);
    if (checksum && ![0, ...ends].includes(offset)) throw new Error(`${path}: ${offset} is within a piece`);
    acknowledged.push(offset);
  }

  function nextPiece(): Piece {
    const end = ends.find((offset) => offset > last() && offset < content.length) ?? content.length;
    const body = content.subarray(last(), end);
    return { offset: last(), body, isLast: end === content.length, checksum, heard: note };
  }

  const beginning = { length: content.length, first: nextPiece(), headers };
  const { path, send } = await until('an upload to be created', () =>
    dialect.begin(user, beginning).catch(() => undefined),
  );

  return {
    id: idOf(path),
    user,
    path,
    acknowledged,
    async finish(gate = async () => {}) {
      for (let isComplete = false; !isComplete; ) {
        await gate();
        const progress =
          (await send(nextPiece())) ??
          (await until(`${path} to tell its offset`, () => dialect.ask(user, path), 60));
        note(progress.offset);
        isComplete = progress.isComplete;
      }
    },
  };
}
