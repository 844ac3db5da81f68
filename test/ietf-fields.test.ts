import {
  parseBoolean,
  parseDictionary,
  parseString,
  parseWholeNumber,
  writeDigest,
} from '../server/ietf/fields.js';
import { Random } from './support/random.js';

/* Structured fields (RFC 9651), as far as resumable uploads use them. */

test.each<[string, boolean | undefined]>([
  ['?1', true],
  ['?0', false],
  ['  ?1 ', true],
  ['?1;a', true],
  ['?0; a=1;b="x;y, \\"z\\"";c=:AAAA:', false],
  ...['', '1', '?2', '?', 'true', '?1, ?1', '?1 ;a', '?10', '?1;A', '"?1"'].map(
    (text) => [text, undefined] as [string, undefined],
  ),
])('the Boolean %j is %s', (text, value) => {
  expect(parseBoolean(text)).toBe(value);
});

test.each<[string, number | undefined]>([
  ['0', 0],
  ['007', 7],
  ['999999999999999', 999_999_999_999_999],
  [' 5 ', 5],
  ['5;unit=bytes', 5],
  ...['', '-1', '+1', '1.0', '1e3', '0x10', '1000000000000000', '1 2', '1,1', '1_000', '５', '1;'].map(
    (text) => [text, undefined] as [string, undefined],
  ),
])('the whole number %j is %s', (text, value) => {
  expect(parseWholeNumber(text)).toBe(value);
});

test.each<[string, string | undefined]>([
  ['"a"', 'a'],
  ['""', ''],
  [' "a b" ', 'a b'],
  ['"\\"\\\\"', '"\\'],
  ['"a";b;c="d"', 'a'],
  ...[
    '',
    'a',
    '"',
    '"a',
    'a"',
    '"a"b',
    '"a" "b"',
    '"a", "b"',
    "'a'",
    '"\\a"',
    '"\\"',
    '"\t"',
    '"é"',
    '"a" ;b',
  ].map((text) => [text, undefined] as [string, undefined]),
])('the String %j is %j', (text, value) => {
  expect(parseString(text)).toBe(value);
});

test('a field that is missing has no value', () => {
  expect([parseBoolean(undefined), parseWholeNumber(undefined)]).toEqual([undefined, undefined]);
});

describe('dictionaries', () => {
  const bytes = Buffer.from([0, 1, 254, 255]);

  test('of bytes and other items', () => {
    const text = `${writeDigest('sha-256', bytes)};q=1 ,\tunixsum=30637, a, sha-512=::, b=?0`;
    expect([...(parseDictionary(text) ?? [])]).toEqual([
      ['sha-256', bytes],
      ['unixsum', '30637'],
      ['a', '?1'],
      ['sha-512', Buffer.alloc(0)],
      ['b', '?0'],
    ]);
  });

  test('the last of several members with one key counts', () => {
    expect(parseDictionary('a=:AAAA:, a=:AP8=:')?.get('a')).toEqual(Buffer.from([0, 255]));
  });

  test('an empty field is an empty dictionary', () => {
    expect(parseDictionary(' ')?.size).toBe(0);
  });

  test.each([
    ...[
      '=',
      ',',
      'a,',
      ',a',
      'a,,b',
      'a b',
      'A=1',
      '1=1',
      'a=',
      'a= 1',
      'a =1',
      'a=:AA',
      'a=:A*:',
      'a=:AA:b',
    ],
    ...['a=(1 2', 'a="x', 'a;b c', 'sha-256=AAAA:', 'ä=1'],
  ])('%j is none', (text) => {
    expect(parseDictionary(text)).toBeUndefined();
  });
});

test('no text makes a parser fail or take long', () => {
  const random = new Random(20_261_129);
  const pieces = [
    '?1',
    '?0',
    'sha-256',
    '=',
    ':',
    'AAAA',
    '"',
    '\\',
    ';',
    ',',
    ' ',
    '\t',
    '(',
    ')',
    '*',
    '1',
    'é',
  ];
  const began = process.cpuUsage();
  for (let count = 0; count < 20_000; count++) {
    const text = Array.from({ length: random.whole(0, 12) }, () => random.pick(pieces)).join('');
    for (const parse of [parseBoolean, parseWholeNumber, parseDictionary]) parse(text);
  }
  for (const unit of [';a="', ';a=b', ';a="\\"', 'a=1,', ':', 'a=:', ';*', ' ', '; ']) {
    for (const start of ['?1', '1', 'a=1', 'a=:AAAA:', '']) {
      const text = `${start}${unit.repeat(100_000 / unit.length)}!`;
      for (const parse of [parseBoolean, parseWholeNumber, parseDictionary]) parse(text);
    }
  }
  // Time that grows with the square of the length would be minutes. The time of the processor counts, which other programs
  // on a busy machine do not use up.
  expect(process.cpuUsage(began).user / 1000).toBeLessThan(30_000);
});
