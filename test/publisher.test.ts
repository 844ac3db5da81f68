import { setTimeout as pause } from 'node:timers/promises';
import { v7 as uuidv7 } from 'uuid';
import { appendEvents } from '../core/events/append.js';
import { sequenceEvents } from '../core/events/sequence.js';
import type { Broker } from '../worker/nats/broker.js';
import { createPublisher } from '../worker/passes/publish.js';
import { openLedger, type TestLedger } from './support/ledger.js';
import { Random } from './support/random.js';

/* The order in which events are published, with a broker that fails at random. test/nats.test.ts has a real one. */

let ledger: TestLedger;

beforeAll(async () => {
  ledger = await openLedger();
});

afterAll(() => ledger?.close());

/** Stores messages late, not at all, or without saying so; and each id once, as JetStream does. */
function openUnreliableBroker(random: Random) {
  const stored = new Map<string, { seq: number; subjectId: string }>();
  const broker: Broker = {
    isThere: () => true,
    async publish({ id, body }) {
      await pause(random.whole(0, 3));
      if (random.chance(0.004)) throw new Error('lost');
      if (!stored.has(id)) stored.set(id, JSON.parse(body));
      await pause(random.whole(0, 3));
      if (random.chance(0.004)) throw new Error('stored, but not acknowledged');
    },
    onBack() {},
    close() {},
  };
  return { broker, stored };
}

test('whatever fails, every event is stored, and those of a file in their order, also by two workers at once', async () => {
  const { broker, stored } = openUnreliableBroker(new Random(14));
  const { database } = ledger;
  const publishers = [
    await createPublisher({ database, broker }),
    await createPublisher({ database, broker }),
  ];
  const files = Array.from({ length: 40 }, () => uuidv7());
  for (let run = 1; run <= 30; run++) {
    await appendEvents(
      database.manager,
      files.map((id) => ({ type: 'file.processing', subjectId: id, ownerId: id, data: { run } })),
    );
  }
  const total = await sequenceEvents(database);
  expect(total).toBe(1200);
  const cursorIsAtEnd = async () =>
    (
      await ledger.query(
        `SELECT FROM event_cursors, event_head WHERE name = 'nats' AND event_cursors.seq = event_head.seq`,
      )
    ).length > 0;
  while (!(await cursorIsAtEnd())) await Promise.all(publishers.map((one) => one.publishNew()));
  expect(stored.size).toBe(total);
  for (const id of files) {
    const seqs = [...stored.values()].filter(({ subjectId }) => subjectId === id).map(({ seq }) => seq);
    expect(seqs).toEqual([...seqs].sort((a, b) => a - b));
  }
});
