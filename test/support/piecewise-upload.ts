import { createHash } from 'node:crypto';
import { idOf, type TestUser } from './client.js';
import { until } from './until.js';

/*
 * A client that sends an upload in PATCHes that end at given offsets, and goes on whatever happens to the
 * server: after each request that was not answered with 204 it asks for the offset. It fails if an
 * acknowledged offset goes back.
 */

export interface PiecewiseUpload {
  id: string;
  user: TestUser;
  /** Path of the upload. */
  path: string;
  /** Sends the missing bytes, up to the end. @param gate awaited before each PATCH */
  finish(gate?: () => Promise<void>): Promise<void>;
  /** The offsets that were acknowledged, by 204 or by HEAD, oldest first. */
  acknowledged: number[];
}

export const MIB = 1024 ** 2;

/**
 * With these sizes 24 MiB take every way to S3: small bodies that become segments, a whole part beside a
 * segment, several segments that a part consumes, and a smaller last part.
 */
export const UNEVEN = [1, 9, 0.3, 6.2, 3, 4.5].map((size) => Math.round(size * MIB));

/**
 * Sends POST until one is answered. Uploads of unanswered POSTs are left to expire.
 * @param checksum whether each PATCH carries one; then it counts as a whole or not at all
 */
export async function beginUpload(
  user: TestUser,
  content: Buffer,
  sizes: number[],
  headers: Record<string, string> = {},
  checksum = false,
): Promise<PiecewiseUpload> {
  const path = await until('an upload to be created', () =>
    user.create(content.length, headers).catch(() => undefined),
  );
  const ends = sizes.map((_, index) => sizes.slice(0, index + 1).reduce((sum, size) => sum + size, 0));
  const acknowledged = [0];
  const last = () => acknowledged.at(-1) ?? 0;

  function note(offset: number): void {
    if (offset < last()) throw new Error(`${path}: the offset went back from ${last()} to ${offset}`);
    if (checksum && ![0, ...ends].includes(offset)) throw new Error(`${path}: ${offset} is within a PATCH`);
    acknowledged.push(offset);
  }

  /**
   * Asks until the server tells the offset. After any answer but 200 or 423 real clients begin anew, so it
   * fails then.
   */
  async function askOffset(): Promise<void> {
    const offset = await until(
      `${path} to tell its offset`,
      async () => {
        const answer = await user.tus('HEAD', path).catch(() => undefined);
        if (answer && ![200, 423].includes(answer.status)) throw new Error(`HEAD ${path}: ${answer.status}`);
        return answer?.status === 200 ? answer.headers.get('Upload-Offset') : undefined;
      },
      60,
    );
    note(Number(offset));
  }

  return {
    id: idOf(path),
    user,
    path,
    acknowledged,
    async finish(gate = async () => {}) {
      while (last() < content.length) {
        await gate();
        const end = ends.find((offset) => offset > last()) ?? content.length;
        const body = content.subarray(last(), end);
        const sum = createHash('sha1').update(body).digest('base64');
        const verified = checksum ? { 'Upload-Checksum': `sha1 ${sum}` } : {};
        const answer = await user
          .tus('PATCH', path, { 'Upload-Offset': String(last()), ...verified }, body as BodyInit)
          .catch(() => undefined);
        if (answer?.status === 204) note(Number(answer.headers.get('Upload-Offset')));
        else await askOffset();
      }
    },
  };
}
