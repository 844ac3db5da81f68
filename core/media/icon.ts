/* Icons and cursors of Windows: a directory of pictures of different sizes, each a PNG or a bitmap. */

export interface Icon {
  /** The largest picture: a PNG, or an icon with this bitmap alone. */
  largest: Buffer;
  /** How many pictures the file says it has. */
  pages: number;
}

const HEADER = 6;
const ENTRY = 16;

const PNG = Buffer.from('\x89PNG', 'latin1');

/** @returns undefined: no picture's bytes are there */
export function readIcon(bytes: Buffer): Icon | undefined {
  const pages = bytes.readUInt16LE(4);
  const room = Math.floor((bytes.length - HEADER) / ENTRY);
  const entries = Array.from({ length: Math.min(pages, room) }, (_, index) => {
    const at = HEADER + index * ENTRY;
    const [width, height] = [bytes[at] || 256, bytes[at + 1] || 256];
    const [length, offset] = [bytes.readUInt32LE(at + 8), bytes.readUInt32LE(at + 12)];
    // Bits of a pixel; of a cursor it is the place at which it points.
    const depth = bytes.readUInt16LE(at + 6);
    return { at, area: width * height, depth, content: bytes.subarray(offset, offset + length) };
  });
  const [best] = entries
    .filter(({ content }) => content.length > 0)
    .sort((a, b) => b.area - a.area || b.depth - a.depth);
  if (!best) return undefined;
  const { at, content } = best;
  if (content.subarray(0, PNG.length).equals(PNG)) return { largest: content, pages };
  const head = Buffer.concat([Buffer.from([0, 0, 1, 0, 1, 0]), bytes.subarray(at, at + ENTRY)]);
  head.writeUInt32LE(0, HEADER + 4);
  head.writeUInt32LE(content.length, HEADER + 8);
  head.writeUInt32LE(HEADER + ENTRY, HEADER + 12);
  return { largest: Buffer.concat([head, content]), pages };
}

/** Whether the largest picture of an icon is a bitmap. */
export const isBitmapIcon = ({ largest }: Icon): boolean => largest[0] === 0;
