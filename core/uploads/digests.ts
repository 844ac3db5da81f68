import { createHash } from 'node:crypto';
import { crc32 } from 'node:zlib';

/* Digests of bodies, computed as the bytes pass. Those of node:crypto, and two checksums of four bytes. */

/** Sizes in bytes. */
export const DIGEST_SIZES = { sha1: 20, sha256: 32, sha512: 64, md5: 16, crc32: 4, crc32c: 4 } as const;

export type DigestName = keyof typeof DIGEST_SIZES;

export interface Digest {
  update(chunk: Uint8Array): void;
  /** The digest of all bytes; a checksum has its highest byte first. Call it once. */
  digest(): Buffer;
}

export function isDigestName(name: string): name is DigestName {
  return Object.hasOwn(DIGEST_SIZES, name);
}

export function createDigest(name: DigestName): Digest {
  if (name === 'crc32') return createChecksum(crc32);
  if (name === 'crc32c') return createChecksum(crc32c);
  return createHash(name);
}

/** @param next the checksum of all bytes so far, given that of the bytes before the chunk */
function createChecksum(next: (chunk: Uint8Array, before: number) => number): Digest {
  let value = 0;
  return {
    update(chunk) {
      value = next(chunk, value);
    },
    digest() {
      const bytes = Buffer.alloc(4);
      bytes.writeUInt32BE(value >>> 0);
      return bytes;
    },
  };
}

/** Castagnoli's polynomial, its bits reversed (RFC 3720, appendix B.4). */
const CASTAGNOLI = 0x82f63b78;

/** What each value of a byte does to the checksum. */
const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ CASTAGNOLI : value >>> 1;
  return value >>> 0;
});

/** Node has CRC-32 only. */
function crc32c(chunk: Uint8Array, before: number): number {
  let value = ~before;
  // An iterator would take several times as long.
  for (let at = 0; at < chunk.length; at++) {
    value = (value >>> 8) ^ (TABLE[(value ^ (chunk[at] as number)) & 0xff] as number);
  }
  return ~value >>> 0;
}
