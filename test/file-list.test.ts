import { randomUUID } from 'node:crypto';
import { type FileJson, registerUser, type TestUser } from './support/client.js';
import { restore, trash } from './support/deletions.js';
import { type Processes, startProcesses } from './support/processes.js';
import { type StoredFile, storeFiles } from './support/stored-files.js';

/*
 * Finding files: the filters, orders and pages of GET /api/files. file-list-plans.test.ts asks PostgreSQL how it finds
 * them.
 */

let processes: Processes;
let user: TestUser;

beforeAll(async () => {
  processes = await startProcesses({ RATE_LIMIT_STATUS: '0', RATE_LIMIT_GLOBAL: '0' }, ['server']);
  user = await newUser([]);
});

afterAll(() => processes?.close());

async function newUser(files: StoredFile[]): Promise<TestUser> {
  const made = await registerUser(() => processes.url);
  await storeFiles(processes.database, made.id, files);
  return made;
}

const pathOf = (query: Record<string, string>) => `/api/files?${new URLSearchParams(query)}`;

async function list(who: TestUser, query: Record<string, string> = {}): Promise<FileJson[]> {
  return (await who.get(pathOf({ limit: '200', ...query }))).items;
}

/** The problem that a request is answered with. */
const refusalOf = async (who: TestUser, path: string) => (await who.fetch(path)).json();

const namesOf = async (who: TestUser, query: Record<string, string>) =>
  (await list(who, query)).map(({ filename }) => filename);

/** All pages, with something done between them. */
async function readPages(
  who: TestUser,
  query: Record<string, string>,
  between: (page: number) => Promise<unknown> = async () => {},
): Promise<FileJson[]> {
  const seen: FileJson[] = [];
  let cursor: string | null = null;
  for (let page = 1; page === 1 || cursor !== null; page++) {
    const asked = { limit: '7', ...query, ...(cursor !== null && { cursor }) };
    const answer: { items: FileJson[]; nextCursor: string | null } = await who.get(pathOf(asked));
    seen.push(...answer.items);
    cursor = answer.nextCursor;
    await between(page);
  }
  return seen;
}

/** The page size and the number of files have no common factor, and each value occurs several times. */
const TIED: StoredFile[] = Array.from({ length: 45 }, (_, n) => ({
  filename: ['b.txt', 'A.txt', 'c.txt'][n % 3] ?? '',
  size: [500, 20, 1000, 3][n % 4] ?? 0,
  createdAt: `2026-05-0${1 + (n % 5)}T10:00:00.123456Z`,
}));

const VALUES: Record<string, (file: FileJson) => string | number> = {
  createdAt: ({ createdAt }) => createdAt,
  size: ({ size }) => size,
  filename: ({ filename }) => filename.toUpperCase(),
};

