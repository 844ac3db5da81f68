/*
 * Hostile inputs, by their place in a request. None of them may bring a server down.
 */

/** Values that no header, field or parameter is meant to have. */
export const VALUES = [
  ...[
    '',
    ' ',
    '0',
    '-1',
    '-0',
    '1.5',
    '1e3',
    '1e400',
    '0x10',
    'NaN',
    'Infinity',
    'null',
    'undefined',
    'true',
  ],
  ...['2147483648', '9007199254740991', '9007199254740993', '99999999999999999999', '9'.repeat(400)],
  ...[
    "' OR 1=1 --",
    '"; DROP TABLE users; --',
    '$1',

    '{{7*7}}',
    '%s%n%d',
    '<script>alert(1)</script>',
  ],
  ...[
    '../../etc/passwd',
    '..\\..\\boot.ini',
    'C:\\',
    'file:///etc/passwd',
    'http://169.254.169.254/',
    '//evil',
  ],
  ...[
    '[object Object]',
    '__proto__',
    'constructor',
    'toString',
    'a'.repeat(8000),
    ',',
    ';',
    '=',
    '"',
    '*',
    '()',
  ],
];

/** Texts that are no names, or dangerous ones. */
export const BAD_NAMES = [
  ...[
    '.',
    '..',
    '/',
    '\\',
    'a/',
    '../..',
    'C:\\',
    ' ',
    '\u00a0',
    '\u200b',
    '\ufeff',
    '\u200e\u200f',
    '\u3000',
  ],
  ...['a\0b', '\0', 'a\tb', 'a\nb', 'a\r\nX: y', 'a\u0007b', 'a\u001bb', 'a\u001b[31m', 'a\u007fb'],
  ...['a\u0080b', 'a\u0085b', 'a\u009bb', 'a\u009fb', 'a\u2028b', 'a\u2029b'],
  ...['x'.repeat(256), 'é'.repeat(300), '😀'.repeat(128), 'x'.repeat(7000)],
];

/** Honest names, which must pass unchanged. */
export const GOOD_NAMES = [
  ...['a', 'a.b', '.htaccess', '...', 'a.', '-rf', 'CON', 'what?.txt', '12:30 *.txt', '<b>.txt', "it's.txt"],
  ...['Größe.txt', 'cafe\u0301.txt', '文件.jpg', 'ملف.pdf', 'קובץ.pdf', '👩‍👩‍👧.png', 'a\u200bb.txt'],
  ...[
    'a b.txt',
    'a,b.txt',
    'a;b.txt',
    'a"b.txt',
    '100%.txt',
    'x'.repeat(255),
    '__proto__',
    'constructor',
    'null',
  ],
];

/**
 * Names with characters that turn the direction of text. The server accepts the names without these
 * characters.
 */
export const TURNED_NAMES = [
  ...['\u061c', '\u200e', '\u200f', '\u202a', '\u202b', '\u202c', '\u202d', '\u202e'],
  ...['\u2066', '\u2067', '\u2068', '\u2069', '\u202e\u202d'],
].map((mark): [sent: string, kept: string] => [`${mark}photo${mark}gpj.exe`, 'photogpj.exe']);

const base64 = (text: string | Uint8Array) => Buffer.from(text as string).toString('base64');

/** Values of Upload-Metadata that are refused with 400. */
export const BAD_METADATA = [
  ...[
    'filename  YQ==',
    'filename YQ== YQ==',
    'filename\tYQ==',
    'filename Y\tQ==',
    'filename YQ==; b YQ==',
    'filename YQ== ,b  YQ==',
  ],
  // Values that are not Base64, or not its canonical form.
  ...[
    '!!!!',
    'YQ',
    'YQ=',
    'YQ===',
    'YR==',
    'YWJ',
    'YWJ=YWJj',
    '=YQ=',
    'YQ==YQ==',
    'Y Q==',
    'YWI-',
    'YWI_',
    'ÿÿÿÿ',
  ].map((value) => `filename ${value}`),
  // Keys.
  ...[
    'filename YQ==,filename Yg==',
    'a,a',
    `${Buffer.from('ключ').toString('latin1')} YQ==`,
    'a\tb YQ==',
    'é YQ==',
    '\u007f YQ==',
  ],
  ...['__proto__ YQ==', 'constructor YQ==', 'toString YQ==', 'hasOwnProperty YQ==', '__proto__'],
  Array.from({ length: 65 }, (_, index) => `k${index}`).join(','),
  Array.from({ length: 3000 }, () => 'k').join(','),
  `note ${base64('x'.repeat(10_000))}`,
  `${'k'.repeat(9000)} YQ==`,
  `sha256 ${base64('abc')}`,
  `sha256 ${base64('g'.repeat(64))}`,
  `sha256 ${base64(Buffer.alloc(64, 0xff))}`,
  ...[
    '{',
    'x',
    '1',
    '[]',
    '"x"',
    '{"quality":0}',
    '{"maxWidth":1e400}',
    '{"\\u0000":1}',
    '{"__proto__":{}}',
    '['.repeat(4000),
  ].map((value) => `settings ${base64(value)}`),
  ...['a\0', 'a\nb', 'a\u0085b', 'a\u2028b'].map((value) => `note ${base64(value)}`),
  `filetype ${base64('text/plain\r\nX: y')}`,
];

