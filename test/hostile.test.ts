import { gzipSync } from 'node:zlib';
import { encodeMetadata, idOf, registerUser, type TestUser } from './support/client.js';
import {
  BAD_CONCATS,
  BAD_JSON,
  BAD_METADATA,
  BAD_NAMES,
  BAD_RECEIVERS,
  GOOD_NAMES,
  ODD_CONCATS,
  ODD_METADATA,
  ODD_STRUCTURED_FIELDS,
  PATHS,
  QUERIES,
  TURNED_NAMES,
  VALUES,
} from './support/hostile-inputs.js';
import { type Processes, startProcesses } from './support/processes.js';
import { type Answer, exchange, formRequest } from './support/raw-http.js';
import { send } from './support/sign-in.js';
import { until } from './support/until.js';
import { makeDue } from './support/uploads.js';

/*
 * Hostile requests of all kinds. No answer may be 5xx or reveal anything about the inside, errors have their
 * usual form, and the same process goes on serving.
 */

let processes: Processes;
let admin: TestUser;
let user: TestUser;
/** The tests change the account of this user at will. */
let victim: TestUser;
let pid: number;
let path: string;
/** A file of the admin, which the tests change at will. */
let file: string;
/** A webhook of the admin, likewise. */
let webhook: string;
let tried = 0;

beforeAll(async () => {
  const buckets = ['UPLOADS', 'STATUS', 'DOWNLOADS', 'PROCESSING', 'GLOBAL'];
  processes = await startProcesses({
    ...Object.fromEntries(buckets.map((bucket) => [`RATE_LIMIT_${bucket}`, '0'])),
    // The server also believes headers that a proxy would set.
    TRUST_PROXY: 'loopback',
  });
  admin = await registerUser(() => processes.url);
  user = await registerUser(() => processes.url);
  victim = await registerUser(() => processes.url);
  path = await user.create(10);
  file = await admin.upload(Buffer.from('a file'), { filename: 'a.txt' });
  const made = { url: 'https://receiver.example/', events: ['file.completed'] };
  webhook = (await (await send(admin, 'POST', '/api/webhooks', made)).json()).id;
  pid = processes.pid('server');
});

afterAll(() => processes?.close());

/** No answer may hold these: stacks, SQL, paths of the machine, names of the packages in use. */
const INSIDE =
  /\n\s+at |node_modules|\.[jt]s:\d|\b(SELECT|INSERT|UPDATE) |QueryFailed|TypeError|syntax error|violates|landfall-test-|dist\/server/;

interface Try {
  what: string;
  request: string | Buffer;
  /** The statuses that the answer may have; undefined: any below 500. */
  expected?: number[];
  /** Whether the connection may just be closed. */
  maySayNothing?: boolean;
}

async function attempt(tries: Try[]): Promise<void> {
  const faults: string[] = [];
  const pending = [...tries];
  const work = async () => {
    for (let next = pending.shift(); next; next = pending.shift()) {
      tried++;
      const fault = await exchange(processes.url, next.request).then(
        (answer) => faultOf(next, answer),
        (error: Error) => error.message,
      );
      if (fault) faults.push(`${next.what.slice(0, 120)}: ${fault}`);
    }
  };
  await Promise.all(Array.from({ length: 8 }, work));
  expect(faults).toEqual([]);
  expect(processes.pid('server')).toBe(pid);
  expect((await fetch(`${processes.url}/health/ready`)).status).toBe(200);
}

function faultOf({ what, expected, maySayNothing }: Try, answer: Answer | undefined): string | undefined {
  if (!answer) return maySayNothing ? undefined : 'no answer';
  const { status, headers, body } = answer;
  if (status >= 500 || (expected && !expected.includes(status))) return `${status} ${body.slice(0, 200)}`;
  if (INSIDE.test(body)) return `tells ${body.slice(0, 500)}`;
  if (status < 400 || body === '') return undefined;
  const type = headers.get('content-type') ?? '';
  if (type.startsWith('text/plain') && headers.has('tus-resumable')) return undefined;
  // Bull Board answers with errors of its own form.
  if (what.includes('/admin/queues/api') && type.startsWith('application/json')) return undefined;
  if (!type.startsWith('application/problem+json')) return `${status} as ${type}: ${body.slice(0, 200)}`;
  const problem = JSON.parse(body);
  return problem.status === status && problem.code ? undefined : `an odd problem: ${body}`;
}