describe('pages', () => {
  it.each(Object.keys(VALUES).flatMap((by) => [by, `-${by}`]))(
    'sorted by %s show each file once, while others come and go',
    async (sort) => {
      const owner = await newUser(TIED);
      const before = (await list(owner, { sort })).map(({ id }) => id);
      expect(before).toHaveLength(TIED.length);
      const seen = await readPages(owner, { sort }, async (page) => {
        await storeFiles(processes.database, owner.id, TIED.slice(0, 10));
        // A file that was shown already goes.
        if (page === 2) expect(await trash(owner, before[0] ?? '')).toBe(204);
      });
      const ids = seen.map(({ id }) => id);
      expect(new Set(ids).size).toBe(ids.length);
      expect(ids.filter((id) => before.includes(id))).toEqual(before);
      const value = VALUES[sort.replace('-', '')] ?? (() => '');
      const sign = sort.startsWith('-') ? -1 : 1;
      const sorted = seen.toSorted((a, b) => (value(a) < value(b) ? -sign : value(a) > value(b) ? sign : 0));
      expect(seen.map(value)).toEqual(sorted.map(value));
    },
  );

  it('hold what the filters say, whichever limits they have', async () => {
    const owner = await newUser(TIED);
    const query = { maxSize: '500', q: 'txt', sort: 'filename' };
    const all = await list(owner, query);
    expect(all.length).toBeGreaterThan(20);
    expect(await readPages(owner, query)).toEqual(all);
    const { items, nextCursor } = await owner.get(pathOf({ ...query, limit: '3' }));
    const rest = await owner.get(pathOf({ ...query, limit: '200', cursor: nextCursor }));
    expect([...items, ...rest.items]).toEqual(all);
    expect(rest.nextCursor).toBeNull();
  });

  it('continue behind a file that is gone, and behind the longest name', async () => {
    const name = '\ufdfa'.repeat(255);
    const owner = await newUser([
      { filename: 'a' },
      { filename: name },
      { filename: name },
      { filename: name },
    ]);
    const first = await owner.get(pathOf({ sort: 'filename', limit: '2' }));
    expect(await trash(owner, first.items[1].id)).toBe(204);
    const second = await owner.get(pathOf({ sort: 'filename', limit: '2', cursor: first.nextCursor }));
    expect(second.items.map(({ filename }: FileJson) => filename)).toEqual([name, name]);
    expect(second.nextCursor).toBeNull();
  });
});

describe('cursors', () => {
  const OTHERS: Record<string, string>[] = [
    { status: 'completed' },
    { type: 'image/*' },
    { q: 'txt' },
    { from: '2026-05-02T10:00:00Z' },
    { to: '2026-05-02T10:00:00Z' },
    { minSize: '1' },
    { maxSize: '1' },
    { sort: 'createdAt' },
    { sort: 'size' },
    { deleted: '1' },
  ];
  let owner: TestUser;
  let cursor: string;

  beforeAll(async () => {
    owner = await newUser(TIED);
    cursor = (await owner.get(pathOf({ limit: '5' }))).nextCursor;
  });

  it('are refused by a list with another filter, order or owner', async () => {
    const foreign = /^cursor in the query: is of a list with other filters or another order/;
    for (const query of OTHERS) {
      const problem = await refusalOf(owner, pathOf({ ...query, cursor }));
      expect(problem).toMatchObject({
        status: 400,
        code: 'invalid_request',
        detail: expect.stringMatching(foreign),
      });
    }
    expect((await refusalOf(user, pathOf({ cursor }))).detail).toMatch(foreign);
    expect((await owner.fetch(pathOf({ cursor, sort: '-createdAt', limit: '9' }))).status).toBe(200);
  });

  it('are refused when they are malformed or forged', async () => {
    const [hash, key, id] = JSON.parse(Buffer.from(cursor, 'base64url').toString());
    const forged = (...content: unknown[]) => Buffer.from(JSON.stringify(content)).toString('base64url');
    expect(forged(hash, key, id)).toBe(cursor);
    const malformed = [
      ...['next', '0', `1.${randomUUID()}`, forged(), forged(hash, key), forged(hash, key, id, 1)],
      ...[
        forged(hash, Number(key), id),
        forged(hash, '-1', id),
        forged(hash, '', id),
        forged(hash, '1 ', id),
      ],
      ...[
        forged(hash, '9'.repeat(18), id),
        forged(hash, `${key}\0`, id),
        forged(hash, key, 'x'),
        forged(hash, key, null),
      ],
      ...['%00', 'null', cursor.slice(0, -3), `${cursor.slice(0, 20)}*${cursor.slice(20)}`],
    ];
    for (const text of malformed) {
      const problem = await refusalOf(owner, pathOf({ cursor: text }));
      expect([text, problem.status, problem.detail]).toEqual([
        text,
        400,
        expect.stringMatching(/^cursor in the query: /),
      ]);
    }
    // These positions are not in the list, but they are positions.
    for (const at of ['0', '9'.repeat(17)]) {
      expect((await owner.fetch(pathOf({ cursor: forged(hash, at, id) }))).status).toBe(200);
    }
  });
});

