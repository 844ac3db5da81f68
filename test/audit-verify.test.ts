import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import type { DataSource } from 'typeorm';
import { openDatabase } from '../core/database/data-source.js';
import { appendEvents } from '../core/events/append.js';
import {
  type EventHead,
  FIRST_HASH,
  formatHead,
  HASHED_COLUMNS,
  hashEvent,
  readHead,
  sequenceEvents,
} from '../core/events/sequence.js';
import { verifyEvents } from '../core/events/verify.js';
import { registerUser } from './support/client.js';
import { createDatabase, type TestDatabase } from './support/database.js';
import { startSystem } from './support/system.js';
import { until } from './support/until.js';

/** More than are checked at a time. */
const COUNT = 1200;

const OWNER = '01890000-0000-7000-8000-00000000000a';

let test: TestDatabase;
let database: DataSource;
let head: EventHead;

beforeAll(async () => {
  test = await createDatabase();
  database = await openDatabase(test.url, 'audit test');
  await append(COUNT);
  head = await verifyEvents(database);
  await test.query('CREATE TABLE saved AS SELECT * FROM events');
});

afterAll(async () => {
  await database?.destroy();
  await test?.drop();
});

async function append(count: number): Promise<void> {
  const actor = { userId: OWNER, address: '192.0.2.1' };
  await appendEvents(
    database.manager,
    Array.from({ length: count }, (_, index) => ({
      type: 'upload.created' as const,
      subjectId: OWNER,
      ownerId: OWNER,
      data: { length: index },
      actor: index % 3 === 0 ? undefined : actor,
    })),
  );
}

/** Runs the statements as the owner of the table, with its triggers disabled. */
async function tamper(...statements: string[]): Promise<void> {
  await test.query('ALTER TABLE events DISABLE TRIGGER USER');
  for (const statement of statements) await test.query(statement);
  await test.query('ALTER TABLE events ENABLE TRIGGER USER');
}

async function restore(): Promise<void> {
  await tamper(
    'TRUNCATE events, event_inbox',
    'INSERT INTO events SELECT * FROM saved',
    'ALTER TABLE events ALTER hash SET NOT NULL',
    'ALTER TABLE events DROP CONSTRAINT IF EXISTS events_pkey',
    'ALTER TABLE events ADD CONSTRAINT events_pkey PRIMARY KEY (seq)',
    'DELETE FROM event_head',
    `INSERT INTO event_head (seq, hash) SELECT seq, hash FROM saved ORDER BY seq DESC LIMIT 1`,
  );
}

describe('the chain', () => {
  it('is whole, has no gaps, and begins where it says', async () => {
    expect(head.seq).toBe(COUNT);
    const { rows } = await test.query(`SELECT ${HASHED_COLUMNS} FROM events WHERE seq = 1`);
    const { rows: first } = await test.query('SELECT hash FROM events WHERE seq = 1');
    expect(first[0].hash).toEqual(hashEvent(FIRST_HASH, 1, rows[0]));
    expect(await verifyEvents(database)).toEqual(head);
  });

  it('of a log without events is whole too', async () => {
    const empty = await createDatabase();
    const other = await openDatabase(empty.url, 'audit test');
    try {
      expect(await verifyEvents(other)).toEqual({ seq: 0, hash: FIRST_HASH });
      expect(await verifyEvents(other, { seq: 0, hash: FIRST_HASH })).toEqual({ seq: 0, hash: FIRST_HASH });
    } finally {
      await other.destroy();
      await empty.drop();
    }
  });

  it('is checked while others append to it and number it', async () => {
    let done = false;
    let appended = 0;
    const others = await Promise.all([1, 2, 3].map(() => openDatabase(test.url, 'audit test')));
    const busy = others.map(async (other) => {
      while (!done) {
        await appendEvents(other.manager, [{ type: 'file.deleted', subjectId: OWNER, ownerId: OWNER }]);
        await sequenceEvents(other);
        appended++;
      }
    });
    try {
      await until('some events', () => appended > 10);
      for (let round = 0; round < 10; round++) await verifyEvents(database);
    } finally {
      done = true;
      await Promise.all(busy);
      await Promise.all(others.map((other) => other.destroy()));
    }
    expect((await verifyEvents(database)).seq).toBe(COUNT + appended);
    await restore();
  });
});

