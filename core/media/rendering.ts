/* How an image is rendered on request. Loads no decoder: the server imports it too. */

/** `inside`: the whole image, not larger than the box. `cover`: the middle of the image, in the shape of the box. */
export const FITS = ['inside', 'cover'] as const;

/** `plain`: what every program can show, PNG for an image with transparency and JPEG for others. */
export type RenderingFormat = 'avif' | 'webp' | 'jpeg' | 'png' | 'plain';

/** One form of an image. */
export interface Rendering {
  /** The box, in pixels. */
  width: number;
  height: number;
  fit: (typeof FITS)[number];
  format: RenderingFormat;
  /** 1 to 100; 0 for PNG, which loses nothing. */
  quality: number;
}

/** A rendered image. */
export interface Rendered {
  bytes: Uint8Array;
  contentType: string;
  /** Pixels. */
  width: number;
  height: number;
}

/** Names a rendering: two that make the same bytes of a file have the same key. */
export function keyOf({ width, height, fit, format, quality }: Rendering): string {
  return `${width}x${height}-${fit}-${format}-${quality}`;
}

/** SVG is drawn by a program, which is no decoder. */
const RENDERED = /^image\/(?!svg)/;

/**
 * Whether a file of this type is rendered, if it can be decoded.
 * @param type as it was recognised from the bytes; null: it was not recognised
 */
export function isRendered(type: string | null): boolean {
  return RENDERED.test(type ?? '');
}

/** Width and height in pixels. */
interface Size {
  width: number;
  height: number;
}

/**
 * The box in which an image is rendered without enlarging it.
 * @param image upright
 * @returns the box, and how many pixels of the image become one in each direction, at least 1
 */
export function fitInto(image: Size, { width, height, fit }: Rendering): Size & { shrink: number } {
  const [across, down] = [image.width / width, image.height / height];
  if (fit === 'inside') return { width, height, shrink: Math.max(1, across, down) };
  // A box that is larger than the image becomes smaller, and keeps its shape.
  const scale = Math.min(1, across, down);
  const box = [width, height].map((side) => Math.max(1, Math.round(side * scale)));
  const [boxWidth = 1, boxHeight = 1] = box;
  return {
    width: boxWidth,
    height: boxHeight,
    shrink: Math.max(1, Math.min(image.width / boxWidth, image.height / boxHeight)),
  };
}
