import type { Request } from 'express';

/*
 * Conditional requests and ranges (RFC 9110, sections 13 and 14), as far as they concern a stored file, which never
 * changes.
 */

/** The validators of the content that a request selects. */
interface Validators {
  /** Strong, with quotes. */
  etag: string;
  modified: Date;
}

/**
 * Evaluates If-Match and If-Unmodified-Since (RFC 9110, 13.2.2, steps 1 and 2). If-None-Match and the others come
 * after them. False: the answer is 412.
 */
export function isPreconditionMet(req: Request, { etag, modified }: Validators): boolean {
  const wanted = req.get('If-Match');
  // 13.1.4: "A recipient MUST ignore If-Unmodified-Since if the request contains an If-Match header field".
  if (wanted !== undefined) return listsTag(wanted, '*') || listsTag(wanted, etag);
  // "A recipient MUST ignore the If-Unmodified-Since header field if the received field value is not a valid
  // HTTP-date". Nothing is later than such a date, which is NaN here.
  return !(wholeSeconds(modified) > parseDate(req.get('If-Unmodified-Since')));
}

/**
 * Whether a list of entity tags has this one. 13.1.1: "An origin server MUST use the strong comparison function
 * when comparing entity tags for If-Match", so `W/"a"` is not `"a"`.
 */
export function listsTag(list: string | undefined, etag: string): boolean {
  return (list ?? '').split(',').some((one) => one.trim() === etag);
}

/**
 * RFC 9110, 13.1.2 and 13.1.3: "A recipient MUST ignore If-Modified-Since if the request contains an
 * If-None-Match header field". Express' `req.fresh` would send everything for `Cache-Control: no-cache`,
 * which fetch() adds to every conditional request.
 */
export function isUnchanged(req: Request, { etag, modified }: Validators): boolean {
  return knowsTag(req, etag) ?? wholeSeconds(modified) <= parseDate(req.get('If-Modified-Since'));
}

/**
 * Whether If-None-Match lists this entity tag, by the weak comparison that 13.1.2 demands: a prefix `W/` does not count.
 * Undefined: the request has no If-None-Match.
 * @param etag with quotes, without the prefix
 */
export function knowsTag(req: Request, etag: string): boolean | undefined {
  const known = req.get('If-None-Match');
  if (known === undefined) return undefined;
  return listsTag(known, '*') || listsTag(known, etag) || listsTag(known, `W/${etag}`);
}

/** First and last byte, from 0. */
export interface Range {
  start: number;
  end: number;
}

/**
 * The range to send; undefined: the whole content. Several ranges and malformed ones are ignored, which a
 * server may do (RFC 9110, 14.2). "GET is the only method for which range handling is defined".
 */
export function chosenRange(
  req: Request,
  size: number,
  validators: Validators,
): Range | 'unsatisfiable' | undefined {
  if (req.method !== 'GET' || !ifRangeHolds(req.get('If-Range'), validators)) return undefined;
  const [, first, last] = /^bytes=(\d*)-(\d*)$/i.exec(req.get('Range') ?? '') ?? [];
  if (!first && !last) return undefined;
  // 14.1.2: without a first position, the other number counts bytes from the end, at most all of them.
  const start = first ? Number(first) : Math.max(0, size - Number(last));
  const end = first && last ? Number(last) : size - 1;
  if (start >= size) return 'unsatisfiable';
  return start <= end ? { start, end: Math.min(end, size - 1) } : undefined;
}

/** RFC 9110, 13.1.5: a validator that does not match asks for the whole content. */
function ifRangeHolds(value: string | undefined, { etag, modified }: Validators): boolean {
  return value === undefined || value === etag || wholeSeconds(modified) === parseDate(value);
}

/** Milliseconds, rounded down to the precision of a date in a header. */
function wholeSeconds(date: Date): number {
  return Math.floor(date.getTime() / 1000) * 1000;
}

/** Begins with a weekday, as all three formats of RFC 9110, 5.6.7 do. */
const HTTP_DATE = /^(Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*,? [\w: -]+$/;

/** The milliseconds of a date in a header; NaN if it is none. */
function parseDate(value = ''): number {
  if (!HTTP_DATE.test(value)) return Number.NaN;
  // The format of asctime() names no zone.
  return Date.parse(value.endsWith(' GMT') ? value : `${value} GMT`);
}