const bearer = (who: TestUser) => ({ Authorization: `Bearer ${who.token}` });
const JSON_TYPE = { 'Content-Type': 'application/json' };
const TUS = { 'Tus-Resumable': '1.0.0' };
const OCTETS = { 'Content-Type': 'application/offset+octet-stream' };

test('headers', async () => {
  const names = [
    ...[
      'Authorization',
      'Cookie',
      'Range',
      'If-None-Match',
      'If-Modified-Since',
      'If-Range',
      'Origin',
      'Accept',
    ],
    ...[
      'X-Request-Id',
      'X-Forwarded-For',
      'X-Forwarded-Proto',
      'X-Forwarded-Host',
      'Content-Type',
      'User-Agent',
    ],
    ...[
      'Accept-Encoding',
      'Expect',
      'Content-Encoding',
      'Host',
      'Upgrade',
      'Referer',
      '__proto__',
      'constructor',
    ],
  ];
  const tries = names.flatMap((name) =>
    VALUES.map((value) => ({
      what: `${name}: ${value}`,
      request: formRequest('GET', '/api/files', { ...bearer(user), [name]: value }),
    })),
  );
  await attempt(tries);
});

test('sign-in', async () => {
  const jwt = (head: string, body = '{}') =>
    `${Buffer.from(head).toString('base64url')}.${Buffer.from(body).toString('base64url')}.x`;
  const bearers = [
    ...[
      'x',
      '.',
      '..',
      'a.b',
      'a.b.c',
      'a.b.c.d',
      'lfk_',
      'lfk_000000000000_',
      'lfu_',
      'lfu_a.b.c',
      '-',
      '_',
    ],
    ...[
      `lfk_${'0'.repeat(12)}_${'a'.repeat(43)}`,
      user.token.slice(0, -1),
      `${user.token}x`,
      `${user.token}.x`,
    ],
    ...['{"alg":"none"}', '{"alg":"HS256"}', '{"alg":"RS256"}', '{"alg":null}', '[]', 'null', '{', ''].map(
      (it) => jwt(it),
    ),
    ...['null', '[]', '{"sub":1}', '{"sub":"x","role":"admin","exp":1e400}'].map((it) =>
      jwt('{"alg":"none"}', it),
    ),
    'a'.repeat(12_000),
  ];
  const schemes = [
    '',
    'Basic YTpi',
    'Bearer',
    'Bearer  x',
    'bearer x y',
    'Bearer \u00ff',
    'Digest username="a"',
    ', ,',
  ];
  const values = [...bearers.map((token) => `Bearer ${token}`), ...schemes];
  await attempt(
    values.flatMap((value) => [
      { what: value, request: formRequest('GET', '/api/me', { Authorization: value }), expected: [401] },
      {
        what: `tus ${value}`,
        request: formRequest('HEAD', path, { ...TUS, Authorization: value }),
        expected: [401],
      },
      ...['refresh', 'logout'].map((action) => ({
        what: `cookie ${value}`,
        request: formRequest('POST', `/api/auth/${action}`, {
          Cookie: `landfall_refresh=${value}; landfall_board=${value}`,
        }),
      })),
      {
        what: `board ${value}`,
        request: formRequest('GET', '/admin/queues', { Cookie: `landfall_board=${value}` }),
      },
    ]),
  );
});

test('paths and methods', async () => {
  const methods = ['GET', 'HEAD', 'POST', 'PATCH', 'DELETE', 'OPTIONS', 'PUT'];
  await attempt(
    PATHS.flatMap((target) =>
      methods.map((method) => ({
        what: `${method} ${target}`,
        request: formRequest(method, target, { ...bearer(admin), ...TUS }),
      })),
    ),
  );
  const odd = [
    'TRACE',
    'CONNECT',
    'PROPFIND',
    'MKCOL',
    'LOCK',
    'M-SEARCH',
    'PURGE',
    'LINK',
    'QUERY',
    'SOURCE',
    'get',
    'FOO',
    'G\u00cbT',
    '',
    'PRI',
  ];
  await attempt(
    odd.flatMap((method) =>
      ['/', '/api/files', '/uploads', path, '/health/live', '/nowhere'].map((target) => ({
        what: `${method} ${target}`,
        request: formRequest(method, target, bearer(user)),
        maySayNothing: method === 'CONNECT',
      })),
    ),
  );
  await attempt(
    [...odd, ...VALUES, 'GET', 'OPTIONS', 'PUT', 'PATCH, DELETE'].map((method) => ({
      what: `X-HTTP-Method-Override: ${method}`,
      request: formRequest('POST', path, { ...bearer(user), ...TUS, 'X-HTTP-Method-Override': method }),
    })),
  );
});

