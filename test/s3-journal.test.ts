import { Journal, type Step } from '../core/storage/s3/journal.js';
import { nextGoal, nextStep, type Reason } from '../core/storage/s3/plan.js';
import type { Part, Progress, StoredUpload } from '../core/storage/storage.js';
import { Random } from './support/random.js';

/*
 * The commit discipline of uploads to S3, in thousands of random histories: steps settle in any order and fail in any
 * way, commits are refused or lost, processes die, and what they have sent arrives late. After each event the ledger
 * must be right; see World.check().
 */

const MIB = 1024 ** 2;
const HISTORIES = 3000;
const REASONS: Reason[] = ['full', 'end', 'old', 'memory'];

/** A range of the upload's bytes: from `start`, up to and without `end`. */
interface Range {
  start: number;
  end: number;
}

/** The ledger and the store of one upload. */
class World {
  upload: StoredUpload;
  readonly parts = new Map<number, Part>();
  untidy = false;
  objectKey: string | undefined;
  readonly objects = new Map<string, Range>();
  readonly storedParts = new Map<number, Range>();
  /** The lease that has used a part number. */
  readonly users = new Map<number, number>();
  /** Writes that the store may apply at any later time. */
  readonly late: (() => void)[] = [];

  constructor(length: number | null) {
    this.upload = { key: 'upload', offset: 0, length, state: null };
  }

  apply({ offset, state, parts = [], untidy = false, objectKey }: Progress): void {
    this.upload = { ...this.upload, offset, state: structuredClone(state ?? this.upload.state) };
    for (const part of parts) {
      if (this.parts.has(part.number)) throw new Error(`part ${part.number} is committed twice`);
      this.parts.set(part.number, part);
    }
    this.untidy ||= untidy;
    this.objectKey ??= objectKey;
  }

  write(step: Step, range: Range): void {
    if (step.kind === 'part') this.storedParts.set(step.number, range);
    else this.objects.set(step.key, range);
  }

  /** The bytes before the offset are there without a gap, in what the ledger names. */
  check(): void {
    const { offset, state, length } = this.upload;
    if (this.objectKey) {
      const object = this.objects.get(this.objectKey);
      if (object?.start !== 0 || object.end !== length) throw new Error('the object is not whole');
      return;
    }
    let reached = 0;
    const follow = (what: string, range: Range | undefined, size: number) => {
      if (range?.start !== reached) throw new Error(`${what} does not begin at ${reached}`);
      if (range.end - range.start !== size) throw new Error(`${what} has not ${size} bytes`);
      reached = range.end;
    };
    for (const [number, { size }] of [...this.parts].sort(([a], [b]) => a - b)) {
      follow(`part ${number}`, this.storedParts.get(number), size);
    }
    for (const { key, size } of state?.tail ?? []) follow(key, this.objects.get(key), size);
    if (reached !== offset) throw new Error(`${reached} bytes are there, and ${offset} are committed`);
    const highest = Math.max(0, ...this.parts.keys());
    if (highest >= (state?.nextPart ?? 1)) throw new Error(`part ${highest} may be used again`);
  }

  /** Objects that the ledger does not name. */
  strays(): string[] {
    const named = new Set([this.objectKey, ...(this.upload.state?.tail ?? []).map(({ key }) => key)]);
    return [...this.objects.keys()].filter((key) => !named.has(key));
  }
}

/** A request that writes to the upload under a lease of its own. */
class Request {
  private readonly journal: Journal;
  /** Whether its bytes count at its end only. */
  private readonly isHeldBack: boolean;
  /** The offset at its begin. */
  private readonly start: number;
  private readonly began: { step: Step; range: Range; isOver: boolean; isStored: boolean }[] = [];
  private committing: Progress | undefined;
  private failed = false;
  private isEnding = false;
  private static keys = 0;

  constructor(
    private readonly world: World,
    private readonly lease: number,
    private readonly random: Random,
  ) {
    this.isHeldBack = random.chance(0.4);
    this.start = world.upload.offset;
    this.journal = new Journal(world.upload, this.isHeldBack ? 'at the end' : 'on the way');
  }

  /** Does something that may happen in a request. */
  act(): void {
    const { random } = this;
    const events = [() => this.begin(), () => this.settle(), () => this.commit(), () => this.answerCommit()];
    random.pick(events)();
  }