describe('filters', () => {
  let owner: TestUser;

  beforeAll(async () => {
    const stranger = await newUser([{ filename: 'of a stranger', status: 'failed', size: 20 }]);
    expect(await list(stranger)).toHaveLength(1);
    owner = await newUser([
      {
        filename: 'photo',
        size: 10,
        detectedType: 'image/jpeg',
        declaredType: 'text/plain',
        createdAt: '2026-01-01T00:00:00.000001Z',
      },
      {
        filename: 'drawing',
        size: 20,
        declaredType: 'Image/PNG; q="a;b"',
        status: 'pending',
        createdAt: '2026-01-02T00:00:00Z',
      },
      {
        filename: 'letter',
        size: 30,
        detectedType: 'application/pdf',
        status: 'failed',
        createdAt: '2026-01-03T00:00:00Z',
      },
      { filename: 'mail', size: 40, detectedType: 'text/plain', createdAt: '2026-01-04T00:00:00Z' },
      { filename: 'unknown', size: 0, status: 'infected', createdAt: '2026-01-05T00:00:00Z' },
      {
        filename: 'imagery',
        size: 5_000_000_000,
        detectedType: 'image0/x',
        createdAt: '2026-01-06T00:00:00Z',
      },
      { filename: 'gone', size: 20, detectedType: 'image/png', deletedAt: '2026-02-01T00:00:00Z' },
    ]);
  });

  it.each([
    [{ status: 'completed' }, ['imagery', 'mail', 'photo']],
    [{ status: 'pending' }, ['drawing']],
    [{ status: 'infected' }, ['unknown']],
    [{ status: 'paused' }, []],
    [{ type: 'image/jpeg' }, ['photo']],
    [{ type: 'image/png' }, ['drawing']],
    [{ type: 'IMAGE/PNG' }, ['drawing']],
    [{ type: 'text/plain' }, ['mail']],
    [{ type: 'image/*' }, ['drawing', 'photo']],
    [{ type: 'video/*' }, []],
    [{ from: '2026-01-04T00:00:00Z' }, ['imagery', 'unknown', 'mail']],
    [{ from: '2026-01-06T01:00:00+01:00' }, ['imagery']],
    [{ to: '2026-01-02T00:00:00Z' }, ['photo']],
    [{ from: '2026-01-01T00:00:00Z', to: '2026-01-03T00:00:00Z' }, ['drawing', 'photo']],
    [{ from: '2026-01-03T00:00:00Z', to: '2026-01-01T00:00:00Z' }, []],
    [{ minSize: '40' }, ['imagery', 'mail']],
    [{ maxSize: '0' }, ['unknown']],
    [{ minSize: '20', maxSize: '30' }, ['letter', 'drawing']],
    [{ minSize: '999999999999999' }, []],
    [{ q: 'image' }, ['imagery']],
    [{ q: 'gone' }, []],
    [{ status: 'completed', type: 'image/*' }, ['photo']],
    [
      { status: 'pending', type: 'image/*', minSize: '20', q: 'draw', from: '2026-01-01T00:00:00Z' },
      ['drawing'],
    ],
    [{ status: 'pending', type: 'image/*', minSize: '21' }, []],
    [{ minSize: '20', maxSize: '40', sort: 'size' }, ['drawing', 'letter', 'mail']],
    [{ status: 'completed', sort: 'filename' }, ['imagery', 'mail', 'photo']],
  ] as [Record<string, string>, string[]][])('%j', async (query, names) => {
    expect(await namesOf(owner, query)).toEqual(names);
  });

  it.each([
    ['status=done', 'status'],
    ['status=', 'status'],
    ['status=failed&status=completed', 'status'],
    ['status=failed,completed', 'status'],
    ['type=image', 'type'],
    ['type=*/*', 'type'],
    ['type=image/p*', 'type'],
    ['type=image/%', undefined],
    ['type=image/%25', 'type'],
    ['q=', 'q'],
    ['q=%20%09', 'q'],
    ['q=a%00b', undefined],
    ['q=a%07b', 'q'],
    [`q=${'a'.repeat(201)}`, 'q'],
    [`q=${'a+'.repeat(11)}`, 'q'],
    ['from=yesterday', 'from'],
    ['from=2026-01-01', 'from'],
    ['to=2026-01-01T00:00:00', 'to'],
    ['minSize=-1', 'minSize'],
    ['minSize=1.5', 'minSize'],
    ['minSize=1e3', 'minSize'],
    ['maxSize=', 'maxSize'],
    [`maxSize=${'9'.repeat(20)}`, 'maxSize'],
    ['sort=name', 'sort'],
    ['sort=--size', 'sort'],
    ['sort=size;', 'sort'],
    ['deleted=true', 'deleted'],
    ['deleted=1&status=failed', 'status'],
    ['deleted=1&sort=size', 'sort'],
    ['deleted=1&minSize=0', 'minSize'],
  ])('refuse %s and name it', async (query, name) => {
    const problem = await refusalOf(user, `/api/files?${query}`);
    expect(problem).toMatchObject({ status: 400, code: 'invalid_request' });
    if (name) expect(problem.detail).toMatch(new RegExp(`^${name} in the query: `));
  });

  it('refuse parameters that do not exist, by name', async () => {
    for (const name of ['Status', 'offset', 'order', '__proto__', 'constructor']) {
      const problem = await refusalOf(user, `/api/files?${name}=1`);
      expect(problem).toMatchObject({ status: 400, detail: expect.stringContaining(name) });
    }
  });
});