/** Odd values of Upload-Metadata that must be taken. */
export const ODD_METADATA = [
  ...[
    '',
    ' ',
    '\t',
    ',',
    ',,',
    ' , ',
    'note,',
    ',note',
    'note YQ==,',
    'note YQ== ,\t',
    'a YQ==, b YQ==',
    'a YQ==\t,\tb , c YQ==',
  ],
  // UTF-8 that is none: bytes alone, cut off, too long, surrogates, beyond the last character, with NUL and controls.
  ...[
    ...[
      'ff',
      '80',
      'c3',
      'e282',
      'f09f98',
      'c0af',
      'e080af',
      'eda080',
      'edb080',
      'eda080edb080',
      'f4908080',
      'fe',
    ],
    ...['00ff', 'ff00', 'ff1b5b33316d', 'ff0d0a', 'c080', 'ffffffff0000'],
  ].flatMap((hex) =>
    ['note', 'filename', 'name', 'filetype', 'type'].map(
      (key) => `${key} ${base64(Buffer.from(`61${hex}62`, 'hex'))}`,
    ),
  ),
];

const NO_UPLOAD = '/uploads/018f0000-0000-7000-8000-000000000000';

/** Values of Upload-Concat that are refused, by their status. `@` stands for the address of a partial upload. */
export const BAD_CONCATS: Record<number, string[]> = {
  // They are neither `partial` nor a list of addresses.
  400: [
    ...[
      '',
      'Partial',
      'PARTIAL',
      'partial;',
      'partial;@',
      'partial @',
      'partial, partial',
      'partial, final;@',
    ],
    ...['final', 'final;', 'final; ', 'final:@', 'final,@', 'final=@', 'final ;@', 'Final;@', 'finally;@'],
    ...['final;\t@', '"final;@"', ';@', '@', '__proto__', 'constructor'],
  ],
  // A part of them is the address of no upload.
  404: [
    ...[
      'final;@,@',
      'final;@;@',
      'final;@ final;@',
      'final;@, @',
      'final;@\t@',
      'final;"@"',
      'final;;',
      'final;?@',
    ],
    ...[
      'final;@/x',
      'final;/@',
      'final;@/..',
      'final;@/../..',
      'final;/%75ploads@',
      'final;/x@',
      'final;x@',
      'final;//evil.example/@',
      'final;/%2f@',
      'final;@%00',
    ],
    ...['final;@%20', 'final;@%2f', 'final;@%zz', 'final;@\u00ff', 'final;http:', 'final;http://[::1@'],
    ...['final;javascript:@', 'final;data:@', 'final;file://@', 'final;ftp://localhost@', 'final;urn:x:@'],
    ...['final;http://localhost:99999@', 'final;../../etc/passwd', 'final;/api/files', 'final;/uploads'],
    ...['final;/uploads/', 'final;/uploads/null', 'final;/uploads/*', 'final;/uploads/%'],
    ...["final;/uploads/' OR 1=1 --", `final;/uploads/${'a'.repeat(8000)}`, `final;${NO_UPLOAD}`],
    ...[`final;@ ${NO_UPLOAD}`, `final;${NO_UPLOAD} @`, `final;${`${NO_UPLOAD} `.repeat(250)}`],
  ],
  431: [`final;${'@ '.repeat(400)}`, `final;${'/ '.repeat(9000)}`],
};

