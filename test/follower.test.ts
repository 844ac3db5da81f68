import { setImmediate as turn } from 'node:timers/promises';
import type { Event } from '../core/database/entities/event.js';
import { BATCH, createFollower } from '../server/live/follower.js';
import { Random } from './support/random.js';

/*
 * A follower gives its reader each event of the log once and in order, however readings of the log, notices of the feed
 * and pauses of the reader mix.
 */

const eventOf = (seq: number) => ({ seq }) as Event;

/** A log that grows, a feed that tells of it late, and a reader that is sometimes full. */
function openWorld(after: number, isFull: () => boolean) {
  const world = {
    head: after,
    told: after,
    full: false,
    given: [] as number[],
    upToDate: 0,
    reads: [] as (() => void)[],
  };
  const follower = createFollower(after, {
    // The events are chosen now, as by a snapshot, and arrive when the test lets them.
    read: (seq, limit) => {
      const found = numbers(seq + 1, Math.min(world.head, seq + limit)).map(eventOf);
      return new Promise((resolve) => world.reads.push(() => resolve(found)));
    },
    give({ seq }) {
      expect(world.full).toBe(false);
      world.given.push(seq ?? 0);
      world.full = isFull();
      return !world.full;
    },
    onUpToDate: () => world.upToDate++,
    onFailure: (error) => {
      throw error;
    },
  });
  return { world, follower };
}

function numbers(from: number, to: number): number[] {
  return Array.from({ length: Math.max(0, to - from + 1) }, (_, index) => from + index);
}

test.each(numbers(1, 200))('nothing is lost or repeated (seed %i)', async (seed) => {
  const random = new Random(seed);
  const { world, follower } = openWorld(10, () => random.chance(0.2));
  const tell = () => {
    if (world.told < world.head) follower.hear(eventOf(++world.told));
  };
  const drain = () => {
    world.full = false;
    follower.goOn();
  };
  world.head += random.whole(0, 3 * BATCH);
  follower.goOn();
  for (let step = 0; step < 300; step++) {
    const dice = random.next();
    if (dice < 0.3) world.head += random.whole(0, 3);
    else if (dice < 0.6) tell();
    else if (dice < 0.75) world.reads.shift()?.();
    else if (dice < 0.9) drain();
    await turn();
  }
  for (let step = 0; step < 3000 && world.given.length < world.head - 10; step++) {
    tell();
    world.reads.shift()?.();
    drain();
    await turn();
  }
  expect(world.given).toEqual(numbers(11, world.head));
  expect(follower.position).toBe(world.head);
});

test('a follower reads the log once while its reader keeps up, and then only hears the feed', async () => {
  const { world, follower } = openWorld(0, () => false);
  world.head = 2 * BATCH + 1;
  follower.goOn();
  for (let reads = 0; reads < 3; reads++) {
    world.reads.shift()?.();
    await turn();
  }
  expect(world.upToDate).toBe(1);
  for (const seq of numbers(1, world.head + 50)) follower.hear(eventOf(seq));
  expect(world.reads).toEqual([]);
  expect(world.given).toEqual(numbers(1, world.head + 50));
});

test('a follower that was stopped gives nothing more', async () => {
  const { world, follower } = openWorld(0, () => false);
  world.head = 5;
  follower.goOn();
  follower.stop();
  world.reads.shift()?.();
  await turn();
  follower.hear(eventOf(6));
  follower.goOn();
  expect(world.given).toEqual([]);
  expect(world.reads).toEqual([]);
});
