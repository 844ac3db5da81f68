import { drawBars } from '../cli/bars.js';
import { failureOf, worstOf } from '../cli/failure.js';
import { durationText, percent, printable, sizeText, tableText } from '../cli/text.js';

/* What the command `landfall` makes of values: texts, bars and exit codes. */

test.each([
  [0, '0 B'],
  [1023, '1023 B'],
  [1024, '1.0 KiB'],
  [1536, '1.5 KiB'],
  [1024 ** 3, '1.0 GiB'],
  [5000 * 1024 ** 4, '5000.0 TiB'],
])('%d bytes are %s', (bytes, text) => {
  expect(sizeText(bytes)).toBe(text);
});

test.each([
  [0.4, '0:00'],
  [65, '1:05'],
  [3723, '1:02:03'],
])('%d seconds are %s', (seconds, text) => {
  expect(durationText(seconds)).toBe(text);
});

test('a share is 100 percent at the end only', () => {
  expect([percent(0, 0), percent(999, 1000), percent(1000, 1000)]).toEqual([100, 99, 100]);
});

test('a terminal obeys no text of a server', () => {
  expect(printable('a\x1b]0;title\x07\nb\u202Ec')).toBe('a\uFFFD]0;title\uFFFD\uFFFDb\uFFFDc');
});

test('a table aligns its columns', () => {
  const rows = [
    ['a', '10 B', 'x'],
    ['bcd', '5 B', ''],
  ];
  expect(tableText(rows, [1])).toEqual(['a    10 B  x', 'bcd   5 B']);
  expect(tableText([], [1])).toEqual([]);
});

test('a bar shows share, size, speed and the time left', () => {
  const transfer = { name: 'a.bin', size: 4096, done: 3072, before: 1024, startedAt: 0 };
  expect(drawBars([transfer], 76, 2000)).toBe(
    'a.bin       75 % ███████████████░░░░░    4.0 KiB  1.0 KiB/s  0:01',
  );
  // Nothing has been measured yet.
  expect(drawBars([transfer], 76, 500)).toBe('a.bin       75 % ███████████████░░░░░    4.0 KiB');
  const note = 'processing';
  expect(drawBars([{ ...transfer, note }], 76, 2000)).toMatch(/4\.0 KiB {2}processing$/);
});

test('a long name loses its middle, and a narrow terminal keeps some of it', () => {
  const transfer = { name: 'a very long name of a file.jpeg', size: 0, done: 0, before: 0, startedAt: 0 };
  expect(drawBars([transfer], 20, 0)).toMatch(/^a ver…jpeg 100 %/);
});

const answer = (status: number, body = '', headers: Record<string, string> = {}) =>
  failureOf({ status, header: (name) => headers[name], body });

test.each([
  [401, undefined, 3],
  [403, 'forbidden', 3],
  [403, 'infected', 4],
  [403, 'refused', 4],
  [404, 'not_found', 1],
  [409, 'not_ready', 1],
  [413, 'quota_exceeded', 4],
  [415, undefined, 4],
  [422, 'type_not_allowed', 4],
  [423, 'locked', 5],
  [429, 'rate_limited', 5],
  [500, 'internal', 5],
  [507, 'storage_full', 5],
])('an answer of %d (%s) leads to the exit code %d', (status, code, exitCode) => {
  expect(answer(status, JSON.stringify({ code })).exitCode).toBe(exitCode);
});

test('a failure has the words of the server, and those only', () => {
  const problem = JSON.stringify({
    title: 'Title',
    detail: 'Detail\x1b[2J',
    code: 'x',
    stack: 'at server.ts',
  });
  const headers = { 'X-Request-Id': 'id-1', 'Retry-After': '7' };
  expect(answer(503, problem, headers)).toMatchObject({
    message: 'Detail\uFFFD[2J',
    answered: { status: 503, code: 'x', requestId: 'id-1', retryAfter: 7 },
  });
  expect(answer(400, 'plain words\n', { 'Content-Type': 'text/plain; charset=utf-8' }).message).toBe(
    'plain words',
  );
  expect(answer(502, '<html>from a proxy</html>').message).toBe('The server answered with 502');
  expect(answer(502, '"text"').message).toBe('The server answered with 502');
  expect(answer(502, 'null').message).toBe('The server answered with 502');
});

test('the highest exit code of several files counts', () => {
  expect(worstOf([])).toBe(0);
  expect(worstOf([answer(404), answer(503), answer(413)])).toBe(5);
});