/** Odd values of Upload-Concat that must be taken. */
export const ODD_CONCATS = [
  ...[
    'final;@/',
    'final;@?x=%',
    'final;@#%00',
    'final;  @   @  ',
    'final;@ @ @',
    'final;.@/./',
    'final;/x/..@',
  ],
  ...['final;https://another.example:99@', `final;${'@ '.repeat(300)}`],
];

/** Values of the structured fields (RFC 9651) of resumable uploads, besides VALUES. */
export const ODD_STRUCTURED_FIELDS = [
  ...['?1', '?0', '?2', '?', '?1;a', '?1;', '?1, ?0', '?1;a="', '5;a=b', '(1 2)', ':AAAA:', ':', '::'],
  ...['sha-256', 'sha-256=', 'sha-256=1', 'sha-256=:AAAA', 'sha-256=:AAAA:', 'sha-256=:!:', 'sha-256=::'],
  ...[`sha-256=:${'A'.repeat(43)}=:`, `sha-512=:${'A'.repeat(9000)}:`, 'sha-256=:AAAA:,', ',sha-256=:AAAA:'],
  ...['a,'.repeat(4000), ';a'.repeat(4000), '__proto__=:AAAA:', 'constructor', '999999999999999', '1e3', '٣'],
  ...[
    'attachment; filename="',
    "inline; filename*=UTF-8''%zz",
    "inline; filename*=UTF-8''%00",
    'inline; filename=".."',
  ],
  ...["inline; filename*=iso-8859-1''%e9", 'inline; filename="\\"', `inline; filename="${'x'.repeat(8000)}"`],
];

/** Bodies of JSON requests that no route takes, as bytes. */
export const BAD_JSON: (string | Buffer)[] = [
  ...[
    '{',
    '}',
    '[',
    '{"a"',
    '{"a":}',
    "{'a':1}",
    '{a:1}',
    '{"a":1,}',
    '{"a":1}{"b":2}',
    '// x',
    'NaN',
    'undefined',
  ],
  ...[
    'null',
    'true',
    '0',
    '1e999',
    '""',
    '"text"',
    '[]',
    '[{}]',
    '[[]]',
    '{}',
    '{"email":null}',
    '{"email":{}}',
  ],
  ...['{"email":["a@b.org"],"password":"long enough"}', '{"email":"a@b.org","password":{"$ne":1}}'],
  ...['\\u0000', '\\ud800', '\\udc00\\ud800'].flatMap((half) => [
    `{"email":"a${half}@example.org","password":"long enough"}`,
    `{"email":"a@example.org","password":"long${half}enough"}`,
    `{"${half}":1,"email":"a@example.org","password":"long enough"}`,
    `{"refreshToken":"${half}","name":"${half}","label":"${half}"}`,
  ]),
  '{"email":"a@example.org","email":"b@example.org","password":""}',
  '{"__proto__":{"role":"admin"},"email":"x","password":"y"}',
  '{"constructor":{"prototype":{"role":"admin"}}}',
  `${'['.repeat(50_000)}${']'.repeat(50_000)}`,
  `${'{"a":'.repeat(15_000)}1${'}'.repeat(15_000)}`,
  '['.repeat(100_000),
  `[${'0,'.repeat(45_000)}0]`,
  `{"email":"${'a'.repeat(90_000)}@example.org","password":"long enough"}`,
  `{"email":"${'a@'.repeat(10_000)}","password":"long enough"}`,
  `{"email":"a@example.org","password":"${'x'.repeat(99_000)}"}`,
  `{"a":${'9'.repeat(90_000)}}`,
  'x'.repeat(200_000),
  Buffer.from([0]),
  Buffer.from([0xff, 0xfe, 0x7b, 0x00, 0x7d, 0x00]),
  Buffer.from('{"email":"\xff\xfe","password":"x"}', 'latin1'),
  Buffer.from('{"email":"\xed\xa0\x80","password":"x"}', 'latin1'),
  Buffer.from('\ufeff{}'),
  Buffer.from('\ufeff\ufeff{}'),
];