test('queries', async () => {
  const targets = [
    ...['/api/files', '/api/uploads', '/api/uploads/info', '/api/processing/estimate', '/api/admin/users'],
    '/api/admin/jobs',
    `/api/files/${path.slice(9)}/content`,
  ];
  await attempt(
    targets.flatMap((target) =>
      QUERIES.map((query) => ({
        what: `${target}?${query}`,
        request: formRequest('GET', `${target}?${query}`, bearer(admin)),
      })),
    ),
  );
});

test('live events', async () => {
  /** These values are right, and the answer to a GET does not end. */
  const isNumber = (value: string) => /^0?$/.test(value.trim());
  const queries = ['after', 'file', 'type', 'token'].flatMap((name) =>
    VALUES.filter((value) => name !== 'after' || !isNumber(value)).map((value) => ({
      what: `${name}=${value}`,
      request: formRequest('GET', `/api/events?${name}=${encodeURIComponent(value)}`, bearer(user)),
      expected: name === 'token' ? [401] : [400, 410],
    })),
  );
  const headers = VALUES.filter((value) => !isNumber(value)).map((value) => ({
    what: `Last-Event-ID: ${value}`,
    request: formRequest('GET', '/api/events', { ...bearer(user), 'Last-Event-ID': value }),
    expected: [400, 410],
  }));
  const names = QUERIES.map((query) => ({
    what: `HEAD ?${query}`,
    request: formRequest('HEAD', `/api/events?${query}`, bearer(user)),
  }));
  await attempt([...queries, ...headers, ...names]);
});

test('the estimate of a new file', async () => {
  const ask = (query: Record<string, string>) =>
    formRequest('GET', `/api/processing/estimate?${new URLSearchParams(query)}`, bearer(user));
  const types = [
    ...VALUES,
    'a/b',
    'image/*',
    'image/png\r\nX: y',
    'image/\u202epng',
    '\ud83d/png',
    '__proto__/x',
  ];
  await attempt([
    ...VALUES.map((size) => ({ what: `size ${size}`, request: ask({ size }) })),
    ...types.map((type) => ({ what: `type ${type}`, request: ask({ size: '1', type }) })),
  ]);
});

test('JSON', async () => {
  const targets: [string, string][] = [
    ['POST', '/api/auth/register'],
    ['POST', '/api/auth/login'],
    ['POST', '/api/auth/refresh'],
    ['POST', '/api/auth/logout'],
    ['POST', '/api/me/password'],
    ['POST', '/api/keys'],
    ['POST', '/api/upload-tokens'],
    ['POST', '/api/webhooks'],
    ['PATCH', `/api/webhooks/${webhook}`],
    ['POST', `/api/webhooks/${webhook}/replay`],
    ['POST', '/api/uploads/presign'],
    ['POST', '/api/uploads/complete'],
    ['PATCH', `/api/admin/users/${victim.id}`],
    ['POST', '/api/admin/invitations'],
    ['PUT', '/api/admin/log-level'],
    ['PATCH', `/api/files/${file}`],
    ['POST', `/api/files/${file}/process`],
    ['POST', '/api/files/batch'],
  ];
  await attempt(
    targets.flatMap(([method, target]) =>
      BAD_JSON.map((body) => ({
        what: `${method} ${target} ${body.toString('latin1')}`,
        request: formRequest(method, target, { ...bearer(admin), ...JSON_TYPE }, body),
      })),
    ),
  );
});