describe('a search', () => {
  const NAMES = [
    ...[
      'Annual Report 2024.pdf',
      'report-final_v2.PDF',
      '100% sure.txt',
      '100 percent.txt',
      'a_b.txt',
      'aXb.txt',
    ],
    ...[
      'back\\slash.txt',
      'Größe.txt',
      'cafe\u0301.txt',
      'CAFÉ menu.txt',
      'Отчёт.docx',
      '報告書.docx',
      '１２３．txt',
    ],
    ...["it's.txt", 'ΣΊΣΥΦΟΣ.txt', '😀 party.png', '.htaccess', 'x(1)[2]{3}.txt'],
  ];
  let owner: TestUser;

  beforeAll(async () => {
    owner = await newUser(
      NAMES.map((filename, n) => ({ filename, status: n % 2 ? 'completed' : 'processing' })),
    );
  });

  const CASES: [q: string, names: string[]][] = [
    ['report', ['Annual Report 2024.pdf', 'report-final_v2.PDF']],
    ['REPORT pdf', ['Annual Report 2024.pdf', 'report-final_v2.PDF']],
    ['pdf  2024 annual', ['Annual Report 2024.pdf']],
    ['nnual rep', ['Annual Report 2024.pdf']],
    ['report nothing', []],
    ['100%', ['100% sure.txt']],
    ['%', ['100% sure.txt']],
    ['％', ['100% sure.txt']],
    ['_', ['a_b.txt', 'report-final_v2.PDF']],
    ['a_b', ['a_b.txt']],
    ['\\', ['back\\slash.txt']],
    ['k\\s', ['back\\slash.txt']],
    ['\\%', []],
    ['größe', ['Größe.txt']],
    ['café', ['CAFÉ menu.txt', 'cafe\u0301.txt']],
    ['CAFE\u0301', ['CAFÉ menu.txt', 'cafe\u0301.txt']],
    ['отчёт', ['Отчёт.docx']],
    ['報告', ['報告書.docx']],
    ['123.', ['１２３．txt']],
    ["it's", ["it's.txt"]],
    ["'; DROP TABLE files; --", []],
    ['σίσυφοσ', ['ΣΊΣΥΦΟΣ.txt']],
    ['😀', ['😀 party.png']],
    ['.ht', ['.htaccess']],
    ['(1)[2]{3}', ['x(1)[2]{3}.txt']],
    ['.*', []],
    ['$1', []],
    ['\\1', []],
  ];
  const all = async () => {
    const found = [];
    for (const [q] of CASES) found.push([q, (await namesOf(owner, { q })).sort()]);
    return found;
  };
  const expected = CASES.map(([q, names]) => [q, names.toSorted()]);

  it('finds words anywhere in names, whatever their case and composition', async () => {
    expect(await all()).toEqual(expected);
  });

  it('finds the same without an index of names', async () => {
    await processes.database.query('DROP INDEX files_search_idx');
    expect(await all()).toEqual(expected);
  });
});

