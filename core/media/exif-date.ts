/*
 * Cameras write local time ("2024:07:14 13:22:37"). Since EXIF 2.31 separate tags hold its offset and its fraction of a
 * second. Other programs write many other forms.
 */

const DATE = /^(\d{4})[:/.-](\d{1,2})[:/.-](\d{1,2})(.*)$/s;
const TIME = /^[ T]+(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,](\d+))?)?\s*(.*)$/s;
const OFFSET = /^([+-])(\d{2}):?(\d{2})$/;

/** No photograph or scanned drawing is older; smaller years are placeholders. */
const FIRST_YEAR = 1000;

/**
 * A date in the form of RFC 3339: with an offset if the image has one, otherwise as local time without an offset; only
 * the day if the time is blank. Free text is returned unchanged.
 * @param offset value of the related tag, such as OffsetTimeOriginal
 * @param fraction digits after the second, such as SubSecTimeOriginal
 * @returns undefined for zeros, blanks and invalid days
 */
export function readDate(text: string, offset?: string, fraction?: string): string | undefined {
  const [, year = '', month = '', day = '', rest = ''] = DATE.exec(text.trim()) ?? [];
  if (!year) return /[a-z]/i.test(text) ? text.trim() : undefined;
  const date = `${year}-${pad(month)}-${pad(day)}`;
  if (!isDay(date)) return undefined;
  if (/^[\s:]*$/.test(rest)) return date;
  const [, hour, minute = '', second = '00', inside, zone = ''] = TIME.exec(rest) ?? [];
  if (!hour) return /[a-z]/i.test(rest) ? text.trim() : undefined;
  if (Number(hour) > 23 || Number(minute) > 59 || Number(second) > 59) return undefined;
  const digits = (inside ?? fraction?.trim() ?? '').slice(0, 9);
  const behind = /^\d+$/.test(digits) && Number(digits) > 0 ? `.${digits}` : '';
  if (zone && !readOffset(zone)) return text.trim();
  return `${date}T${pad(hour)}:${minute}:${second}${behind}${readOffset(zone || offset) ?? ''}`;
}

/** `Z`, `+02:00`; undefined for blanks and for offsets that no time zone has. */
export function readOffset(text: string | undefined): string | undefined {
  const written = text?.trim() ?? '';
  if (/^(Z|UTC|GMT)$/i.test(written)) return 'Z';
  const [, sign, hours, minutes] = OFFSET.exec(written) ?? [];
  if (!sign || Number(hours) > 14 || Number(minutes) > 59) return undefined;
  return Number(hours) + Number(minutes) === 0 ? 'Z' : `${sign}${hours}:${minutes}`;
}

/** Formats hours, minutes and seconds; undefined if they are not a valid time. */
export function readClock([hour = -1, minute = -1, second = -1]: number[]): string | undefined {
  const isWhole = Number.isInteger(hour) && Number.isInteger(minute);
  if (!isWhole || !isWithin(hour, 24) || !isWithin(minute, 60) || !isWithin(second, 60)) return undefined;
  const [whole = '', fraction] = String(Math.floor(second * 1000) / 1000).split('.');
  return `${pad(String(hour))}:${pad(String(minute))}:${pad(whole)}${fraction ? `.${fraction}` : ''}`;
}

const isWithin = (value: number, limit: number) => value >= 0 && value < limit;

const pad = (digits: string) => digits.padStart(2, '0');

/** Compares the day again after parsing, because Date turns 30 February into a day of March. */
function isDay(date: string): boolean {
  const time = Date.parse(`${date}T00:00:00Z`);
  if (Number.isNaN(time)) return false;
  return Number(date.slice(0, 4)) >= FIRST_YEAR && new Date(time).toISOString().startsWith(date);
}