test('fields of JSON', async () => {
  const numbers = [
    '0',
    '-1',
    '1.5',
    '1e3',
    '1e400',
    '-0',
    '2147483648',
    '9007199254740991',
    '9007199254740992',
    '1e21',
  ];
  const values = [
    ...numbers,
    'null',
    'true',
    '[]',
    '{}',
    '"x"',
    '""',
    '"\u202e"',
    '"a\\u0007"',
    '[null]',
    '[1e9]',
    '["*/*"]',
  ];
  const times = [
    '2026-02-30T00:00:00Z',
    '9999-12-31T23:59:59Z',
    '2999-01-01T00:00:00+99:99',
    '0000-01-01T00:00:00Z',
    '+275760-09-13',
  ];
  // The last field: the value that counts where a name stands twice.
  const fields: [string, string, string[], string][] = [
    [
      'PATCH',
      `/api/admin/users/${victim.id}`,
      ['maxBytes', 'maxFiles', 'disabled', 'role', 'email', '__proto__'],
      '',
    ],
    ['POST', '/api/keys', ['name', 'scopes', 'expiresAt'], '"name":"n","scopes":["read"],'],
    ['POST', '/api/upload-tokens', ['label', 'maxSize', 'types', 'expiresAt'], ''],
    [
      'POST',
      '/api/webhooks',
      ['url', 'events', 'scope', 'enabled'],
      '"url":"https://receiver.example/","events":["file.*"],',
    ],
    ['PATCH', `/api/webhooks/${webhook}`, ['url', 'events', 'enabled', 'secret'], ''],
    ['POST', `/api/webhooks/${webhook}/replay`, ['from'], ''],
    ['POST', '/api/admin/invitations', ['email', 'expiresInHours'], ''],
    ['PUT', '/api/admin/log-level', ['level', 'seconds'], '"level":"error",'],
    [
      'POST',
      '/api/uploads/presign',
      ['id', 'parts', 'size', 'filename', 'type', 'sha256', 'settings'],
      '"size":1,',
    ],
    ['POST', '/api/processing/settings/validate', ['settings', 'type'], ''],
    ['POST', '/api/uploads/complete', ['id'], ''],
    ['POST', '/api/me/password', ['currentPassword', 'newPassword'], ''],
    ['PATCH', `/api/files/${file}`, ['filename'], ''],
    ['POST', `/api/files/${file}/process`, ['priority', 'settings'], ''],
    [
      'POST',
      '/api/files/batch',
      ['ids', 'action', 'priority', 'settings'],
      `"ids":["${file}"],"action":"process",`,
    ],
  ];
  await attempt(
    fields.flatMap(([method, target, names, rest]) =>
      names.flatMap((name) =>
        [...values, ...times.map((time) => JSON.stringify(time))].map((value) => ({
          what: `${target} ${name}: ${value}`,
          request: formRequest(
            method,
            target,
            { ...bearer(admin), ...JSON_TYPE },
            `{${rest}"${name}":${value}}`,
          ),
        })),
      ),
    ),
  );
});

test('addresses of receivers', async () => {
  await attempt(
    BAD_RECEIVERS.flatMap((url) => [
      {
        what: `a webhook for ${url}`,
        request: formRequest(
          'POST',
          '/api/webhooks',
          { ...bearer(admin), ...JSON_TYPE },
          JSON.stringify({ url, events: ['file.*'] }),
        ),
        expected: [400],
      },
      {
        what: `a webhook moved to ${url}`,
        request: formRequest(
          'PATCH',
          `/api/webhooks/${webhook}`,
          { ...bearer(admin), ...JSON_TYPE },
          JSON.stringify({ url }),
        ),
        expected: [400],
      },
    ]),
  );
});

test('the list of deliveries', async () => {
  await attempt(
    ['state', 'cursor', 'limit', 'other'].flatMap((name) =>
      VALUES.map((value) => ({
        what: `deliveries by ${name} ${value}`,
        request: formRequest(
          'GET',
          `/api/webhooks/${webhook}/deliveries?${new URLSearchParams({ [name]: value })}`,
          bearer(admin),
        ),
      })),
    ),
  );
});

test('types and encodings of JSON', async () => {
  const bomb = gzipSync(Buffer.alloc(50 * 1024 ** 2, ' '));
  const body = '{"email":"a@example.org","password":"long enough"}';
  const send = (headers: Record<string, string>, content: string | Buffer = body) =>
    formRequest('POST', '/api/auth/login', headers, content);
  await attempt([
    ...['gzip', 'br', 'deflate', 'zstd', 'x-gzip', 'gzip, gzip', 'nonsense'].map((coding) => ({
      what: coding,
      request: send({ ...JSON_TYPE, 'Content-Encoding': coding }, bomb.subarray(0, 50_000)),
      expected: [415],
    })),
    ...[
      'text/plain',
      'application/x-www-form-urlencoded',
      'multipart/form-data; boundary=x',
      'application/jsonp',
      '',
      ';',
      'application/json-seq',
    ]
      .concat([
        'application/json;charset=utf-16',
        'application/json; charset=latin1',
        'text/html, application/json',
      ])
      .map((type) => ({ what: type, request: send({ 'Content-Type': type }), expected: [415] })),
    ...[
      'application/json; charset=utf-8',
      'APPLICATION/JSON;charset="UTF-8"',
      'application/json;',
      'application/json; x=y',
    ].map((type) => ({
      what: type,
      request: send({ 'Content-Type': type }),
      expected: [401],
    })),
    { what: 'a length that lies', request: send({ ...JSON_TYPE, 'Content-Length': '5' }), expected: [400] },
    {
      what: 'a huge length',
      request: send({ ...JSON_TYPE, 'Content-Length': '99999999999' }),
      expected: [413],
    },
    {
      what: 'an impossible length',
      request: send({ ...JSON_TYPE, 'Content-Length': '9'.repeat(30) }),
      expected: [400],
    },
  ]);
});

