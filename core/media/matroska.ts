import type { Format } from './format.js';

/*
 * Matroska and WebM (RFC 9559): elements in elements, each an id, a length and content. A file holds video unless all of its
 * tracks are sound; recorders in browsers write such files.
 */

const HEADER = 0x1a45dfa3;
const DOC_TYPE = 0x4282;
const SEGMENT = 0x18538067;
const TRACKS = 0x1654ae6b;
const TRACK_ENTRY = 0xae;
const TRACK_TYPE = 0x83;

/** RFC 9559, 5.1.4.1.3. */
const SOUND = 2;

const FORMATS = new Map<string, { sound: Format; video: Format }>(
  Object.entries({
    webm: { sound: { mime: 'audio/webm', ext: 'webm' }, video: { mime: 'video/webm', ext: 'webm' } },
    matroska: {
      sound: { mime: 'audio/matroska', ext: 'mka' },
      video: { mime: 'video/matroska', ext: 'mkv' },
    },
  }),
);

interface Element {
  id: number;
  content: Uint8Array;
}

/** The format that the tracks reveal; undefined: the file has another format. */
export function readTracks(head: Uint8Array): Format | undefined {
  const [header, segment] = elementsOf(head);
  if (header?.id !== HEADER) return undefined;
  const type = find(header, DOC_TYPE)[0];
  const format = type && FORMATS.get(Buffer.from(type.content).toString('latin1').replace(/\0.*$/s, ''));
  if (!format) return undefined;
  const entries =
    segment?.id === SEGMENT ? find(segment, TRACKS).flatMap((tracks) => find(tracks, TRACK_ENTRY)) : [];
  const kinds = entries.flatMap((entry) => find(entry, TRACK_TYPE)).map(({ content }) => content[0]);
  return kinds.length > 0 && kinds.every((kind) => kind === SOUND) ? format.sound : format.video;
}

const find = ({ content }: Element, id: number) => elementsOf(content).filter((one) => one.id === id);

/** The elements of one level, as far as they are in the sample. */
function elementsOf(bytes: Uint8Array): Element[] {
  const elements: Element[] = [];
  let at = 0;
  while (at < bytes.length) {
    const id = readNumber(bytes, at, true);
    const length = id && readNumber(bytes, at + id.width, false);
    if (!length) break;
    const start = at + id.width + length.width;
    // An element of unknown length, as recorders write it, extends to the end.
    const end = length.isUnknown ? bytes.length : start + length.value;
    elements.push({ id: id.value, content: bytes.subarray(start, end) });
    at = end;
  }
  return elements;
}

/** RFC 8794, 4.4: the first bit that is set tells the width; it stays part of an id. */
function readNumber(bytes: Uint8Array, at: number, isId: boolean) {
  const first = bytes[at] ?? 0;
  const width = Math.clz32(first) - 23;
  if (first === 0 || at + width > bytes.length) return undefined;
  let value = isId ? first : first & (0xff >> width);
  let isUnknown = value === 0xff >> width;
  for (let i = 1; i < width; i++) {
    const byte = bytes[at + i] ?? 0;
    value = value * 256 + byte;
    isUnknown &&= byte === 0xff;
  }
  return { value, width, isUnknown };
}
