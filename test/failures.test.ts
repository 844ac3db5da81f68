import { explain } from '../core/files/failures.js';

/* Failures in words for the owner of a file. */

test.each([
  ['infected', /virus/],
  ['size_mismatch', /upload it again/],
  ['checksum_mismatch', /upload it again/],
  ['type_not_allowed', /type/],
  ['too_large', /larger/],
  ['unreadable', /damaged/],
  ['damaged', /damaged/],
  ['too_many_pixels', /pixels/],
  ['too_large_to_scan', /too large/],
  ['too_much_memory', /too large/],
])('a file with the failure %s is told what is wrong with it, whatever comes next', (code, words) => {
  expect(explain({ code }, 'failed')).toMatch(words);
  expect(explain({ code }, 'processing')).toBe(explain({ code }, 'failed'));
});

test.each([
  'took_too_long',
  'parser_died',
  'scan_failed',
  'unavailable',
  'storage_full',
  'delivery_refused',
  'internal',
  'a_new_code',
  'toString',
])('a failure that may pass (%s) says what comes next', (code) => {
  expect(explain({ code }, 'processing')).toMatch(/^[A-Z][a-z ]+\. It will be tried again by itself\.$/);
  expect(explain({ code }, 'failed')).toMatch(/^[A-Z][a-z ]+\. Start the processing again later\.$/);
});
