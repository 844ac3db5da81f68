/* How values look in a terminal. */

/** Characters that a terminal would obey, or that turn the direction of the text around them. */
const OBEYED = /[\p{Cc}\u061C\u200E\u200F\u2028-\u202E\u2066-\u2069]/gu;

/** Text from a server or a file system in a form that is safe to write to a terminal. */
export function printable(text: string): string {
  return text.replaceAll(OBEYED, '\uFFFD');
}

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];

/** Such as `12.5 MiB`. */
export function sizeText(bytes: number): string {
  const unit = bytes < 1024 ? 0 : Math.min(UNITS.length - 1, Math.floor(Math.log2(bytes) / 10));
  const value = bytes / 1024 ** unit;
  return `${unit === 0 ? value : value.toFixed(1)} ${UNITS[unit]}`;
}

/** Whole percent, rounded down: 100 only at the end. */
export function percent(done: number, total: number): number {
  return total === 0 ? 100 : Math.floor((100 * done) / total);
}

/** Such as `1:05` or `2:03:04`. */
export function durationText(seconds: number): string {
  const whole = Math.round(seconds);
  const parts = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const shown = parts[0] === 0 ? parts.slice(1) : parts;
  return shown.map((part, index) => (index === 0 ? `${part}` : `${part}`.padStart(2, '0'))).join(':');
}

/** Aligns the columns of a table; a column whose texts are sizes is aligned right. */
export function tableText(rows: string[][], right: number[]): string[] {
  const widths = rows[0]?.map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0))) ?? [];
  return rows.map((row) =>
    row
      .map((text, column) => {
        const width = widths[column] ?? 0;
        return right.includes(column) ? text.padStart(width) : text.padEnd(width);
      })
      .join('  ')
      .trimEnd(),
  );
}