/** Targets of requests, as they stand in the request line. */
export const PATHS = [
  ...[
    '0',
    '-1',
    '0197f000-0000-7000-8000-000000000000',
    '0197f000-0000-7000-8000-000000000000-',
    '0197f000-0000-7000-8000-000000000000-0',
    '0197f000-0000-7000-8000-000000000000-1e9',
    '0197f000-0000-7000-8000-000000000000-2147483648',
    '0197f000-0000-7000-8000-000000000000-999999999',
    '0197F000-0000-7000-8000-000000000000-1',
    '%00-1',
    '..%2f..%2f-1',
  ].flatMap((id) => [`/api/admin/jobs/${id}`, `/api/admin/jobs/${id}/retry`]),
  '/api/admin/queue/',
  '/api/admin/queue/drain',
  ...[
    '/%',
    '/%zz',
    '/%00',
    '/%c0%af',
    '/%ff',
    '/%2e%2e/%2e%2e/etc/passwd',
    '/..%2f..%2fetc%2fpasswd',
    '/../../etc/passwd',
  ],
  ...[
    '/..\\..\\etc',
    '/.env',
    '/.git/config',
    '//',
    '///etc/passwd',
    '//evil.example/',
    '/\\evil',
    '/;',
    '/assets/../../package.json',
  ],
  ...[
    '/assets/%2e%2e/%2e%2e/%2e%2e/package.json',
    '/assets/',
    '/assets',
    '/index.html/..',
    '/index.html%00.js',
    '/api',
    '/api/',
  ],
  ...[
    '/api//files',
    '/api/files/',
    '/API/FILES',
    '/api/files/%00',
    '/api/files/%zz',
    '/api/files/..%2f..',
    '/api/files/1',
  ],
  ...[
    "/api/files/' OR 1=1 --".replaceAll(' ', '%20'),
    '/api/files/null',
    '/api/files/undefined',
    '/api/files/[object%20Object]',
  ],
  ...['/api/files/00000000-0000-0000-0000-000000000000', '/api/files/ffffffff-ffff-ffff-ffff-ffffffffffff'],
  ...[
    '/api/files/018f0000-0000-7000-8000-000000000000/content',
    '/api/files/x/thumbnails/huge',
    '/api/files/x/thumbnails/__proto__',
    '/api/files/018f0000-0000-7000-8000-000000000000/steps/__proto__',
    '/api/files/018f0000-0000-7000-8000-000000000000/steps/%00?token=1-1.A',
    '/api/files/018f0000-0000-7000-8000-000000000000/steps/x?token=1-1&token=1-1',
    '/api/files/x/optimized',
    '/api/processing/settings/__proto__',
    '/api/processing/settings/constructor/constructor',
    '/api/processing/settings/%00/%ff',
    '/api/processing/settings/validate',
  ],
  ...[
    '/api/uploads/%ff',
    '/api/uploads/presign',
    '/api/me/sessions/%00',
    '/api/me/sessions/x',
    '/api/keys/x',
    '/api/admin/users/x',
  ],
  ...[
    `/api/files/${'a'.repeat(8000)}`,
    `/${'a/'.repeat(4000)}`,
    `/api/files/${'%41'.repeat(4000)}`,
    '/uploads/%',
    '/uploads/%00',
  ],
  ...[
    '/uploads//',
    '/uploads/../api/me',
    '/uploads/%2e%2e/api',
    '/uploads/\\',
    '/uploads/[',
    '/uploads/x?y=%',
    '/uploads;a=b',
  ],
  ...[
    '/admin/queues/%',
    '/admin/queues/api/queues?page=x',
    '/admin/queues/api/queues/x/y',
    '/admin/queues/static/../../package.json',
  ],
  ...[
    '/health/%00',
    '/health/ready?x=%00',
    '*',
    'http://evil.example/api/me',
    'http://evil.example/uploads',
    'https://[::1',
    'evil:80',
  ],
  ...[
    '/#',
    '/api/me#x',
    '/?',
    '/??',
    '/?=',
    '/?&&&',
    '/?%',
    '/?%00',
    '/?a[b]=c',
    '/?__proto__[x]=y',
    '/\u00ff',
    '/ü',
  ],
];

