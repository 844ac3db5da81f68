import type { Format } from './format.js';
import { latin1 } from './plain-text.js';

/*
 * Files of the ISO base media file format (ISO/IEC 14496-12): pictures, sound and video in boxes. The first box names the
 * major brand, which may only describe the structure of the file (`mif1`, `isom`), and the compatible brands.
 */

/** Brands that name a kind of picture. */
const PICTURES: Record<string, Format> = {
  avif: { mime: 'image/avif', ext: 'avif' },
  avis: { mime: 'image/avif', ext: 'avif' },
  heic: { mime: 'image/heic', ext: 'heic' },
  heix: { mime: 'image/heic', ext: 'heic' },
  heim: { mime: 'image/heic', ext: 'heic' },
  heis: { mime: 'image/heic', ext: 'heic' },
  hevc: { mime: 'image/heic-sequence', ext: 'heic' },
  hevx: { mime: 'image/heic-sequence', ext: 'heic' },
  hevm: { mime: 'image/heic-sequence', ext: 'heic' },
  hevs: { mime: 'image/heic-sequence', ext: 'heic' },
};

/** Brands that say only that the file holds pictures. */
const CONTAINERS: Record<string, Format> = {
  mif1: { mime: 'image/heif', ext: 'heic' },
  msf1: { mime: 'image/heif-sequence', ext: 'heic' },
};

/** The longest first box, in bytes. Where letters stand instead of its length, they give a larger number. */
const MAX_BRANDS = 4096;

/** The format that the brands and tracks reveal; undefined: none. */
export function readBoxes(head: Uint8Array): Format | undefined {
  const view = new DataView(head.buffer, head.byteOffset, head.length);
  if (head.length < 16 || latin1(head.subarray(4, 8)) !== 'ftyp') return undefined;
  if (view.getUint32(0) > MAX_BRANDS) return undefined;
  const end = Math.min(view.getUint32(0), head.length);
  const brands = [latin1(head.subarray(8, 12))];
  for (let at = 16; at + 4 <= end; at += 4) brands.push(latin1(head.subarray(at, at + 4)));
  const telling = brands.find((brand) => brand in PICTURES) ?? brands.find((brand) => brand in CONTAINERS);
  if (telling !== undefined) return PICTURES[telling] ?? CONTAINERS[telling];
  const isGeneric = GENERIC.test(brands[0] ?? '');
  return isGeneric && isSound(head, view) ? { mime: 'audio/mp4', ext: 'm4a' } : undefined;
}

/** Major brands of files that hold video or sound. */
const GENERIC = /^(iso.|mp4[12]|dash)$/;

/** Whether all tracks of the movie are sound. Each track has a `hdlr` box with its kind of media. */
function isSound(head: Uint8Array, view: DataView): boolean {
  for (let at = 0; at + 8 <= head.length; ) {
    const size = view.getUint32(at);
    if (latin1(head.subarray(at + 4, at + 8)) === 'moov') {
      if (at + size > head.length) return false;
      const kinds = [...latin1(head.subarray(at, at + size)).matchAll(/hdlr.{8}(vide|soun)/gs)].map(
        ([, kind]) => kind,
      );
      return kinds.length > 0 && kinds.every((kind) => kind === 'soun');
    }
    if (size < 8) return false;
    at += size;
  }
  return false;
}
