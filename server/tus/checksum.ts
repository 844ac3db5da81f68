import type { Request } from 'express';
import { AppError, type ErrorCode } from '../../core/errors.js';
import { DIGEST_SIZES, type DigestName, isDigestName } from '../../core/uploads/digests.js';
import type { Digests } from '../../core/uploads/receive.js';

/*
 * The extensions checksum and checksum-trailer: "Once the entire request has been received, the Server MUST verify the
 * uploaded chunk against the provided checksum using the specified algorithm." The body is hashed while it streams, and
 * its bytes count at its end only.
 */

/** In the order of the server's answer to OPTIONS. */
export const ALGORITHMS = Object.keys(DIGEST_SIZES) as DigestName[];

/** The body is not what its checksum says: "the uploaded chunk MUST be discarded". */
export class ChunkRefused extends AppError {
  override name = 'ChunkRefused';
  constructor(code: Extract<ErrorCode, 'chunk_mismatch' | 'invalid_request'>, detail: string) {
    super(code, { detail });
  }
}

/** How a body is to be verified. */
export interface ChunkCheck {
  digests: readonly DigestName[];
  /** @throws {ChunkRefused} */
  verify(found: Digests<DigestName>): void;
}

interface Checksum {
  algorithm: DigestName;
  expected: Buffer;
}

/**
 * Reads Upload-Checksum, and whether it follows in the trailer. The trailer may name any algorithm, so then all of them
 * are computed.
 * @returns undefined if the client sends no checksum
 * @throws {ChunkRefused}
 */
export function readChecksum(req: Request): ChunkCheck | undefined {
  const text = req.get('Upload-Checksum');
  const first = text === undefined ? undefined : parse(text);
  if (!announcesTrailer(req)) {
    return first && { digests: [first.algorithm], verify: (found) => requireMatch(first, found) };
  }
  return {
    digests: ALGORITHMS,
    verify(found) {
      const trailer = req.trailers['upload-checksum'];
      if (trailer === undefined) {
        throw new ChunkRefused(
          'invalid_request',
          'Trailer announces Upload-Checksum, but the trailer has none',
        );
      }
      for (const one of [first, parse(trailer)]) if (one) requireMatch(one, found);
    },
  };
}

/** "If the hash cannot be calculated at the beginning of the upload, it MAY be included as a trailer." */
function announcesTrailer(req: Request): boolean {
  const names = (req.get('Trailer') ?? '').toLowerCase().split(',');
  return names.some((name) => name.trim() === 'upload-checksum');
}

/**
 * "The header MUST consist of the name of the used checksum algorithm and the Base64 encoded checksum separated by a
 * space." "400 Bad Request if the checksum algorithm is not supported by the server".
 */
function parse(text: string): Checksum {
  const [algorithm = '', encoded = '', ...more] = text.split(' ');
  if (!isDigestName(algorithm)) {
    throw new ChunkRefused('invalid_request', `Upload-Checksum must name one of ${ALGORITHMS.join(', ')}`);
  }
  const expected = Buffer.from(encoded, 'base64');
  // Node ignores invalid characters, missing padding, and bits after the last byte.
  const isBase64 = expected.toString('base64') === encoded;
  if (more.length > 0 || !isBase64 || expected.byteLength !== DIGEST_SIZES[algorithm]) {
    const size = DIGEST_SIZES[algorithm];
    throw new ChunkRefused(
      'invalid_request',
      `Upload-Checksum must have ${size} bytes of ${algorithm}, in Base64`,
    );
  }
  return { algorithm, expected };
}

/** "460 Checksum Mismatch if the checksums mismatch" */
function requireMatch({ algorithm, expected }: Checksum, found: Digests<DigestName>): void {
  const actual = found[algorithm];
  if (actual.equals(expected)) return;
  const sums = `${actual.toString('base64')}, not ${expected.toString('base64')}`;
  throw new ChunkRefused('chunk_mismatch', `The ${algorithm} of what has arrived is ${sums}`);
}