/** Queries of lists. */
export const QUERIES = [
  ...[
    ...['limit', 'cursor', 'token', 'permanent', 'download', 'sort', 'q', 'status', 'type', 'from', 'to'],
    ...['minSize', 'maxSize', 'deleted', 'size', 'settings'],
  ].flatMap((name) => [
    ...[
      `${name}=`,
      `${name}=%00`,
      `${name}=%ff`,
      `${name}=%`,
      `${name}=a&${name}=b`,
      `${name}[]=1`,
      `${name}[a]=1`,
    ],
    ...[
      `${name}=-1`,
      `${name}=1e9`,
      `${name}=99999999999999999999`,
      `${name}=${'9'.repeat(500)}`,
      `${name}=%27--`,
    ],
  ]),
  ...[
    '__proto__=1',
    '__proto__[limit]=1',
    'constructor.prototype.limit=1',
    '%',
    '&'.repeat(2000),
    'a=&'.repeat(2000),
  ],
  ...[
    'cursor=999999999999999.018f0000-0000-7000-8000-000000000000',
    'cursor=-1.018f0000-0000-7000-8000-000000000000',
    ...['W10', 'bnVsbA', 'WyIiLCIiLCIiXQ', 'W'.repeat(13_000)].map((cursor) => `cursor=${cursor}`),
  ],
  ...[
    ...['q=%25', 'q=_', 'q=%5C', 'q=%5C%5C%25', 'q=%ED%A0%80', 'q=%F0%9F%98%80', 'q=a%E2%80%A8b', 'q=%C2%85'],
    ...[`q=${'%EF%B7%BA'.repeat(200)}`, `q=${'a+'.repeat(9)}a`, `q=${'%25'.repeat(200)}`, 'q=%27%20OR%201=1'],
    ...[
      'type=image/*',
      'type=*/*',
      'type=image/%25',
      'type=__proto__/*',
      'sort=-filename',
      'sort=id;--',
      'sort=-',
    ],
    ...['from=0000-01-01T00:00:00Z', 'to=9999-12-31T23:59:59.999Z', 'from=275760-09-13T00:00:00Z'],
    ...['minSize=999999999999999', 'minSize=0x1', 'maxSize=-0', 'deleted=1&sort=size', 'deleted=1&q=%25'],
  ],
];

/** The boundary of all the forms below. */
export const FORM_BOUNDARY = 'B';

const FILE = '--B\r\nContent-Disposition: form-data; name="f"; filename="a.txt"\r\n\r\ncontent\r\n';
const FIELD = '--B\r\nContent-Disposition: form-data; name="f"\r\n\r\nvalue\r\n';
const FORM_END = '--B--\r\n';

/** Forms that are refused with 400, whatever else is in them. */
export const BAD_FORMS: [what: string, body: string][] = [
  ['nothing', ''],
  ['only its end', FORM_END],
  ['two ends', FORM_END + FORM_END],
  ['three ends with lines between', `\r\n${FORM_END}\r\n\r\n${FORM_END}\n${FORM_END}`],
  ['an end within the headers of a part', FILE.replace('\r\n\r\n', `\r\n${FORM_END}\r\n`) + FORM_END],
  ['fields only', FIELD + FIELD + FORM_END],
  ['a file without an end', FILE.slice(0, -2)],
  ['a file without an end of the form', FILE],
  ['half an end', `${FILE}--B-`],
  ['another boundary', (FILE + FORM_END).replaceAll('--B', '--C')],
  ['boundaries and nothing between', '--B\r\n'.repeat(10_000) + FORM_END],
  ['10,000 files', FILE.repeat(10_000) + FORM_END],
  ['10,000 fields', FIELD.repeat(10_000) + FORM_END],
  ['10,000 parts that are nothing', '--B\r\nX: y\r\n\r\n\r\n'.repeat(10_000) + FORM_END],
  ['only a part that is nothing, of 20 kB', `--B\r\nX: y\r\n\r\n${'x'.repeat(20_000)}\r\n${FORM_END}`],
  ['CR for CRLF', (FILE + FORM_END).replaceAll('\r\n', '\r')],
  ['LF for CRLF', (FILE + FORM_END).replaceAll('\r\n', '\n')],
  ['CR alone behind the headers', FILE.replace('\r\n\r\n', '\r\r\n') + FORM_END],
  ['headers without an end, of 100 kB', `--B\r\nX: ${'x'.repeat(100_000)}`],
  ['a preamble of 3 MB', 'x'.repeat(3e6) + FILE + FORM_END],
  ['an epilogue of 3 MB', FILE + FORM_END + 'x'.repeat(3e6)],
  ['an epilogue of 400,000 ends', FILE + FORM_END.repeat(400_000)],
  [
    'a form within a form',
    `--B\r\nContent-Disposition: form-data; name="f"\r\nContent-Type: multipart/mixed; boundary=C\r\n\r\n${(FILE + FORM_END).replaceAll('--B', '--C')}\r\n${FORM_END}`,
  ],
];

