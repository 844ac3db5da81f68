const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
const latin1 = new TextDecoder('windows-1252');

/**
 * A text of a camera or of an editor up to its first NUL (EXIF separates texts by it), without blanks around it: UTF-8
 * where the bytes are that, otherwise Latin-1.
 * @returns undefined if nothing is left
 */
export function decodeText(bytes: Uint8Array): string | undefined {
  const end = bytes.indexOf(0);
  const text = end < 0 ? bytes : bytes.subarray(0, end);
  return decode(text).trim() || undefined;
}

function decode(bytes: Uint8Array): string {
  try {
    return utf8.decode(bytes);
  } catch {
    return latin1.decode(bytes);
  }
}
