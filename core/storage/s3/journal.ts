import type { CommitTime, Part, Progress, Segment, StoredUpload, UploadState } from '../storage.js';
import { bytesOf, type NextStep, type Planned, planOf } from './plan.js';

/*
 * The steps of one request: parts, segments and whole objects that are being sent to the store, in the order of their
 * bytes, and what may be committed of them. Pure: it sends nothing and waits for nothing.
 *
 * Bytes count only once they are committed to the ledger. A commit writes the offset, the parts and the tail together,
 * under the epoch of the lease. Commits follow the order of the bytes, so there is never a gap before the offset. Late
 * writes of a process that has lost its lease are harmless: every segment and every whole object gets a new key, and a
 * part number is never used by two leases. For that, part numbers are reserved in the ledger before they are used
 * (WINDOW beyond the last one); at the end the numbers that cannot have reached the store are given back. A segment is
 * deleted after the commit that no longer names it.
 *
 * The bytes of a request may count at its end only. Then the commits on the way reserve part numbers and name nothing
 * that is new. If such a request fails, its parts stay in the multipart upload, with numbers that no other part gets,
 * until the object is made of the parts that the ledger names; see complete.ts.
 */

/** Part numbers that are reserved at a time. */
const WINDOW = 12;

/** A step that has begun. */
export interface Step extends NextStep {
  /** New bytes. */
  readonly size: number;
  /** Bytes with those of the segments that the step replaces. */
  readonly total: number;
  /** Key of the segment or object that the step becomes. */
  readonly key: string;
  /** Number of the part that the step becomes. */
  readonly number: number;
}

interface Entry extends Step {
  made?: Part | Segment | { objectKey: string };
}

/** A commit under way. */
interface Pending {
  progress: Progress & { state: UploadState };
  done: Entry[];
}

export class Journal {
  /** The upload as it will be when all steps that have begun have succeeded. */
  readonly planned: Planned;
  /** As the ledger has it. */
  private committed: { offset: number; tail: Segment[] };
  private entries: Entry[] = [];
  private pending: Pending | undefined;
  /** Part numbers below this one are reserved. */
  private reserved: number;
  /** Part numbers from this one on cannot have reached the store. */
  private firstUnused: number;
  /** Whether the store may hold, now or later, bytes that no commit names. */
  private untidy = false;
  /** Whether the outcome of a commit is not known. */
  private uncertain = false;
  /** Whether a commit has failed. */
  private closed = false;

  constructor(
    upload: StoredUpload,
    private readonly time: CommitTime = 'on the way',
  ) {
    this.planned = planOf(upload);
    this.committed = { offset: upload.offset, tail: [...this.planned.state.tail] };
    this.reserved = this.planned.state.nextPart;
    this.firstUnused = this.reserved;
  }

  /** Whether a commit has failed, so that there will be no other. */
  get isClosed(): boolean {
    return this.closed;
  }

  /** Whether a part may begin: there is a multipart upload, and a number is reserved. */
  hasNumber(): boolean {
    const { multipartId, nextPart } = this.planned.state;
    return multipartId !== null && nextPart < this.reserved;
  }

  /** The multipart upload exists. */
  opened(multipartId: string): void {
    this.planned.state.multipartId = multipartId;
  }

  /** The store may hold something that is named nowhere. */
  strayed(): void {
    this.untidy = true;
  }

  /**
   * Begins a step that makes `size` held bytes a part, segment or object. A part needs hasNumber().
   * @param key was never used before
   */
  begin({ kind, replaces }: NextStep, size: number, key: string): Step {
    const { state } = this.planned;
    if (kind === 'part' && !this.hasNumber()) throw new Error('no part number is reserved');
    const step: Entry = {
      kind,
      replaces,
      size,
      total: size + bytesOf(replaces),
      key,
      number: state.nextPart,
    };
    this.planned.offset += size;
    state.tail.splice(state.tail.length - replaces.length);
    if (kind === 'part') state.nextPart++;
    if (kind === 'segment') state.tail.push({ key, size: step.total });
    this.entries.push(step);
    return step;
  }