/** Odd forms that hold one file, which must be accepted. */
export const ODD_FORMS: [what: string, body: string][] = [
  ['a preamble of 20 kB', `${'x'.repeat(20_000)}\r\n${FILE}${FORM_END}`],
  ['an epilogue of 200 kB', FILE + FORM_END + 'x'.repeat(200_000)],
  ['a second form behind its end', FILE + FORM_END + FILE + FORM_END],
  ['a boundary twice', `--B\r\n--B\r\n${FILE}${FORM_END}`],
  ['a part that is nothing, of 20 kB', `${FILE}--B\r\nX: y\r\n\r\n${'x'.repeat(20_000)}\r\n${FORM_END}`],
  ['a field of 200 kB', FILE + FIELD.replace('value', 'x'.repeat(200_000)) + FORM_END],
  ['100 kB of headers', FILE.replace('\r\n\r\n', `\r\nX: ${'x'.repeat(100_000)}\r\n\r\n`) + FORM_END],
];

/** The pieces that mutated forms are made of. */
export const FORM_PIECES = [
  ...[
    FILE,
    FIELD,
    '--B\r\n',
    '--B',
    '--B--',
    FORM_END,
    '\r\n--B--\r\n--B\r\n',
    '\r\n--B-',
    '--B \r\n',
    '--Bx',
  ],
  ...[
    '\r\n',
    '\r\n\r\n',
    '\n',
    '\r',
    '\0',
    '-',
    ': ',
    'X: y',
    'words',
    'x'.repeat(20_000),
    'x'.repeat(70_000),
  ],
  ...[
    'Content-Disposition: form-data; name="f"; filename="a.txt"',
    'Content-Disposition: form-data; name="f"',
  ],
  ...[
    'Content-Disposition: form-data; name="f"; filename=""',
    'Content-Disposition: attachment',
    'Content-Type: ',
  ],
  ...[`Content-Disposition: form-data; name="f"; filename*=UTF-8''%e2%82%zz`, 'Content-Type: x; charset=y'],
];

/** Addresses that no webhook may have, unless private networks are allowed. */
export const BAD_RECEIVERS = [
  ...[
    '',
    'x',
    '//evil.example/',
    'http://',
    'http:',
    'https://:443/',
    'http://[::1',
    'http://a b/',
    'http://%00/',
  ],
  ...[
    'file:///etc/passwd',
    'ftp://a.example/',
    'javascript:alert(1)',
    'data:text/plain,x',
    'gopher://a.example:70/',
  ],
  ...[
    'unix:/run/docker.sock',
    'ws://a.example/',
    'http+unix://%2Frun%2Fdocker.sock/',
    'blob:https://a.example/x',
  ],
  ...['https://user@a.example/', 'https://user:password@a.example/', 'https://:password@a.example/'],
  ...[
    'http://127.0.0.1/',
    'http://127.1/',
    'http://127.255.255.254:8080/',
    'http://2130706433/',
    'http://0x7f.1/',
  ],
  ...['http://0177.0.0.1/', 'http://127.0.0.1./', 'http://①②⑦.0.0.1/', 'http://0/', 'http://0.0.0.0/'],
  ...[
    'http://10.0.0.1/',
    'http://172.16.0.1/',
    'http://172.31.255.255/',
    'http://192.168.1.1/',
    'http://3232235777/',
  ],
  ...[
    'http://169.254.169.254/latest/meta-data/',
    'http://100.64.0.1/',
    'http://100.100.100.200/',
    'http://192.0.0.192/',
  ],
  ...[
    'http://198.18.0.1/',
    'http://192.0.2.1/',
    'http://224.0.0.1/',
    'http://240.0.0.1/',
    'http://255.255.255.255/',
  ],
  ...[
    'http://[::1]/',
    'http://[::]/',
    'http://[::ffff:127.0.0.1]/',
    'http://[::ffff:7f00:1]/',
    'http://[::127.0.0.1]/',
  ],
  ...[
    'http://[::ffff:0:127.0.0.1]/',
    'http://[64:ff9b::127.0.0.1]/',
    'http://[64:ff9b::a00:1]/',
    'http://[64:ff9b:1::1]/',
  ],
  ...[
    'http://[2002:7f00:1::]/',
    'http://[2001::1]/',
    'http://[2001:db8::1]/',
    'http://[fe80::1]/',
    'http://[fec0::1]/',
  ],
  ...[
    'http://[fc00::1]/',
    'http://[fd00:ec2::254]/',
    'http://[ff02::1]/',
    'http://[100::1]/',
    'http://[4000::1]/',
  ],
  `https://a.example/${'x'.repeat(2000)}`,
];
