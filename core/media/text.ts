/** Far more than is kept of a text (plain-json.ts), so that decoding a text of a gigabyte is cheap. */
const MAX_BYTES = 16 * 1024;

/**
 * Decodes a text of a camera or an editor up to its first NUL (EXIF separates texts by NUL) and trims it: as UTF-8 if
 * the bytes are valid UTF-8, otherwise as Windows-1252.
 * @returns undefined if nothing is left
 */
export function decodeText(bytes: Uint8Array): string | undefined {
  const start = bytes.subarray(0, MAX_BYTES);
  const end = start.indexOf(0);
  return (
    decode(end < 0 ? start : start.subarray(0, end), end < 0 && bytes.length > MAX_BYTES).trim() || undefined
  );
}

/** Texts of Windows: UTF-16 LE. */
export function decodeWide(bytes: Buffer): string | undefined {
  const [text = ''] = bytes.toString('utf16le', 0, MAX_BYTES).split('\0', 1);
  return text.trim() || undefined;
}

/** @param stream the last character may be cut off */
function decode(bytes: Uint8Array, stream: boolean): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes, { stream });
  } catch {
    return new TextDecoder('windows-1252').decode(bytes);
  }
}