describe('the trash', () => {
  it('is a list of its own, with the file that was deleted last first', async () => {
    const owner = await newUser([{ filename: 'stays.txt' }]);
    const ids: string[] = [];
    for (const name of ['one.txt', 'two.txt', 'three.txt']) {
      ids.push(await owner.upload(Buffer.from(name), { filename: name }));
    }
    for (const id of ids) expect(await trash(owner, id)).toBe(204);
    expect(await namesOf(owner, {})).toEqual(['stays.txt']);
    const items = await readPages(owner, { deleted: '1', limit: '2' });
    expect(items.map(({ id }) => id)).toEqual(ids.toReversed());
    for (const { deletedAt, links } of items) {
      expect(new Date(deletedAt ?? '').getTime()).toBeGreaterThan(Date.now() - 60_000);
      expect(links).toEqual({ content: null, image: null, thumbnails: null });
    }
    expect(await namesOf(owner, { deleted: '1', q: 'TWO' })).toEqual(['two.txt']);
    expect(await namesOf(user, { deleted: '1' })).toEqual([]);

    expect(await restore(owner, ids[1] ?? '')).toBe(200);
    expect(await namesOf(owner, { deleted: '1' })).toEqual(['three.txt', 'one.txt']);
    expect((await list(owner))[0]).toMatchObject({ filename: 'two.txt', deletedAt: null });
  });

  it('shows files once that were deleted at the same moment', async () => {
    const deleted = Array.from({ length: 20 }, (_, n) => ({
      filename: `${n}.txt`,
      deletedAt: `2026-03-04T05:06:07.00000${n % 3}Z`,
    }));
    const owner = await newUser(deleted);
    const items = await readPages(owner, { deleted: '1', limit: '3' });
    expect(new Set(items.map(({ id }) => id)).size).toBe(deleted.length);
    expect(items).toHaveLength(deleted.length);
  });
});

describe('a list that is asked for again', () => {
  it('is answered with 304 until something in it changes', async () => {
    const owner = await newUser([{ filename: 'a.txt' }]);
    const ask = (tag: string | null, query: Record<string, string> = {}) =>
      owner.fetch(pathOf(query), { headers: tag === null ? {} : { 'If-None-Match': tag } });
    const first = await ask(null);
    const tag = first.headers.get('ETag');
    expect(tag).toMatch(/^W\/"[\w-]{22}"$/);
    expect(first.headers.get('Cache-Control')).toBe('private, no-cache');
    const again = await ask(tag);
    expect([again.status, again.headers.get('ETag'), await again.text()]).toEqual([304, tag, '']);
    expect((await ask(`"x", ${tag}`)).status).toBe(304);
    expect((await ask('W/"x"')).status).toBe(200);
    expect((await ask(tag, { q: 'b' })).status).toBe(200);

    await storeFiles(processes.database, owner.id, [{ filename: 'b.txt' }]);
    const changed = await ask(tag);
    expect(changed.status).toBe(200);
    expect((await changed.json()).items).toHaveLength(2);
    expect(changed.headers.get('ETag')).not.toBe(tag);
  });
});