  /** The store has taken the step. @param etag of the part */
  stored(step: Step, etag: string): void {
    const { kind, key, number, total } = step;
    const entry = this.entries.find((one) => one === step);
    if (!entry) throw new Error('the step is not under way');
    if (kind === 'part') {
      entry.made = { number, size: total, etag };
      this.firstUnused = Math.max(this.firstUnused, number + 1);
    } else {
      entry.made = kind === 'segment' ? { key, size: total } : { objectKey: key };
    }
  }

  /** The store has not taken the step. @param mayArrive whether it may have, or may yet */
  failed({ kind, number }: Step, mayArrive: boolean): void {
    if (!mayArrive) return;
    this.untidy = true;
    if (kind === 'part') this.firstUnused = Math.max(this.firstUnused, number + 1);
  }

  /** Bytes that are stored, without a gap, and that the next commit names. */
  committable(): number {
    if (this.time === 'at the end') return 0;
    return this.done().reduce((sum, { size }) => sum + size, 0);
  }

  private done(): Entry[] {
    const open = this.entries.findIndex(({ made }) => made === undefined);
    return open < 0 ? [...this.entries] : this.entries.slice(0, open);
  }

  /** Begins a commit of all bytes that are stored without a gap, which also reserves part numbers. One at a time. */
  commit(): Progress {
    const done = this.time === 'at the end' ? [] : this.done();
    return this.write(Math.max(this.planned.state.nextPart + WINDOW, this.reserved), done);
  }

  /**
   * Begins the last commit, when no step is under way any more. It gives unused part numbers back.
   * @param failed whether the request has failed: bytes that were to count at its end count no more
   * @returns undefined when there is nothing to commit
   */
  lastCommit(failed = false): Progress | undefined {
    const done = failed && this.time === 'at the end' ? [] : this.done();
    const made = this.entries.some((entry) => entry.made);
    if (!made && !this.untidy && this.reserved === this.firstUnused) return undefined;
    // Stored steps behind a gap: the caller deletes their objects, but that may fail.
    if (this.entries.slice(done.length).some((entry) => entry.made)) this.untidy = true;
    return this.write(Math.max(this.firstUnused, 1), done);
  }

  private write(nextPart: number, done: Entry[]): Progress {
    if (this.pending || this.closed) throw new Error('another commit is under way, or has failed');
    const tail = [...this.committed.tail];
    const parts: Part[] = [];
    let { offset } = this.committed;
    let objectKey: string | undefined;
    for (const { size, replaces, made } of done) {
      offset += size;
      tail.splice(tail.length - replaces.length);
      if (!made) continue;
      if ('etag' in made) parts.push(made);
      else if ('objectKey' in made) objectKey = made.objectKey;
      else tail.push(made);
    }
    // The upload has become one object while its multipart upload was made.
    const isInVain = objectKey !== undefined && this.planned.state.multipartId !== null;
    const progress = {
      offset,
      state: { multipartId: this.planned.state.multipartId, nextPart, tail },
      parts,
      // Segments have to be deleted later, even if this process dies.
      untidy: this.untidy || tail.length > 0 || done.some(({ kind }) => kind === 'segment') || isInVain,
      ...(objectKey ? { objectKey } : {}),
    };
    this.pending = { progress, done };
    return progress;
  }

  /** The ledger has taken the commit. @returns keys of segments that are named no more and may be deleted */
  committedIt(): string[] {
    if (!this.pending) throw new Error('no commit is under way');
    const { progress, done } = this.pending;
    this.pending = undefined;
    this.reserved = progress.state.nextPart;
    this.committed = { offset: progress.offset, tail: progress.state.tail };
    this.entries.splice(0, done.length);
    return done.flatMap(({ replaces }) => replaces.map(({ key }) => key));
  }

  /** The ledger has not taken the commit; there will be no other. @param refused whether this is certain */
  commitFailed(refused: boolean): void {
    this.pending = undefined;
    this.closed = true;
    this.uncertain = !refused;
  }

  /** Keys of the stored objects that no commit names, when all is over. They may be deleted. */
  leftovers(): string[] {
    if (this.uncertain) return [];
    return this.entries.filter(({ kind, made }) => made && kind !== 'part').map(({ key }) => key);
  }
}
