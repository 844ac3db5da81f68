const timeFormat = new Intl.DateTimeFormat('en', { dateStyle: 'medium', timeStyle: 'short' });
const hourFormat = new Intl.DateTimeFormat('en', { timeStyle: 'short' });
const numberFormat = new Intl.NumberFormat('en');

/** Date and time, such as “Nov 21, 2026, 9:05 AM”. */
export function timeText(time: string): string {
  return timeFormat.format(new Date(time));
}

const dayFormat = new Intl.DateTimeFormat('en', { month: 'short', day: 'numeric' });
const yearFormat = new Intl.DateTimeFormat('en', { dateStyle: 'medium' });

/** A time as short as a list needs it: “9:05 AM” for today, “Nov 21”, or “Nov 21, 2025”. */
export function shortTimeText(time: string, now = new Date()): string {
  const date = new Date(time);
  if (date.toDateString() === now.toDateString()) return hourFormat.format(date);
  return (date.getFullYear() === now.getFullYear() ? dayFormat : yearFormat).format(date);
}

/** The time at which a wait of `ms` ends: “at 9:05 AM”, or “in 12 seconds”. */
export function soonText(ms: number): string {
  const seconds = Math.max(1, Math.ceil(ms / 1000));
  if (seconds < 60) return `in ${countText(seconds, 'second')}`;
  const end = new Date(Date.now() + ms);
  return seconds < 43_200 ? `at ${hourFormat.format(end)}` : `after ${timeFormat.format(end)}`;
}

/** “1 file”, “2,000 files”. */
export function countText(count: number, noun: string): string {
  return `${numberFormat.format(count)} ${noun}${count === 1 ? '' : 's'}`;
}

/** A length of time, roughly: “12 s”, “3 min”, “2 h 10 min”. @param seconds */
export function durationText(seconds: number): string {
  if (seconds < 60) return `${Math.max(1, Math.ceil(seconds))} s`;
  const minutes = Math.ceil(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const rest = minutes % 60;
  return rest > 0 ? `${Math.floor(minutes / 60)} h ${rest} min` : `${minutes / 60} h`;
}

export function sizeText(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${value >= 100 ? Math.round(value) : Math.round(value * 10) / 10} ${units[unit]}`;
}

const BROWSERS: [name: string, pattern: RegExp][] = [
  ['Edge', /\bEdg(e|A|iOS)?\//],
  ['Opera', /\bOPR\//],
  ['Firefox', /\b(Firefox|FxiOS)\//],
  ['Chrome', /\b((Headless)?Chrome|CriOS)\//],
  ['Safari', /\bSafari\//],
];

const SYSTEMS: [name: string, pattern: RegExp][] = [
  ['iPhone', /\biPhone\b/],
  ['iPad', /\biPad\b/],
  ['Android', /\bAndroid\b/],
  ['Windows', /\bWindows\b/],
  ['macOS', /\bMacintosh\b/],
  ['ChromeOS', /\bCrOS\b/],
  ['Linux', /\bLinux\b/],
];

/**
 * A short form of a User-Agent: “Firefox on Linux”; without a known browser the first word, such as
 * “curl/8.5.0”.
 */
export function programText(userAgent: string | null): string {
  if (!userAgent) return 'Unknown program';
  const find = (known: typeof BROWSERS) => known.find(([, pattern]) => pattern.test(userAgent))?.[0];
  const browser = find(BROWSERS);
  const system = find(SYSTEMS);
  if (browser) return system ? `${browser} on ${system}` : browser;
  return userAgent.split(' ')[0]?.slice(0, 40) ?? '';
}