test('tus headers', async () => {
  const creates = [
    'Upload-Length',
    'Upload-Defer-Length',
    'Upload-Concat',
    'Upload-Checksum',
    'Tus-Resumable',
    'Tus-Version',
    'Content-Type',
  ];
  const appends = [
    'Upload-Offset',
    'Upload-Length',
    'Upload-Defer-Length',
    'Content-Type',
    'Upload-Metadata',
    'Upload-Checksum',
    'Trailer',
  ];
  const odd = [
    ...VALUES,
    '007',
    '+1',
    ' 1 1',
    '1,1',
    '１',
    'partial',
    'final;/uploads/x',
    'sha1 YQ==',
    'sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=, sha1',
    'md5  XrY7u+Ae7tCTyyK7j1rNww==',
    'toString YQ==',
    'Upload-Checksum',
    'upload-checksum, Upload-Offset',
    '9223372036854775808',
  ];
  await attempt([
    ...creates.flatMap((name) =>
      odd.map((value) => ({
        what: `POST ${name}: ${value}`,
        request: formRequest(
          'POST',
          '/uploads',
          { ...bearer(user), ...TUS, ...OCTETS, 'Upload-Length': '5', [name]: value },
          'abc',
        ),
      })),
    ),
    ...appends.flatMap((name) =>
      odd.map((value) => ({
        what: `PATCH ${name}: ${value}`,
        request: formRequest(
          'PATCH',
          path,
          { ...bearer(user), ...TUS, ...OCTETS, 'Upload-Offset': '9', [name]: value },
          'abc',
        ),
      })),
    ),
    {
      what: 'both lengths',
      request: formRequest('POST', '/uploads', {
        ...bearer(user),
        ...TUS,
        'Upload-Length': '5',
        'Upload-Defer-Length': '1',
      }),
      expected: [400],
    },
    ...['9007199254740992', '9007199254740993', '18446744073709551616', '-1', '1e3'].map((length) => ({
      what: `Upload-Length: ${length}`,
      request: formRequest('POST', '/uploads', { ...bearer(user), ...TUS, 'Upload-Length': length }),
      expected: [400, 413],
    })),
  ]);
});

const createFinal = (concat: string, headers: Record<string, string> = {}) =>
  formRequest('POST', '/uploads', { ...bearer(user), ...TUS, ...headers, 'Upload-Concat': concat });

test('partial uploads that a final upload names', async () => {
  const of = { 'Upload-Concat': 'partial' };
  const partial = await user.create(0, of);
  const before = await user.get('/api/uploads');
  await attempt(
    Object.entries(BAD_CONCATS).flatMap(([status, values]) =>
      values.map((value) => ({
        what: `Upload-Concat: ${value}`,
        request: createFinal(value.replaceAll('@', partial)),
        expected: [Number(status)],
      })),
    ),
  );
  await attempt(
    VALUES.map((value) => ({
      what: `Upload-Concat: final;${value}`,
      request: createFinal(`final;${value}`),
      expected: [400, 404],
    })),
  );
  expect(await user.get('/api/uploads')).toEqual(before);
  await attempt(
    ODD_CONCATS.map((value) => ({
      what: `Upload-Concat: ${value}`,
      request: createFinal(value.replaceAll('@', partial)),
      expected: [201],
    })),
  );
});

