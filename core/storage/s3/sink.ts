import { Pace } from '../../pace.js';
import type { CommitTime, Progress, StoredUpload, UploadSink } from '../storage.js';
import { Delivery } from './delivery.js';
import { Held } from './held.js';
import type { Holder, Memory } from './memory.js';
import type { ObjectStore } from './operations.js';
import { type Goal, nextGoal, nextStep, type Reason } from './plan.js';
import type { Spool } from './spool.js';

/*
 * How the bytes of one request come to S3.
 *
 * The sink holds what arrives until plan.ts makes a part, segment or object of it; delivery.ts sends and commits that
 * while the next bytes arrive. A fast sender's bytes stay in memory. The bytes of a slow sender go to the
 * spool, so that thousands of them neither fill the memory nor make the store take thousands of small objects. Without
 * room in the spool they are held in memory too, and become a segment or a short part when others need the memory.
 *
 * One function, advance(), does whatever is possible now. It runs when bytes arrive and whenever memory, a part number
 * or a place among the steps under way becomes free.
 */

/** Held bytes wait about this long before they are stored and committed, in milliseconds. */
const OLD_MS = 60_000;

/** A sender is let alone while others wait for memory, if its part is full within this time, in milliseconds. */
const SOON_MS = 500;

export interface SinkDeps {
  objects: ObjectStore;
  memory: Memory;
  spool: Spool;
  /** Milliseconds; OLD_MS except in tests. */
  oldMs?: number;
}

export type Commit = (progress: Progress) => Promise<void>;

export class S3Sink implements UploadSink, Holder {
  private readonly delivery: Delivery;
  private readonly memory: Memory;
  private readonly leaveMemory: () => void;
  private readonly pace = new Pace();
  private goal: Goal;
  private next: Held;
  /** Bytes of the memory that are taken for the held ones. */
  private credit = 0;
  private isWaiting = false;
  private hasEnded = false;
  /** A chunk, or the rest of one, for which the held bytes must make room. */
  private pending: Uint8Array | undefined;
  /** Why the held bytes have to go, although they have not reached the goal. */
  private due: Reason | undefined;
  /** The promise that write() has returned. */
  private full: { since: number; resolve: () => void; promise: Promise<void> } | undefined;

  constructor(
    private readonly deps: SinkDeps,
    upload: StoredUpload,
    commit: Commit,
    private readonly onEnd: () => void,
    time?: CommitTime,
  ) {
    this.delivery = new Delivery(deps.objects, upload, commit, () => this.advance(), time);
    this.goal = nextGoal(this.delivery.planned);
    this.next = new Held(deps.spool);
    this.memory = deps.memory;
    this.leaveMemory = deps.memory.join(this);
  }

  get failed(): AbortSignal {
    return this.delivery.failed;
  }

  hurry(): void {
    this.delivery.hurry();
  }

  fail(error: unknown): void {
    this.delivery.fail(error);
  }

  write(chunk: Uint8Array): Promise<void> | undefined {
    if (this.hasEnded || this.delivery.hasFailed) return undefined;
    this.pace.note(chunk.byteLength, performance.now());
    this.pending = this.pending ? Buffer.concat([this.pending, chunk]) : chunk;
    this.advance();
    return this.full?.promise;
  }

  async end(): Promise<void> {
    try {
      this.due = 'end';
      this.advance();
      while (this.due === 'end' && !this.delivery.hasFailed) await this.full?.promise;
      await this.delivery.finish();
    } finally {
      this.hasEnded = true;
      // First: dropping gives memory to those that wait for it.
      this.leaveMemory();
      this.drop();
      this.onEnd();
    }
  }

  tick(now: number): void {
    if (this.next.size > 0 && now - this.next.since >= (this.deps.oldMs ?? OLD_MS)) this.due ??= 'old';
    this.advance();
    this.delivery.commitIfDue();
  }

  held(): number {
    return this.next.isWriting ? 0 : this.credit;
  }

  isMoving(): boolean {
    return this.pace.willSend(this.credit - this.next.memory, SOON_MS, performance.now());
  }

  putAway(): void {
    if (this.toSpool()) return;
    if (this.next.memory === 0) this.release(this.credit)();
    else this.due ??= 'memory';
    this.advance();
  }

  granted(bytes: number): void {
    this.isWaiting = false;
    this.credit += bytes;
    this.advance();
  }

