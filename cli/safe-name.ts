/* The name of a file as a server gives it, made safe for this machine. */

/** Most file systems accept names of 255 bytes. */
const MAX_BYTES = 255;

/**
 * A name without a folder. It cannot hide a file (`.bashrc`), pass for an option (`-rf`) or steer a terminal.
 * @param fallback the name if nothing is left
 */
export function safeName(filename: string, fallback: string): string {
  const bare = filename.split(/[/\\]/).at(-1) ?? '';
  const plain = bare
    .toWellFormed()
    .replaceAll(/[\p{Cc}\u061C\u200E\u200F\u2028-\u202E\u2066-\u2069]/gu, '')
    .trim()
    .replace(/^[.-]/, '_');
  return plain === '' || plain === '_' ? fallback : fitting(plain);
}

/** Shortens a name before its extension. */
function fitting(name: string): string {
  if (Buffer.byteLength(name) <= MAX_BYTES) return name;
  const dot = name.lastIndexOf('.');
  const extension = dot > 0 && Buffer.byteLength(name.slice(dot)) <= 20 ? name.slice(dot) : '';
  const stem = [...name.slice(0, name.length - extension.length)];
  while (Buffer.byteLength(stem.join('') + extension) > MAX_BYTES) stem.pop();
  return stem.join('') + extension;
}