test('uploads that are no partial ones of this user', async () => {
  const kinds = async (owner: TestUser): Promise<[kind: string, path: string, expected: number[]][]> => {
    const of = { 'Upload-Concat': 'partial' };
    const [whole, ended, expired, waited] = await Promise.all([
      owner.create(5),
      owner.create(5, of),
      owner.create(5, of),
      owner.create(5, of),
    ]);
    const joined = await owner.tus('POST', '/uploads', { 'Upload-Concat': `final;${waited}` });
    const waiting = `/uploads/${idOf(joined.headers.get('Location') ?? '')}`;
    const [done, deleted] = await Promise.all([
      owner.upload(Buffer.from('whole')),
      owner.upload(Buffer.from('whole')),
    ]);
    await owner.tus('DELETE', ended);
    await owner.tus('DELETE', `/uploads/${deleted}`);
    await makeDue(processes.database, expired.slice('/uploads/'.length));
    await until('the upload to expire', async () => (await owner.tus('HEAD', expired)).status === 410);
    return [
      ['one that is no partial one', whole, [400]],
      ['a final one', waiting, [400]],
      ['a file', `/uploads/${done}`, [400]],
      ['a deleted file', `/uploads/${deleted}`, [400]],
      ['an ended one', ended, [410]],
      ['an expired one', expired, [410]],
    ];
  };
  const partial = await user.create(0, { 'Upload-Concat': 'partial' });
  const tries = (uploads: [string, string, number[]][]) =>
    uploads.flatMap(([what, address, expected]) =>
      [`final;${address}`, `final;${partial} ${address}`].map((value) => ({
        what,
        request: createFinal(value),
        expected,
      })),
    );
  await attempt(tries(await kinds(user)));
  const stranger = await registerUser(() => processes.url);
  const foreign = await kinds(stranger);
  foreign.push(['a partial one', await stranger.create(0, { 'Upload-Concat': 'partial' }), []]);
  // The answer is the one for an upload that does not exist.
  for (const [what, address] of foreign) {
    const answer = await user.tus('POST', '/uploads', { 'Upload-Concat': `final;${address}` });
    const id = address.slice('/uploads/'.length);
    expect([what, answer.status, await answer.text()]).toEqual([
      what,
      404,
      `There is no partial upload ${id}\n`,
    ]);
  }
  for (const headers of [
    { 'Upload-Length': '0' },
    { 'Upload-Defer-Length': '1' },
    { 'Upload-Length': 'x' },
  ]) {
    await attempt([
      { what: JSON.stringify(headers), request: createFinal(`final;${partial}`, headers), expected: [400] },
    ]);
  }
});

/** A new upload, described by the header. */
const create = (metadata: string) =>
  formRequest('POST', '/uploads', {
    ...bearer(user),
    ...TUS,
    'Upload-Length': '0',
    'Upload-Metadata': metadata,
  });

const presign = (filename: string) =>
  formRequest(
    'POST',
    '/api/uploads/presign',
    { ...bearer(user), ...JSON_TYPE },
    JSON.stringify({ size: 1, filename }),
  );

test('metadata', async () => {
  await attempt(
    BAD_METADATA.map((metadata) => ({ what: metadata, request: create(metadata), expected: [400, 431] })),
  );
  await attempt(
    ODD_METADATA.map((metadata) => ({ what: metadata, request: create(metadata), expected: [201] })),
  );
});

test('names', async () => {
  const of = (name: string) => ['filename', 'name'].map((key) => create(encodeMetadata({ [key]: name })));
  await attempt([
    ...BAD_NAMES.flatMap((name) =>
      [...of(name), presign(name)].map((request) => ({
        what: JSON.stringify(name),
        request,
        expected: [400],
      })),
    ),
    ...TURNED_NAMES.flatMap(([name]) =>
      of(name).map((request) => ({ what: name, request, expected: [201] })),
    ),
    ...GOOD_NAMES.flatMap((name) => of(name).map((request) => ({ what: name, request, expected: [201] }))),
    // The bytes are in a folder here, where direct upload does not exist.
    ...GOOD_NAMES.map((name) => ({ what: name, request: presign(name), expected: [409] })),
  ]);
});

