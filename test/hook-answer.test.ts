import { mergeAnswers, readReply } from '../core/hooks/answer.js';
import { createProgressThrottle } from '../core/hooks/progress.js';

/* How the answers of hooks are read, as tusd reads them. */

const read = (answer: unknown) => readReply(JSON.stringify(answer));

const NOTHING = {
  answer: { status: undefined, headers: undefined, body: undefined },
  rejectsUpload: false,
  rejectsTermination: false,
  stopsUpload: false,
  metadata: undefined,
  namesId: false,
  namesStorage: false,
  owner: undefined,
  deliverTo: undefined,
};

test.each([
  [{}],
  [null],
  [{ HTTPResponse: null, RejectUpload: null, ChangeFileInfo: null }],
  [{ HTTPResponse: { StatusCode: 0, Body: '', Header: null }, ChangeFileInfo: { ID: '', MetaData: null } }],
  [{ Something: 'else', HTTPResponse: { Headers: { 'X-A': 'b' } } }],
])('%j changes nothing', (answer) => {
  expect(read(answer)).toEqual(NOTHING);
});

test('every field is read', () => {
  expect(
    read({
      HTTPResponse: { StatusCode: 418, Body: 'tea', Header: { 'X-Tea': 'green' } },
      RejectUpload: true,
      RejectTermination: true,
      StopUpload: true,
      ChangeFileInfo: { ID: 'mine', MetaData: { filename: 'a.txt', empty: null }, Storage: { Path: 'b' } },
      Owner: 'somebody',
      DeliverTo: 'archive:{id}',
    }),
  ).toEqual({
    answer: { status: 418, headers: { 'X-Tea': 'green' }, body: 'tea' },
    rejectsUpload: true,
    rejectsTermination: true,
    stopsUpload: true,
    metadata: { filename: 'a.txt', empty: '' },
    namesId: true,
    namesStorage: true,
    owner: 'somebody',
    deliverTo: 'archive:{id}',
  });
});

test('names of fields count in any case, as in Go; keys of maps stay as they are', () => {
  expect(
    read({
      rejectupload: true,
      httpResponse: { STATUSCODE: 402 },
      changefileinfo: { metadata: { Filename: 'a' } },
    }),
  ).toMatchObject({ rejectsUpload: true, answer: { status: 402 }, metadata: { Filename: 'a' } });
});

test.each([
  [[]],
  ['yes'],
  [true],
  [{ RejectUpload: 'yes' }],
  [{ RejectUpload: 1 }],
  [{ HTTPResponse: [] }],
  [{ HTTPResponse: { StatusCode: '400' } }],
  [{ HTTPResponse: { StatusCode: 100 } }],
  [{ HTTPResponse: { StatusCode: 600 } }],
  [{ HTTPResponse: { StatusCode: 200.5 } }],
  [{ HTTPResponse: { Body: { an: 'object' } } }],
  [{ HTTPResponse: { Header: { 'X-A': ['several', 'values'] } } }],
  [{ HTTPResponse: { Header: { 'X A': 'a blank' } } }],
  [{ HTTPResponse: { Header: { 'X-A': 'a\r\nB: c' } } }],
  [{ ChangeFileInfo: { MetaData: { count: 1 } } }],
  [{ ChangeFileInfo: 'x' }],
])('%j cannot be read', (answer) => {
  expect(() => read(answer)).toThrow();
});

test('a later answer counts more', () => {
  const first = { status: 201, headers: { A: '1', B: '1' }, body: 'one' };
  expect(mergeAnswers(first, {})).toEqual(first);
  expect(mergeAnswers(first, { status: 202, headers: { B: '2' } })).toEqual({
    status: 202,
    headers: { A: '1', B: '2' },
    body: 'one',
  });
});

test('reports of an upload go one at a time, and not too often', () => {
  let now = 0;
  const throttle = createProgressThrottle(1000, () => now);
  expect([throttle.begin('a'), throttle.begin('a'), throttle.begin('b')]).toEqual([true, false, true]);
  throttle.done('a');
  now = 999;
  expect(throttle.begin('a')).toBe(false);
  now = 1000;
  expect([throttle.begin('a'), throttle.begin('b')]).toEqual([true, false]);
  throttle.done('b');
  expect(throttle.begin('b')).toBe(true);
});

test('reports to a receiver that does not answer come to an end', () => {
  let now = 0;
  const throttle = createProgressThrottle(1000, () => now);
  const begun = Array.from({ length: 100 }, (_, index) => throttle.begin(`${index}`)).filter(Boolean);
  now = 10_000;
  expect([begun.length, throttle.begin('another')]).toEqual([32, false]);
});