describe('the table refuses', () => {
  it.each([
    `UPDATE events SET type = 'file.step' WHERE seq = 7`,
    `UPDATE events SET actor = NULL WHERE seq = 8`,
    'UPDATE events SET seq = NULL WHERE seq = 7',
    'UPDATE events SET seq = seq + 1000000',
    'UPDATE events SET hash = NULL WHERE seq = 7',
    'DELETE FROM events WHERE seq = 7',
    'TRUNCATE events',
  ])('%s', async (statement) => {
    await expect(test.query(statement)).rejects.toThrow('events are only ever appended');
    expect(await verifyEvents(database)).toEqual(head);
  });

  it('to change an event that has no number yet', async () => {
    await append(1);
    await expect(test.query(`UPDATE event_inbox SET data = '{}'`)).rejects.toThrow('only ever');
    await restore();
  });
});

describe('verification finds', () => {
  afterEach(restore);

  const doesNotFit = /^event 1100 does not fit/;

  it.each([
    ['type', `type = 'file.step'`],
    ['subject', `subject_id = '01890000-0000-7000-8000-00000000000b'`],
    ['no subject', 'subject_id = NULL'],
    ['owner', `owner_id = '01890000-0000-7000-8000-00000000000b'`],
    ['data', `data = data || '{"more": 1}'`],
    ['actor', `actor = jsonb_set(actor, '{address}', '"192.0.2.2"')`],
    ['no actor', 'actor = NULL'],
    ['result', `result = 'refused'`],
    ['time', `created_at = created_at + interval '1 microsecond'`],
    ['hash', `hash = sha256('x')`],
  ])('a changed row: %s', async (_name, change) => {
    await tamper(`UPDATE events SET ${change} WHERE seq = 1100`);
    await expect(verifyEvents(database)).rejects.toThrow(doesNotFit);
  });

  it.each<[string, string[], RegExp]>([
    ['another id', ['UPDATE events SET id = 100000 WHERE seq = 1100'], doesNotFit],
    [
      'no hash',
      ['ALTER TABLE events ALTER hash DROP NOT NULL', 'UPDATE events SET hash = NULL WHERE seq = 1100'],
      doesNotFit,
    ],
    [
      'a row removed',
      ['DELETE FROM events WHERE seq = 1100'],
      /^event 1100 is missing: after 1099 comes 1101$/,
    ],
    [
      'rows removed',
      ['DELETE FROM events WHERE seq BETWEEN 900 AND 1050'],
      /^events 900 to 1050 are missing: after 899 comes 1051$/,
    ],
    ['the first row removed', ['DELETE FROM events WHERE seq = 1'], /^event 1 is missing: after 0 comes 2$/],
    [
      'the last row removed',
      [`DELETE FROM events WHERE seq = ${COUNT}`],
      /^event 1200 is missing at the end: the log ends with 1199, event_head says 1200$/,
    ],
    [
      'rows removed at the end',
      ['DELETE FROM events WHERE seq > 1150'],
      /^events 1151 to 1200 are missing at the end/,
    ],
    ['all rows removed', ['DELETE FROM events'], /^events 1 to 1200 are missing at the end/],
    [
      'rows swapped',
      [
        'ALTER TABLE events DROP CONSTRAINT events_pkey',
        'UPDATE events SET seq = CASE seq WHEN 1100 THEN 1101 ELSE 1100 END WHERE seq IN (1100, 1101)',
      ],
      doesNotFit,
    ],
    [
      'a row put in, and those after it moved',
      [
        'ALTER TABLE events DROP CONSTRAINT events_pkey',
        'UPDATE events SET seq = seq + 1 WHERE seq >= 1100',
        `INSERT INTO events (id, seq, type, hash) VALUES (7, 1100, 'file.step', sha256('x'))`,
        'UPDATE event_head SET seq = seq + 1',
      ],
      doesNotFit,
    ],
    [
      'a row put in under a number that is taken',
      [
        'ALTER TABLE events DROP CONSTRAINT events_pkey',
        `INSERT INTO events (id, seq, type, hash) SELECT 100000, seq, 'file.step', hash FROM events WHERE seq = 1100`,
      ],
      /^there is a row with the number 1100 that does not belong into the log$/,
    ],
    [
      'a row put in at the border of a batch',
      [
        'ALTER TABLE events DROP CONSTRAINT events_pkey',
        `INSERT INTO events (id, seq, type, hash) SELECT 100000, seq, 'file.step', hash FROM events WHERE seq = 1000`,
      ],
      /^there is a row with the number 1000 /,
    ],
    [
      'a row put in before the first',
      [`INSERT INTO events (id, seq, type, hash) VALUES (7, 0, 'file.step', sha256('x'))`],
      /^there is a row with the number 0 /,
    ],
    [
      'a row put in behind the last',
      [`INSERT INTO events (id, seq, type, hash) VALUES (7, ${COUNT + 1}, 'file.step', sha256('x'))`],
      /^event 1201 does not fit/,
    ],
    [
      'a row put in far behind the last',
      [`INSERT INTO events (id, seq, type, hash) VALUES (7, 19999999, 'file.step', sha256('x'))`],
      /^events 1201 to 19999998 are missing: after 1200 comes 19999999$/,
    ],
    [
      'a number taken away, which the row gets anew at the end',
      [
        `WITH taken AS (DELETE FROM events WHERE seq = 1100 RETURNING *)
         INSERT INTO event_inbox (type, subject_id, owner_id, data, actor, result, created_at)
         SELECT type, subject_id, owner_id, data, actor, result, created_at FROM taken`,
      ],
      /^event 1100 is missing: after 1099 comes 1101$/,
    ],
    [
      'another hash in the head',
      [`UPDATE event_head SET hash = sha256('x')`],
      /^event_head has another hash than event 1200$/,
    ],
    [
      'a higher number in the head',
      ['UPDATE event_head SET seq = seq + 1'],
      /^event 1201 is missing at the end: the log ends with 1200, event_head says 1201$/,
    ],
    [
      'a lower number in the head',
      ['UPDATE event_head SET seq = 1150'],
      /^event_head says that the log ends with 1150, but it goes on to 1200$/,
    ],
    ['no head', ['DELETE FROM event_head'], /^event_head is empty/],
  ])('%s', async (_name, statements, message) => {
    await tamper(...statements);
    await expect(verifyEvents(database)).rejects.toMatchObject({
      name: 'LogDamage',
      message: expect.stringMatching(message),
    });
    // The same, or worse, when there are events to number: they never make it look whole.
    await append(1);
    await expect(verifyEvents(database)).rejects.toMatchObject({ name: 'LogDamage' });
  });
});

