const MAX_TEXT = 2000;
const MAX_ITEMS = 200;
const MAX_DEPTH = 6;

/**
 * Makes the result of a metadata parser fit for a jsonb column: no binary, no NUL, no NaN, and limited length and depth.
 * Values that do not fit are left out, also of lists; null stays null in a list; a text ends at its first NUL.
 */
export function toPlainJson(value: Record<string, unknown>): Record<string, unknown> {
  return (plain(value, 0) ?? {}) as Record<string, unknown>;
}

function plain(value: unknown, depth: number): unknown {
  if (typeof value === 'string') return cleanText(value);
  if (typeof value === 'number') return Number.isFinite(value) ? value : undefined;
  if (typeof value === 'boolean') return value;
  if (typeof value !== 'object' || value === null || ArrayBuffer.isView(value) || depth >= MAX_DEPTH) {
    return undefined;
  }
  if (Array.isArray(value)) {
    return value
      .slice(0, MAX_ITEMS)
      .map((item) => (item === null ? null : plain(item, depth + 1)))
      .filter((item) => item !== undefined);
  }
  const entries = Object.entries(value)
    .slice(0, MAX_ITEMS)
    .map(([key, item]) => [cleanText(key), plain(item, depth + 1)] as const)
    .filter(([, item]) => item !== undefined);
  return entries.length > 0 ? Object.fromEntries(entries) : undefined;
}

function cleanText(text: string): string {
  return (text.split('\0', 1)[0] ?? '').slice(0, MAX_TEXT).toWellFormed();
}
