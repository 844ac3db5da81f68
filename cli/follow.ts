import { setTimeout as pause } from 'node:timers/promises';
import type { StatusJson } from '../server/answers/processing.js';
import type { UploadJson } from '../server/answers/uploads.js';
import type { Api } from './api.js';
import type { Context } from './context.js';
import { EXIT, Failure, toFailure } from './failure.js';
import { printable } from './text.js';

/* Follows the processing of files by asking for their status. */

type Problem = NonNullable<StatusJson['error']>;

/** A status, or as much of it as the caller may know. */
export type KnownStatus = Pick<StatusJson, 'status'> &
  Partial<Omit<StatusJson, 'error'>> & { error: (Omit<Problem, 'message'> & Partial<Problem>) | null };

/** States after which nothing happens any more without a user. */
const ENDS: KnownStatus['status'][] = ['completed', 'failed', 'infected', 'canceled'];

/** Milliseconds between two requests of this process, so that many files do not reach the limit of the server. */
const BETWEEN_ANY_MS = 50;

/** Milliseconds between two requests about one file: first, and at most. */
const FIRST_MS = 200;
const LONGEST_MS = 3000;

let nextTurn = 0;

async function takeTurn(signal: AbortSignal): Promise<void> {
  const turn = Math.max(Date.now(), nextTurn);
  nextTurn = turn + BETWEEN_ANY_MS;
  await pause(turn - Date.now(), undefined, { signal });
}

/**
 * Waits for the end of the processing of a file.
 * @param onChange called with the first status and with each one that differs from the one before
 * @param patienceSeconds for how long to ask a server that does not answer
 * @throws {Failure}
 */
export async function followFile(
  { api, signal }: Pick<Context, 'api' | 'signal'>,
  id: string,
  onChange: (status: KnownStatus) => void,
  patienceSeconds: number,
): Promise<KnownStatus> {
  let lastAnswer = Date.now();
  let last = '';
  let wait = FIRST_MS;
  for (;;) {
    await takeTurn(signal);
    try {
      const now = await getStatus(api, id);
      lastAnswer = Date.now();
      const { status, step, progress } = now;
      const seen = JSON.stringify([status, step, progress]);
      if (seen !== last) {
        onChange(now);
        wait = FIRST_MS;
      }
      last = seen;
      if (ENDS.includes(now.status)) return now;
    } catch (error) {
      signal.throwIfAborted();
      const isPassing = error instanceof Failure && error.exitCode === EXIT.unavailable;
      if (!isPassing || Date.now() - lastAnswer > patienceSeconds * 1000) throw error;
    }
    await pause(wait, undefined, { signal });
    wait = Math.min(LONGEST_MS, wait * 1.5);
  }
}

/** The status of a file. A key that may only upload learns less. @throws {Failure} */
export async function getStatus(api: Api, id: string): Promise<KnownStatus> {
  const name = encodeURIComponent(id);
  try {
    return await api.json<StatusJson>(`/api/files/${name}/status`);
  } catch (error) {
    if (toFailure(error).answered.status !== 403) throw error;
    const { file } = await api.json<UploadJson>(`/api/uploads/${name}`);
    if (!file) throw error;
    return file;
  }
}

/** The failure that a status means; undefined for a file that is processed, or still may be. */
export function failureIn({ status, error }: KnownStatus): Failure | undefined {
  if (status === 'canceled') return new Failure(EXIT.failed, 'The processing was canceled');
  if (status !== 'failed' && status !== 'infected') return undefined;
  const why = error ? `: ${wordsOf(error)}` : '';
  return new Failure(EXIT.rejected, `The file is ${status}${why}`, { code: error?.code ?? status });
}

/** Such as `processing  40 %  thumbnails`. */
export function statusText({ status, step, progress, error, etaSeconds }: KnownStatus): string {
  const parts: string[] = [status];
  if (status === 'processing' || status === 'paused') {
    if (progress !== undefined) parts.push(`${progress} %`);
    if (step) parts.push(printable(step));
    if (etaSeconds) parts.push(`${Math.ceil(etaSeconds)} s left`);
  }
  if (error) parts.push(wordsOf(error));
  return parts.join('  ');
}

function wordsOf({ message, detail }: NonNullable<KnownStatus['error']>): string {
  return printable(message ?? detail);
}