describe('a head that was noted', () => {
  afterEach(restore);

  it('is in the chain, also after more was appended', async () => {
    await append(10);
    expect((await verifyEvents(database, head)).seq).toBe(COUNT + 10);
  });

  it('shows that the log was cut off and its head set back', async () => {
    await tamper(
      'DELETE FROM events WHERE seq > 1150',
      'UPDATE event_head SET seq = 1150, hash = (SELECT hash FROM events WHERE seq = 1150)',
    );
    expect((await verifyEvents(database)).seq).toBe(1150);
    await expect(verifyEvents(database, head)).rejects.toThrow(
      /^the log ends with 1150, but there was an event 1200 once$/,
    );
  });

  it('shows that a row was changed and all hashes after it reckoned anew', async () => {
    await tamper(`UPDATE events SET data = '{"size": 0}' WHERE seq = 1100`);
    const { rows } = await test.query(`SELECT ${HASHED_COLUMNS} FROM events ORDER BY seq`);
    let hash: Buffer = FIRST_HASH;
    const hashes = rows.map((row, index) => {
      hash = hashEvent(hash, index + 1, row);
      return hash;
    });
    await test.query('ALTER TABLE events DISABLE TRIGGER USER');
    await test.query(
      'UPDATE events SET hash = new.hash FROM unnest($1::bytea[]) WITH ORDINALITY AS new (hash, seq) WHERE events.seq = new.seq',
      [hashes],
    );
    await test.query('UPDATE event_head SET hash = $1', [hash]);
    expect((await verifyEvents(database)).seq).toBe(COUNT);
    await expect(verifyEvents(database, head)).rejects.toThrow(/^event 1200 has another hash than the one/);
    const { rows: before } = await test.query('SELECT hash FROM saved WHERE seq = 1099');
    await verifyEvents(database, { seq: 1099, hash: before[0].hash });
  });
});

interface Ended {
  code: number;
  stdout: string;
  stderr: string;
}