  /** Does what is possible now. */
  private advance(): void {
    try {
      while (!this.delivery.hasFailed && this.moveOn());
      if (!this.delivery.hasFailed) this.provide();
    } catch (error) {
      this.delivery.fail(error);
    }
    if (this.delivery.hasFailed) this.drop();
    this.blockOrWake();
  }

  /** Holds pending bytes, or begins a step. @returns whether this may have made more possible */
  private moveOn(): boolean {
    const missing = this.goal.bytes - this.next.size;
    if (this.goal.kind !== 'last' && missing <= 0) return this.begin('full');
    if (this.pending) {
      this.take(this.pending, this.goal.kind === 'last' ? this.pending.byteLength : missing);
      return true;
    }
    if (!this.due) return false;
    if (this.next.size > 0) return this.begin(this.due);
    this.due = undefined;
    return false;
  }

  private take(chunk: Uint8Array, most: number): void {
    const isWhole = chunk.byteLength <= most;
    this.next.add(isWhole ? chunk : chunk.subarray(0, most));
    this.pending = isWhole ? undefined : chunk.subarray(most);
    // The number should be reserved by the time the part is full.
    if (this.goal.kind === 'part' && this.next.size >= this.goal.bytes / 2) this.delivery.reserve();
  }

  /** Begins to send the held bytes, if a step may begin. */
  private begin(reason: Reason): boolean {
    const step = nextStep(this.delivery.planned, this.next.size, reason);
    if (!this.delivery.isReady(step.kind)) return false;
    const held = this.next;
    const release = this.release(this.credit);
    this.next = new Held(this.deps.spool);
    if (this.due !== 'end') this.due = undefined;
    this.delivery.begin(step, held, () => {
      held.drop();
      release();
    });
    this.goal = nextGoal(this.delivery.planned);
    return true;
  }

  /** Finds a place for held bytes for which no memory is taken yet, and for those that come next. */
  private provide(): void {
    if (this.isWaiting || this.next.memory <= this.credit || this.isFull()) return;
    const step = this.memory.step();
    const isFast = this.pace.isFast === true && !this.next.isOnDisk;
    const isSlow = this.pace.isFast !== undefined && !isFast;
    const wanted = isFast ? this.wholePart() : Math.max(step, this.next.memory - this.credit);
    const isStep = this.next.memory >= step;
    // A slow sender gathers one step, and more only while half of the memory is free.
    if (this.memory.take(wanted, isSlow && isStep ? 0.5 : 1)) this.credit += wanted;
    else if (!(isSlow && (this.next.isWriting || (isStep && this.toSpool())))) {
      this.isWaiting = true;
      this.memory.wait(this, wanted);
    }
  }

  /** Bytes of memory for what is missing of a part, and what is held of it already. */
  private wholePart(): number {
    const missing = Math.max(0, this.goal.bytes - this.next.size) + this.next.memory - this.credit;
    return Math.max(1, Math.min(missing, this.memory.portion));
  }

  /** Begins to write the held bytes to the spool. */
  private toSpool(): boolean {
    let release = () => {};
    const bytes = this.next.putAway(() => {
      release();
      this.advance();
    });
    if (bytes === 0) return false;
    release = this.release(this.credit);
    return true;
  }

  /** @returns gives back bytes of the memory that are taken for the held bytes */
  private release(bytes: number): () => void {
    this.credit -= bytes;
    return this.memory.leave(bytes);
  }

  private isFull(): boolean {
    return this.goal.kind !== 'last' && this.next.size >= this.goal.bytes;
  }

  /** While the sink can take no more, write() returns a promise. */
  private blockOrWake(): void {
    const isBlocked =
      !this.delivery.hasFailed &&
      (this.pending !== undefined || this.due === 'end' || this.isFull() || this.next.memory > this.credit);
    if (isBlocked && !this.full) {
      let resolve = () => {};
      const promise = new Promise<void>((done) => {
        resolve = done;
      });
      this.full = { since: performance.now(), resolve, promise };
    } else if (!isBlocked && this.full) {
      this.pace.pause(performance.now() - this.full.since);
      this.full.resolve();
      this.full = undefined;
    }
  }

  private drop(): void {
    this.pending = undefined;
    this.next.drop();
    this.next = new Held(this.deps.spool);
    this.release(this.credit)();
  }
}