  private begin(): void {
    const { journal, random } = this;
    const { planned } = journal;
    if (this.failed || planned.offset === planned.length) return;
    const goal = nextGoal(planned);
    const left = (planned.length ?? Number.POSITIVE_INFINITY) - planned.offset;
    const size = random.chance(0.5)
      ? Math.min(goal.bytes, left)
      : Math.min(random.whole(1, goal.bytes || 1), left);
    const reason = goal.kind !== 'last' && size >= goal.bytes ? 'full' : random.pick(REASONS.slice(1));
    const next = nextStep(planned, size, reason);
    if (next.kind === 'part' && !journal.hasNumber()) {
      this.reserve();
      return;
    }
    const start = planned.offset;
    const step = journal.begin(next, size, `object-${Request.keys++}`);
    const range = { start: start - (step.total - size), end: start + size };
    this.began.push({ step, range, isOver: false, isStored: false });
  }

  private reserve(): void {
    if (this.random.chance(0.02)) {
      this.journal.strayed();
      this.failed = true;
      return;
    }
    if (this.journal.planned.state.multipartId === null) this.journal.opened('multipart');
    this.commit();
  }

  private settle(): void {
    const { random, world, journal } = this;
    const open = this.began.filter(({ isOver }) => !isOver);
    if (open.length === 0) return;
    const one = random.pick(open);
    const { step, range } = one;
    // What a step replaces is read back first, when all earlier steps have settled.
    const earlier = this.began.slice(0, this.began.indexOf(one));
    if (step.replaces.length > 0 && earlier.some(({ isOver }) => !isOver)) return;
    one.isOver = true;
    // As delivery.ts does: after a failure it sends no step that had to wait.
    if (this.failed && step.replaces.length > 0) return;
    for (const { key } of step.replaces) if (!world.objects.has(key)) throw new Error(`${key} is gone`);
    if (random.chance(0.9)) {
      this.use(step);
      world.write(step, range);
      journal.stored(step, 'etag');
      one.isStored = true;
      return;
    }
    this.failed = true;
    const mayArrive = random.chance(0.6);
    if (mayArrive) {
      this.use(step);
      world.late.push(() => world.write(step, range));
    }
    journal.failed(step, mayArrive);
  }

  private use({ kind, number }: Step): void {
    if (kind !== 'part') return;
    const user = this.world.users.get(number) ?? this.lease;
    if (user !== this.lease)
      throw new Error(`part number ${number} is used by leases ${user} and ${this.lease}`);
    this.world.users.set(number, this.lease);
  }

  private commit(): void {
    if (!this.committing && !this.journal.isClosed) this.committing = this.journal.commit();
  }

  private answerCommit(): void {
    const { random, world, journal } = this;
    const progress = this.committing;
    if (!progress) return;
    this.committing = undefined;
    if (random.chance(0.9)) {
      world.apply(progress);
      if (this.isHeldBack && !this.isEnding && world.upload.offset !== this.start) {
        throw new Error(`bytes before ${world.upload.offset} count before the end`);
      }
      // Deleting may fail.
      for (const key of journal.committedIt()) if (random.chance(0.9)) world.objects.delete(key);
      return;
    }
    this.failed = true;
    const isRefused = random.chance(0.5);
    if (!isRefused && random.chance(0.5)) world.apply(progress);
    journal.commitFailed(isRefused);
    // The ledger marks the upload when it takes a lease from a holder, and after an unknown outcome.
    world.untidy = true;
  }

  /** Ends in order. */
  end(): void {
    while (this.began.some(({ isOver }) => !isOver)) this.settle();
    while (this.committing) this.answerCommit();
    if (!this.journal.isClosed) {
      this.isEnding = true;
      // The body may turn out to be wrong.
      if (this.isHeldBack && this.random.chance(0.3)) this.failed = true;
      const isVain = this.isHeldBack && this.failed;
      this.committing = this.journal.lastCommit(this.failed);
      if (isVain && (this.committing?.offset ?? this.start) !== this.start)
        throw new Error('bytes count in vain');
      while (this.committing) this.answerCommit();
    }
    if (!this.failed) {
      const { offset } = this.journal.planned;
      if (this.world.upload.offset !== offset)
        throw new Error(`${offset} bytes are stored and not committed`);
    }
    for (const key of this.journal.leftovers()) if (this.random.chance(0.5)) this.world.objects.delete(key);
    if (this.world.untidy) return;
    if (this.world.late.length > 0) throw new Error('writes may arrive, and the upload is not untidy');
    const [stray] = this.world.strays();
    if (stray) throw new Error(`${stray} is named nowhere, and the upload is not untidy`);
  }