describe('npm run audit:verify', () => {
  function run(env: Record<string, string>, ...args: string[]): Promise<Ended> {
    const command = [resolve('dist/core/commands/audit-verify.js'), ...args];
    return new Promise((done) => {
      execFile(process.execPath, command, { cwd: '/', env }, (error, stdout, stderr) => {
        done({ code: error ? Number(error.code) : 0, stdout, stderr });
      });
    });
  }

  const connected = () => ({
    DATABASE_URL: test.url,
    DATA_DIR_SHARED: 'true',
    JWT_SECRET: 'only-for-tests-only-for-tests-only',
  });

  it('says how many events it has checked, and the head', async () => {
    await append(2);
    const { code, stdout, stderr } = await run(connected());
    const now = await readHead(database);
    expect(now.seq).toBe(COUNT + 2);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    expect(stdout).toMatch(/^1202 events checked/);
    expect(stdout.trim().split('\n').at(-1)).toBe(formatHead(now));
    expect(await run(connected(), '--expect', formatHead(head))).toMatchObject({ code: 0, stderr: '' });
    await restore();
  });

  it('ends with 1 and one line when something is wrong', async () => {
    const other = await run(connected(), '--expect', `7:${'0'.repeat(64)}`);
    expect(other).toEqual({
      code: 1,
      stdout: '',
      stderr: expect.stringMatching(
        /^landfall: event 7 has another hash than the one that was noted[^\n]*\n$/,
      ),
    });
    await tamper('DELETE FROM events WHERE seq = 1100');
    expect(await run(connected())).toEqual({
      code: 1,
      stdout: '',
      stderr: 'landfall: event 1100 is missing: after 1099 comes 1101\n',
    });
    await restore();
  });

  it.each([
    [['--expect', '7'], /--expect 7: must be .*Usage: npm run audit:verify/],
    [['--expect', `7:${'x'.repeat(64)}`], /Usage:/],
    [['--expect'], /Usage:/],
    [['--all'], /--all.*Usage:/],
    [['7'], /Usage:/],
  ])('ends with 2 and its usage for %j', async (args, message) => {
    const { code, stdout, stderr } = await run(connected(), ...args);
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
    expect(stderr).toMatch(message);
    expect(stderr.trim().split('\n')).toHaveLength(1);
  });

  it('ends with 2 where it cannot check', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'landfall-audit-'));
    const nowhere = { ...connected(), DATABASE_URL: 'postgres://u:p@127.0.0.1:1/d' };
    const bare = new URL(test.url);
    bare.pathname = '/postgres';
    try {
      for (const [env, message] of [
        [{ DATA_DIR: folder }, `DATA_DIR=${folder}: there is no database in this folder`],
        [nowhere, 'DATABASE_URL: connect ECONNREFUSED'],
        [{ ...connected(), DATABASE_URL: bare.href }, 'npm run migrate'],
      ] as const) {
        const { code, stdout, stderr } = await run(env);
        expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
        expect(stderr).toMatch(message);
        expect(stderr.trim().split('\n')).toHaveLength(1);
      }
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  it('finds the database of npm start, running or not', async () => {
    const system = await startSystem();
    const env = { PATH: process.env.PATH ?? '', DATA_DIR: system.dataDir };
    try {
      await registerUser(() => system.url);
      const beside = await run(env);
      expect(beside).toMatchObject({
        code: 0,
        stderr: '',
        stdout: expect.stringMatching(/^1 events checked/),
      });
      const noted = beside.stdout.trim().split('\n').at(-1) ?? '';

      await system.end();
      const alone = await run(env, '--expect', noted);
      expect(alone).toMatchObject({ code: 0, stderr: '' });
      expect(alone.stdout).toMatch(/^1 events checked/);
    } finally {
      await system.stop();
    }
  });
});

it('the worker tells its log the head', async () => {
  const env = {
    DATABASE_URL: test.url,
    DATA_DIR: await mkdtemp(join(tmpdir(), 'landfall-audit-')),
    DATA_DIR_SHARED: 'true',
    JWT_SECRET: 'only-for-tests-only-for-tests-only',
    LOG_LEVEL: 'info',
  };
  const worker = spawn(process.execPath, [resolve('dist/worker/main.js')], { cwd: env.DATA_DIR, env });
  const ended = once(worker, 'exit');
  try {
    let output = '';
    worker.stdout.on('data', (chunk) => {
      output += chunk;
    });
    const told = await until('the head', () => /"head":"([^"]+)"/.exec(output)?.[1]);
    expect(told).toBe(formatHead(head));
  } finally {
    worker.kill('SIGTERM');
    await ended;
    await rm(env.DATA_DIR, { recursive: true });
  }
});
