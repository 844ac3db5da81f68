/** Characters of an excerpt. */
const MAX_EXCERPT = 1000;

/**
 * The beginning of a text that comes in parts, without needless blanks.
 * @param parts are read only as far as they are needed
 * @returns undefined if there is nothing but blanks
 */
export function excerptOf(parts: Iterable<string>): string | undefined {
  let text = '';
  for (const part of parts) {
    text = `${text} ${part}`.replaceAll(/[\s\p{Cc}\ufffe\uffff]+/gu, ' ').trim();
    if (text.length >= MAX_EXCERPT) return text.slice(0, MAX_EXCERPT).toWellFormed();
  }
  return text || undefined;
}