  /** The process dies: what it has sent may arrive later. */
  die(): void {
    for (const { step, range, isOver } of this.began) {
      if (isOver || !this.random.chance(0.7) || step.replaces.length > 0) continue;
      this.use(step);
      this.world.late.push(() => this.world.write(step, range));
    }
    if (this.committing && this.random.chance(0.5)) this.world.apply(this.committing);
    // The ledger marks the upload when it takes the lease of a dead process.
    this.world.untidy = true;
  }
}

function runHistory(seed: number): { leases: number; offset: number } {
  const random = new Random(seed);
  const world = new World(random.pick([null, random.whole(1, 20 * MIB), random.whole(1, 200 * MIB)]));
  let leases = 0;
  for (; leases < 5 && world.upload.offset !== world.upload.length; leases++) {
    const request = new Request(world, leases, random);
    const events = random.whole(0, 60);
    for (let event = 0; event < events; event++) {
      request.act();
      if (random.chance(0.1)) world.late.splice(random.whole(0, world.late.length), 1)[0]?.();
      world.check();
    }
    if (random.chance(0.2)) request.die();
    else request.end();
    world.check();
  }
  for (const write of world.late) write();
  world.check();
  return { leases, offset: world.upload.offset };
}

test('in any order of settling and with any failure, the ledger names exactly the bytes before its offset', () => {
  let bytes = 0;
  let finished = 0;
  for (let seed = 1; seed <= HISTORIES; seed++) {
    try {
      const { leases, offset } = runHistory(seed);
      bytes += offset;
      if (leases < 5) finished++;
    } catch (error) {
      throw new Error(`history ${seed}: ${error instanceof Error ? error.message : error}`, { cause: error });
    }
  }
  // The histories are no empty ones.
  expect(bytes / HISTORIES).toBeGreaterThan(10 * MIB);
  expect(finished).toBeGreaterThan(HISTORIES / 10);
});

describe('one request', () => {
  const upload: StoredUpload = { key: 'upload', offset: 0, length: 100 * MIB, state: null };

  /** A journal with a multipart upload and part numbers. */
  function opened() {
    const journal = new Journal(upload);
    journal.opened('multipart');
    journal.commit();
    journal.committedIt();
    return journal;
  }
  const part = (journal: Journal) => journal.begin({ kind: 'part', replaces: [] }, 8 * MIB, 'unused');

  test('a step behind a gap is not committed until the gap is closed', () => {
    const journal = opened();
    const [first, second] = [part(journal), part(journal)];
    journal.stored(second, 'b');
    expect(journal.committable()).toBe(0);
    expect(journal.commit()).toMatchObject({ offset: 0, parts: [] });
    journal.committedIt();
    journal.stored(first, 'a');
    expect(journal.committable()).toBe(16 * MIB);
    expect(journal.lastCommit()).toMatchObject({ offset: 16 * MIB, parts: [{ number: 1 }, { number: 2 }] });
  });

  test('part numbers are given back, except those that may have reached the store', () => {
    const journal = opened();
    const [first, second, third] = [part(journal), part(journal), part(journal)];
    journal.stored(first, 'a');
    journal.failed(second, true);
    journal.failed(third, false);
    expect(journal.lastCommit()).toMatchObject({ offset: 8 * MIB, state: { nextPart: 3 }, untidy: true });
  });

  test('no number: a part cannot begin', () => {
    const journal = new Journal(upload);
    expect(journal.hasNumber()).toBe(false);
    expect(() => part(journal)).toThrow();
  });

  test('a multipart upload that was made in vain, because the bytes became one object, is to be discarded', () => {
    const journal = new Journal(upload);
    const object = journal.begin({ kind: 'object', replaces: [] }, 100 * MIB, 'object');
    journal.opened('multipart');
    journal.stored(object, '');
    expect(journal.lastCommit()).toMatchObject({ objectKey: 'object', untidy: true });
  });

  test('when nothing has happened, nothing is committed', () => {
    expect(new Journal(upload).lastCommit()).toBeUndefined();
  });

  test.each([
    ['was refused', true, ['segment']],
    ['has an unknown outcome', false, []],
  ])(
    'when a commit %s, objects that it named are deleted only if it certainly failed',
    (_what, refused, left) => {
      const journal = new Journal(upload);
      journal.stored(journal.begin({ kind: 'segment', replaces: [] }, 1000, 'segment'), '');
      journal.lastCommit();
      journal.commitFailed(refused);
      expect(journal.leftovers()).toEqual(left);
      expect(journal.isClosed).toBe(true);
    },
  );
});
