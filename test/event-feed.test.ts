import { v7 as uuidv7 } from 'uuid';
import type { Event } from '../core/database/entities/event.js';
import { type Listener, openListener } from '../core/database/listen.js';
import { appendEvents } from '../core/events/append.js';
import { type EventFeed, openFeed, readEventsAfter } from '../core/events/feed.js';
import { readHead, type Sequencer, startSequencer } from '../core/events/sequence.js';
import { createLogger } from '../core/log.js';
import { openLedger, type TestLedger } from './support/ledger.js';
import { until } from './support/until.js';

/* Events reach the subscribers in this process soon after their commit: numbered, in order, none twice. */

const log = createLogger('silent', 'test');
const [mine, theirs] = [uuidv7(), uuidv7()];

let ledger: TestLedger;
let sequencer: Sequencer;
let listener: Listener;
let feed: EventFeed;

beforeAll(async () => {
  ledger = await openLedger();
  sequencer = startSequencer(ledger.database, log);
  listener = await openListener(ledger.url, log);
  feed = await openFeed({ database: ledger.database, listener, log });
});

afterAll(async () => {
  await feed?.close();
  await listener?.close();
  await sequencer?.stop();
  await ledger?.close();
});

const event = (ownerId: string, run: number) =>
  ({ type: 'file.processing', subjectId: ownerId, ownerId, data: { run } }) as const;

/** Collects the runs of events that the feed delivers. */
async function collect(ownerId: string | undefined) {
  const events: Event[] = [];
  const end = await feed.subscribe(ownerId, (told) => events.push(told));
  return { events, end, runs: () => events.map(({ data }) => data.run) };
}

test('a subscriber hears of the events of one owner, in the order of their numbers, or of all', async () => {
  const [one, all] = [await collect(mine), await collect(undefined)];
  for (let run = 1; run <= 30; run++) {
    await appendEvents(ledger.database.manager, [event(mine, run), event(theirs, run)]);
  }
  await until('all events', () => all.events.length >= 60);
  one.end();
  all.end();
  expect(one.runs()).toEqual(Array.from({ length: 30 }, (_, i) => i + 1));
  const seqs = all.events.map(({ seq }) => seq ?? 0);
  expect(seqs).toEqual(Array.from({ length: 60 }, (_, i) => (seqs[0] ?? 0) + i));
});

test('subscribers hear of an event after its transaction commits, however late, and miss none', async () => {
  const heard = await collect(mine);
  const late = ledger.database.createQueryRunner();
  await late.startTransaction();
  await appendEvents(late.manager, [event(mine, 100)]);
  await appendEvents(ledger.database.manager, [event(mine, 101)]);
  await until('the early one', () => heard.runs().includes(101));
  expect(heard.runs()).toEqual([101]);
  await late.commitTransaction();
  await late.release();
  // The next append numbers the late event too.
  await appendEvents(ledger.database.manager, [event(mine, 102)]);
  await until('the late one', () => heard.events.length >= 3);
  heard.end();
  expect(heard.runs()).toEqual([101, 100, 102]);
});

test('a reader goes on behind the last number that it has seen', async () => {
  const { seq } = await readHead(ledger.database);
  const heard = await collect(undefined);
  await appendEvents(ledger.database.manager, [event(mine, 1), event(theirs, 2), event(mine, 3)]);
  await until('all', () => heard.events.length === 3);
  heard.end();
  const first = await readEventsAfter(ledger.database, seq, 1, mine);
  expect(first.map(({ data }) => data.run)).toEqual([1]);
  const rest = await readEventsAfter(ledger.database, first[0]?.seq ?? 0, 10, mine);
  expect(rest.map(({ data }) => data.run)).toEqual([3]);
});

test('a process at work also numbers the events that another process appended', async () => {
  const heard = await collect(theirs);
  // The other process appends this event and dies.
  await ledger.query(
    `INSERT INTO event_inbox (type, owner_id, data) VALUES ('file.processing', $1, '{"run": 7}')`,
    [theirs],
  );
  await appendEvents(ledger.database.manager, [event(mine, 8)]);
  await until('the event of the other process', () => heard.events.length === 1);
  heard.end();
  expect(heard.runs()).toEqual([7]);
});

test('numbers go on into the next partition', async () => {
  const seq = 9_999_990;
  await ledger.query('UPDATE event_head SET seq = $1', [seq]);
  const heard = await collect(mine);
  const runs = Array.from({ length: 20 }, (_, i) => i);
  await appendEvents(
    ledger.database.manager,
    runs.map((run) => event(mine, run)),
  );
  await until('all', () => heard.events.length === runs.length);
  heard.end();
  expect(heard.runs()).toEqual(runs);
  const partitions = await ledger.query(
    `SELECT tableoid::regclass::text AS name, count(*)::integer AS count FROM events WHERE seq > $1 GROUP BY 1 ORDER BY 1`,
    [seq],
  );
  expect(partitions).toEqual([
    { name: 'events_0', count: 9 },
    { name: 'events_1', count: 11 },
  ]);
  expect(await ledger.query(`SELECT to_regclass('events_2') IS NOT NULL AS made`)).toEqual([{ made: true }]);
});
