const DATE = /^(?:D:)?(\d{4})(\d\d)?(\d\d)?(\d\d)?(\d\d)?(\d\d)?(?:Z.*|([+-])(\d\d)'?(\d\d)?'?)?$/;

/**
 * Turns a date of PDF (ISO 32000-2, 7.9.4), such as `D:20240506070809+02'00'`, into one of RFC 3339. Without an offset it
 * is a local time, without a `Z`. @returns undefined if there is no such date
 */
export function readPdfDate(text: string | undefined): string | undefined {
  const match = DATE.exec(text?.trim() ?? '');
  if (!match) return undefined;
  const [whole, year, month = '01', day = '01', hour = '00', minute = '00', second = '00'] = match;
  const [sign, hours, minutes = '00'] = match.slice(7);
  const local = `${year}-${month}-${day}T${hour}:${minute}:${second}`;
  // Invalid fields, such as a thirteenth month or 30 February, make another date or none.
  const time = Date.parse(`${local}Z`);
  if (Number.isNaN(time) || new Date(time).toISOString().slice(0, 19) !== local) return undefined;
  if (sign) return `${local}${sign}${hours}:${minutes}`;
  return whole.includes('Z') ? `${local}Z` : local;
}
