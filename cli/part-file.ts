import { createWriteStream } from 'node:fs';
import { rm, stat } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { setTimeout as pause } from 'node:timers/promises';
import type { FileJson } from '../server/answers/files.js';
import type { Transfer } from './bars.js';
import type { Context } from './context.js';
import { EXIT, Failure } from './failure.js';
import type { Memory } from './private-files.js';
import { percent, printable } from './text.js';

/** What is remembered of a part file: the entity tag under which its bytes came. */
export interface DownloadNote {
  etag: string;
}

export interface Download {
  file: FileJson;
  /** The path of the part file. */
  part: string;
  memory: Memory<DownloadNote>;
  /** Of the note. */
  key: string;
  /** For how many seconds to try again without any progress. */
  retrySeconds: number;
}

/** Milliseconds between attempts. */
const RETRY_MS = 1000;

/** Fetches the bytes that the part file lacks. @throws {Failure} */
export async function fetchMissing(context: Context, download: Download): Promise<void> {
  const { output, signal } = context;
  const { file, part, memory, key, retrySeconds } = download;
  const before = (await memory.find(key)) ? await sizeOf(part) : 0;
  if (before > 0) output.note(`${printable(file.filename)}: continues at ${percent(before, file.size)} %`);
  const transfer: Transfer = {
    name: file.filename,
    size: file.size,
    done: before,
    before,
    startedAt: Date.now(),
  };
  const shown = output.show(transfer);
  let farthest = before;
  let lastProgress = Date.now();
  try {
    while (!(await attempt(context, download, transfer))) {
      if (transfer.done > farthest) lastProgress = Date.now();
      farthest = Math.max(farthest, transfer.done);
      if (Date.now() - lastProgress > retrySeconds * 1000) {
        throw new Failure(EXIT.unavailable, 'The download broke off: the same command continues it');
      }
      transfer.note = 'trying again';
      await pause(RETRY_MS, undefined, { signal });
    }
  } finally {
    shown.end();
  }
}

/** Sends one request. @returns whether all bytes are here @throws {Failure} when another request would not help */
async function attempt({ api, signal }: Context, download: Download, transfer: Transfer): Promise<boolean> {
  const { file, part, memory, key } = download;
  const note = await memory.find(key);
  const have = note ? await sizeOf(part) : 0;
  if (have > 0 && have === file.size) return true;
  const wanted = note && have > 0 ? { Range: `bytes=${have}-`, 'If-Range': note.etag } : {};
  try {
    const answer = await api.fetch(`/api/files/${encodeURIComponent(file.id)}/content`, {
      headers: { ...wanted, 'Accept-Encoding': 'identity' },
      // With S3_REDIRECT the bytes come from the store. fetch() sends no token there.
      redirect: 'follow',
    });
    const start = answer.status === 206 ? have : 0;
    if (answer.status === 206) requireStart(answer, have);
    else await beginAgain(download, answer.headers.get('ETag'));
    transfer.note = undefined;
    await store(answer, part, start, transfer);
  } catch (error) {
    signal.throwIfAborted();
    if (!isPassing(error)) throw error;
  }
  return (await sizeOf(part)) === file.size;
}

/** The order matters if the process is killed in between: a note never names the bytes of another answer. */
async function beginAgain({ part, memory, key }: Download, etag: string | null): Promise<void> {
  await memory.forget(key);
  await rm(part, { force: true });
  // RFC 9110, 13.1.5: "A client MUST NOT generate an If-Range header field containing an entity tag that is marked as weak."
  if (etag?.startsWith('"')) await memory.save(key, { etag });
}

function requireStart(answer: Response, have: number): void {
  const range = answer.headers.get('Content-Range') ?? '';
  if (range.startsWith(`bytes ${have}-`)) return;
  throw new Failure(EXIT.failed, 'The server sent another part of the file than the one asked for');
}

async function store(answer: Response, part: string, start: number, transfer: Transfer): Promise<void> {
  const body = answer.body ? Readable.fromWeb(answer.body as never) : Readable.from([]);
  transfer.done = start;
  const count = async function* (chunks: AsyncIterable<Uint8Array>) {
    for await (const chunk of chunks) {
      transfer.done += chunk.byteLength;
      yield chunk;
    }
  };
  await pipeline(body, count, createWriteStream(part, { flags: start === 0 ? 'w' : 'r+', start }));
}

/** Whether the connection broke, or the server is away. An error of the disk is neither. */
function isPassing(error: unknown): boolean {
  // fetch() reports a body that breaks off as a TypeError.
  return error instanceof Failure ? error.exitCode === EXIT.unavailable : error instanceof TypeError;
}

async function sizeOf(path: string): Promise<number> {
  return (await stat(path).catch(() => undefined))?.size ?? 0;
}