test('codings of bodies', async () => {
  const bodies = ['x', gzipSync('x'), Buffer.alloc(0)];
  const tus = { ...bearer(user), ...TUS, ...OCTETS };
  await attempt(
    VALUES.flatMap((coding) =>
      bodies.flatMap((body) => [
        {
          what: `POST Content-Encoding: ${coding}`,
          request: formRequest('POST', '/api/files', { ...bearer(user), 'Content-Encoding': coding }, body),
          expected: coding.trim() === '' || coding === ',' ? [201] : [415],
        },
        {
          what: `POST /uploads Content-Encoding: ${coding}`,
          request: formRequest(
            'POST',
            '/uploads',
            { ...tus, 'Upload-Length': String(body.length), 'Content-Encoding': coding },
            body,
          ),
          expected: coding.trim() === '' || coding === ',' ? [201] : [415],
        },
        {
          what: `PATCH Content-Encoding: ${coding}`,
          request: formRequest(
            'PATCH',
            path,
            { ...tus, 'Upload-Offset': '7', 'Content-Encoding': coding },
            body,
          ),
          expected: coding.trim() === '' || coding === ',' ? [409] : [415],
        },
      ]),
    ),
  );
});

test('a declared type that is not a media type is dropped', async () => {
  for (const filetype of [
    '',
    'x',
    'image',
    '/',
    'image/',
    'image/png; x',
    'a b/c',
    'ü/ü',
    'x'.repeat(300),
    `a/${'b'.repeat(300)}`,
  ]) {
    const id = await user.upload(Buffer.from('x'), { filename: 'a.txt', filetype });
    expect([filetype, (await user.get(`/api/files/${id}`)).declaredType]).toEqual([filetype, null]);
  }
  const filetype = 'text/plain; charset="utf-8"';
  const id = await user.upload(Buffer.from('x'), { filename: 'a.txt', filetype });
  expect((await user.get(`/api/files/${id}`)).declaredType).toBe(filetype);

  // Some clients send the type as `type`, a key that other clients use for something else.
  for (const [type, declared] of [
    ['image/png', 'image/png'],
    ['avatar', null],
    ['x'.repeat(4000), null],
  ] as const) {
    const other = await user.upload(Buffer.from('x'), { type });
    expect((await user.get(`/api/files/${other}`)).declaredType).toBe(declared);
  }
});

