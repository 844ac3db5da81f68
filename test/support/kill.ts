import { randomBytes } from 'node:crypto';
import { expectBlobsInOrder, expectCompletedOnce } from './aftermath.js';
import type { Installation } from './installation.js';
import { MIB, type PiecewiseUpload } from './piecewise-upload.js';

/*
 * Kills the server at chosen points of uploads. A start of the server takes longer than an upload, so several
 * uploads run at once, each stands still at a point of its own, and one kill hits them all.
 */

/** How many files may wait to be checked. */
const MOST_KEPT = 30;

export interface KillPoint {
  /** The number of the upload's call or statement, from 1. */
  number: number;
  place: 'before' | 'after';
}

/** An upload that will stand still at its point. */
export interface Target {
  content: Buffer;
  /** Resolves when the upload stands still. */
  reached: Promise<unknown>;
  /** Called when the server is dead. */
  release(): void;
  /** Makes the upload. @param gate awaited before each PATCH */
  upload(gate: () => Promise<void>): Promise<PiecewiseUpload>;
}

/**
 * Contents are sections of random bytes, so that a byte in the wrong place, or of another upload, is noticed.
 */
const BYTES = randomBytes(32 * MIB);
let sections = 0;

export function takeContent(sizes: number[]): Buffer {
  sections++;
  const start = sections * 4097;
  return BYTES.subarray(start, start + sizes.reduce((sum, size) => sum + size, 0));
}

/**
 * All points, in groups. Neighbours are in different groups, so that uploads stand still in different
 * requests.
 */
export function groupPoints(count: number, abreast: number): KillPoint[][] {
  const numbers = Array.from({ length: count }, (_, index) => index + 1);
  const points = numbers.flatMap((number): KillPoint[] => [
    { number, place: 'before' },
    { number, place: 'after' },
  ]);
  const groups = Math.ceil(points.length / abreast);
  return Array.from({ length: groups }, (_, first) => points.filter((_, index) => index % groups === first));
}

/**
 * For each group: waits until all its uploads stand still, kills the server and starts it again; then the
 * clients go on. At the end, and whenever MOST_KEPT files have come (the store is in memory), all files are
 * checked and removed.
 */
export async function killAtAll(
  installation: Installation,
  groups: KillPoint[][],
  aimAt: (point: KillPoint) => Promise<Target>,
): Promise<void> {
  let landed: Landed[] = [];
  for (const points of groups) {
    landed.push(...(await killOnce(installation, await Promise.all(points.map(aimAt)))));
    if (landed.length < MOST_KEPT) continue;
    await expectAllInOrder(installation, landed);
    landed = [];
  }
  if (landed.length > 0) await expectAllInOrder(installation, landed);
}

interface Landed {
  upload: PiecewiseUpload;
  content: Buffer;
}

async function killOnce({ processes }: Installation, targets: Target[]): Promise<Landed[]> {
  let restarted = () => {};
  const restart = new Promise<void>((resolve) => {
    restarted = resolve;
  });
  const uploads = targets.map(async (target) => {
    let stands = false;
    void target.reached.then(() => {
      stands = true;
    });
    // The client does not wait for some calls, such as deletions. It must not go on while the upload stands
    // at one.
    const upload = await target.upload(async () => {
      if (stands) await restart;
    });
    return { upload, content: target.content };
  });
  await Promise.race([Promise.all(targets.map(({ reached }) => reached)), Promise.all(uploads).then(missed)]);
  await processes.kill('server');
  for (const target of targets) target.release();
  await processes.start('server');
  restarted();
  const x = await Promise.all(uploads);
  return x;
}

function missed(): never {
  throw new Error('an upload never came to its point');
}

/** Starts a worker, checks all files and the bucket, deletes the files, and checks the bucket again. */
async function expectAllInOrder(installation: Installation, landed: Landed[]): Promise<void> {
  const { processes, bucket } = installation;
  await processes.start('worker');
  for (const { upload, content } of landed) {
    await expectCompletedOnce(processes, upload.user, upload.id, content);
  }
  await expectBlobsInOrder(processes, bucket);
  await Promise.all(
    landed.map(async ({ upload }) => {
      const removed = await upload.user.fetch(`/api/files/${upload.id}?permanent=1`, { method: 'DELETE' });
      expect(removed.status).toBe(204);
    }),
  );
  await expectBlobsInOrder(processes, bucket);
  await processes.stop('worker');
}
