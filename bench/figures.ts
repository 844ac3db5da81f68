import {
  lstatSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  type Stats,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';

export const MIB = 1024 ** 2;
export const GIB = 1024 ** 3;

/** Below 1 the benches of S3 are smaller. This serves to see that they work: the figures then mean little. */
export const SCALE = Number(process.env.BENCH_SCALE ?? 1);

/** How often each contender of the large and the slow uploads runs; the tables show medians. */
export const ROUNDS = Number(process.env.BENCH_ROUNDS ?? 3);

/** Ticks a second in /proc/<pid>/stat; 100 on every Linux that Node runs on. */
const TICKS = 100;

/** CPU seconds that a process has used. */
export function cpuSeconds(pid: number): number {
  // Behind the name in brackets: state is field 3, utime and stime are 14 and 15.
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? [];
  return (Number(fields[11]) + Number(fields[12])) / TICKS;
}

/** The largest resident memory of a process since its start or since `resetPeakMemory`, in bytes. */
export function peakMemory(pid: number): number {
  const [, kib] = /VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? [];
  return Number(kib) * 1024;
}

/** Lets `peakMemory` begin anew. */
export function resetPeakMemory(pid: number): void {
  // "To reset the peak resident set size" (proc_pid_clear_refs(5)).
  writeFileSync(`/proc/${pid}/clear_refs`, '5');
}

/**
 * Bytes on disk of temporary files: those in a folder, and those that the process holds open after it has deleted them.
 * @param folder undefined: the process has no folder for temporary files
 */
export function temporaryBytes(pid: number, folder?: string): number {
  const descriptors = `/proc/${pid}/fd`;
  let sum = 0;
  for (const name of readdirSync(descriptors)) {
    const path = join(descriptors, name);
    if (isDeleted(path)) sum += bytesOnDisk(statSync(path, MAY_BE_GONE));
  }
  for (const name of folder ? readdirSync(folder) : []) {
    sum += bytesOnDisk(lstatSync(join(folder ?? '', name), MAY_BE_GONE));
  }
  return sum;
}

/** The process may delete or close a file between the listing and the look at it. */
const MAY_BE_GONE = { throwIfNoEntry: false } as const;

function isDeleted(descriptor: string): boolean {
  try {
    return readlinkSync(descriptor).endsWith(' (deleted)');
  } catch {
    // The process has closed it.
    return false;
  }
}

function bytesOnDisk(file: Stats | undefined): number {
  return file?.isFile() ? file.blocks * 512 : 0;
}

/** The figure that 99 of 100 do not exceed. */
export function percentile99(numbers: number[]): number {
  return percentile(numbers, 0.99);
}

/** The figure that 95 of 100 do not exceed. */
export function percentile95(numbers: number[]): number {
  return percentile(numbers, 0.95);
}

function percentile(numbers: number[], share: number): number {
  return [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length * share)] ?? Number.NaN;
}

/** The middle one of the numbers. @throws when there are none */
export function median(numbers: number[]): number {
  const sorted = [...numbers].sort((a, b) => a - b);
  const middle = sorted[Math.floor(sorted.length / 2)];
  if (middle === undefined) throw new Error('nothing was measured');
  return middle;
}