test('requests that are hardly HTTP', async () => {
  const me = `GET /api/me HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${user.token}\r\n`;
  const post = `POST /api/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n`;
  const refused: [string, string][] = [
    ['no Host', 'GET /health/live HTTP/1.1\r\nConnection: close\r\n\r\n'],
    ['two Hosts', 'GET /health/live HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n'],
    ['nothing but noise', '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03'],
    ['another protocol', 'SSH-2.0-OpenSSH_9.0\r\n'],
    ['HTTP/2', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'],
    ['HTTP/9.9', 'GET / HTTP/9.9\r\nHost: x\r\n\r\n'],
    ['a space before the colon', `${me}X-Odd : 1\r\n\r\n`],
    ['a NUL in a header', `${me}X-Odd: a\0b\r\n\r\n`],
    ['a bare CR', `${me}X-Odd: a\rb\r\n\r\n`],
    ['a header without a colon', `${me}nonsense\r\n\r\n`],
    ['an empty name', `${me}: x\r\n\r\n`],
    ['a name with a space', `${me}a b: x\r\n\r\n`],
    ['17 kB of headers', `${me}X-Long: ${'x'.repeat(17_000)}\r\n\r\n`],
    ['101 headers', `${me}Connection: close\r\n${'X-A: 1\r\n'.repeat(101)}\r\n`],
    ['3000 headers', `${me}Connection: close\r\n${'a:\r\n'.repeat(3000)}\r\n`],
    ['a length and chunks', `${post}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`],
    ['chunks and a length', `${post}Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n`],
    ['two lengths', `${post}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} `],
    ['a list of lengths', `${post}Content-Length: 2, 3\r\n\r\n{} `],
    ['a negative length', `${post}Content-Length: -1\r\n\r\n`],
    ['a signed length', `${post}Content-Length: +2\r\n\r\n{}`],
    ['a hexadecimal length', `${post}Content-Length: 0x2\r\n\r\n{}`],
    ['chunked twice', `${post}Transfer-Encoding: chunked, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n`],
    ['chunked before another', `${post}Transfer-Encoding: chunked, identity\r\n\r\n2\r\n{}\r\n0\r\n\r\n`],
    ['a coding that is none', `${post}Transfer-Encoding: xchunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n`],
    ['a negative chunk', `${post}Transfer-Encoding: chunked\r\n\r\n-1\r\n{}\r\n0\r\n\r\n`],
    ['a chunk that is no number', `${post}Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n`],
    ['an endless chunk size', `${post}Transfer-Encoding: chunked\r\n\r\n${'f'.repeat(40)}\r\n`],
    ['a chunk longer than it says', `${post}Transfer-Encoding: chunked\r\n\r\n2\r\n{}x\r\n0\r\n\r\n`],
    [
      'endless extensions of chunks',
      `${post}Transfer-Encoding: chunked\r\n\r\n2;${'x'.repeat(20_000)}\r\n{}\r\n0\r\n\r\n`,
    ],
  ];
  const taken: [string, string][] = [
    ['HTTP/0.9', 'GET /\r\n\r\n'],
    ['HTTP/1.0', 'GET /health/live HTTP/1.0\r\n\r\n'],
    ['an absolute target', 'GET http://x/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n'],
    [
      'a target elsewhere',
      `GET http://evil.example/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`,
    ],
    ['an expectation', `${post}Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{}`],
    ['an expectation that is unknown', `${post}Expect: 200-maybe\r\nContent-Length: 2\r\n\r\n{}`],
    ['an upgrade', `${me}Connection: Upgrade, close\r\nUpgrade: websocket\r\n\r\n`],
    [
      'HTTP/2 in clear',
      `${me}Connection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAAA\r\n\r\n`,
    ],
    ['pipelined requests', `${`${me}\r\n`.repeat(50)}${me}Connection: close\r\n\r\n`],
    ['trailers', `${post}Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nAuthorization: x\r\n\r\n`],
    ['empty lines before', '\r\n\r\nGET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n'],
  ];
  await attempt([
    ...refused.map(([what, request]) => ({
      what,
      request: Buffer.from(request, 'latin1'),
      expected: [400, 413, 431],
    })),
    ...taken.map(([what, request]) => ({ what, request: Buffer.from(request, 'latin1') })),
    // An obsolete folded line is refused, or read as part of the value before it.
    { what: 'a folded header', request: `${me}X-Odd: a\r\n  b\r\nConnection: close\r\n\r\n` },
  ]);
});

test('headers of resumable uploads', async () => {
  const right = { 'Upload-Draft-Interop-Version': '8', 'Upload-Offset': '0', 'Upload-Complete': '?0' };
  const partial = { 'Content-Type': 'application/partial-upload' };
  const names = [
    ...[
      'Upload-Draft-Interop-Version',
      'Upload-Complete',
      'Upload-Incomplete',
      'Upload-Offset',
      'Upload-Length',
    ],
    ...['Content-Digest', 'Repr-Digest', 'Want-Repr-Digest', 'Content-Disposition', 'Content-Type'],
  ];
  const values = [...VALUES, ...ODD_STRUCTURED_FIELDS].map((value) => Buffer.from(value).toString('latin1'));
  const requests = (name: string, value: string): [method: string, target: string, headers: object][] => [
    ['POST', '/uploads', { ...right, [name]: value }],
    ['PUT', '/api/files', { ...right, 'Upload-Complete': '?1', [name]: value }],
    // Without content, so that the offset stays.
    ['PATCH', path, { ...right, ...partial, [name]: value }],
    ['HEAD', path, { 'Upload-Draft-Interop-Version': '3', [name]: value }],
  ];
  await attempt(
    names.flatMap((name, place) =>
      values.map((value, index) => {
        const all = requests(name, value);
        const [method, target, headers] = all[(place + index) % all.length] ?? ['GET', '/', {}];
        return {
          what: `${method} ${target} ${name}: ${value}`,
          request: formRequest(method, target, { ...bearer(user), ...headers }),
        };
      }),
    ),
  );
});

test('keys of requests', async () => {
  await attempt(
    [...VALUES, ...ODD_STRUCTURED_FIELDS].map((value) => ({
      what: `Idempotency-Key: ${value}`,
      request: formRequest('POST', `/api/files/${file}/retry`, {
        ...bearer(admin),
        'Idempotency-Key': Buffer.from(value).toString('latin1'),
      }),
      // None of them is a string.
      expected: [400, 431],
    })),
  );
});

test('an ordinary upload still works after more than 3000 hostile requests', async () => {
  expect(tried).toBeGreaterThan(3000);
  const id = await user.tusUpload(Buffer.from('still here'), {
    metadata: { filename: 'a.txt', filetype: 'text/plain' },
  });
  expect(await user.settled(id)).toMatchObject({ filename: 'a.txt', status: 'completed', size: 10 });
});
