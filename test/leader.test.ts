import type { DataSource } from 'typeorm';
import { openDatabase } from '../core/database/data-source.js';
import { createLogger } from '../core/log.js';
import { joinLeadership, type Leader } from '../worker/passes/leader.js';
import { findUpload } from './support/aftermath.js';
import { idOf, registerUser } from './support/client.js';
import { createDatabase, type TestDatabase } from './support/database.js';
import { startPostgresProxy } from './support/postgres-proxy.js';
import { type Part, startProcesses } from './support/processes.js';
import { until } from './support/until.js';
import { makeDue } from './support/uploads.js';

/*
 * One of the workers runs the passes. When it ends, another worker takes over.
 */

const log = createLogger('silent', 'test');

describe('of several workers', () => {
  const EVERY_MS = 100;
  /** So long that a process on a busy machine renews its lease in time. */
  const LEASE_MS = 30_000;

  let test: TestDatabase;
  const opened: DataSource[] = [];
  const leaders: Leader[] = [];
  let elected: string[];

  beforeEach(async () => {
    test = await createDatabase();
    elected = [];
  });

  afterEach(async () => {
    await Promise.all(leaders.splice(0).map((leader) => leader.close()));
    await Promise.all(opened.splice(0).map((database) => database.destroy()));
    await test.drop();
  });

  async function join(name: string, url = test.url, leaseMs = LEASE_MS): Promise<Leader> {
    const database = await openDatabase(url, 'test');
    opened.push(database);
    const times = { leaseMs, everyMs: EVERY_MS };
    const leader = joinLeadership({ database, log }, name, () => elected.push(name), times);
    leaders.push(leader);
    await leader.tried;
    return leader;
  }

  it('that start at the same time one leads, and goes on leading', async () => {
    const all = await Promise.all(['a', 'b', 'c', 'd'].map((name) => join(name)));
    expect(all.filter((leader) => leader.leads())).toHaveLength(1);
    const first = elected[0];
    const { rows } = await test.query('SELECT expires_at FROM pass_leader');
    await until('the lease to be renewed', async () => {
      const { rows: later } = await test.query('SELECT holder, expires_at FROM pass_leader');
      return later[0].expires_at > rows[0].expires_at && later[0].holder === first;
    });
    expect(elected).toEqual([first]);
  });

  it('another one leads as soon as the leader gives up its place', async () => {
    const first = await join('first');
    const second = await join('second');
    expect([first.leads(), second.leads()]).toEqual([true, false]);
    await first.close();
    expect(first.leads()).toBe(false);
    await until('the second to lead', () => second.leads());
    expect(elected).toEqual(['first', 'second']);
  });

  it('one that restarts under its name does not wait for its own old lease', async () => {
    await join('same');
    expect((await join('same')).leads()).toBe(true);
  });

  it('another one leads when the leader cannot renew its lease, and the leader stops leading', async () => {
    const proxy = await startPostgresProxy();
    try {
      const first = await join('first', await proxy.reach(test.url), 3000);
      const second = await join('second');
      expect([first.leads(), second.leads()]).toEqual([true, false]);
      await proxy.away();
      await until('the second to lead', () => second.leads());
      expect(first.leads()).toBe(false);
      await proxy.back();
      expect(elected).toEqual(['first', 'second']);
    } finally {
      await proxy.close();
    }
  });
});

it('another worker takes over from a leader that is killed, and runs the passes', async () => {
  const processes = await startProcesses();
  try {
    // The worker that starts first leads.
    await processes.start('worker-2');
    const user = await registerUser(() => processes.url);
    const holder = async (): Promise<Part> =>
      (await processes.database.query('SELECT holder FROM pass_leader')).rows[0].holder;
    const first = await holder();
    expect(first).toBe('worker');
    await processes.kill(first);
    const id = idOf(await user.create(10));
    await makeDue(processes.database, id);
    await until('the other one to lead', async () => (await holder()) === 'worker-2');
    await until(
      'the upload to expire',
      async () => (await findUpload(processes, id)).status === 'expired',
      25,
    );

    // The start of a second worker makes the leader run its passes at once.
    const second = idOf(await user.create(10));
    await makeDue(processes.database, second);
    await processes.start('worker');
    await until(
      'the next one to expire',
      async () => (await findUpload(processes, second)).status === 'expired',
      25,
    );
    expect(await holder()).toBe('worker-2');
  } finally {
    await processes.close();
  }
});
