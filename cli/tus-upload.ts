import * as tus from 'tus-js-client';
import type { Transfer } from './bars.js';
import type { Context } from './context.js';
import { type Failure, toFailure } from './failure.js';
import { type FileSource, openSource } from './file-source.js';
import { type Gate, openPatience } from './patience.js';
import type { Memory } from './private-files.js';
import type { LocalFile } from './selection.js';
import { percent, printable } from './text.js';
import { beforeRequest, impatientStack } from './tus-request.js';

/** What is remembered of an upload, so that another process can continue it. */
export interface UploadNote {
  server: string;
  account: string;
  path: string;
  size: number;
  mtimeMs: number;
  uploadUrl: string;
}

export interface SendOptions {
  /** Bytes of one request at most; without it one request carries the rest of the file. */
  chunkSize?: number | undefined;
  /** Whether the server is told the SHA-256, which costs a read of the whole file. */
  checksum: boolean;
  /** For how many seconds to try again without any progress. */
  retrySeconds: number;
}

export interface Sending {
  file: LocalFile;
  transfer: Transfer;
  memory: Memory<UploadNote>;
  /** Of the note. */
  key: string;
  gate: Gate;
  options: SendOptions;
}

/** A file of at most so many bytes is sent with the request that creates its upload: there is nothing to resume. */
const SMALL = 256 * 1024;

/** Milliseconds between attempts. Their number has no meaning: `retrySeconds` ends them. */
const DELAYS = [0, 500, 1000, 2000, 4000, ...Array<number>(10_000).fill(8000)];

/**
 * Uploads one file, from the offset that the server has if the upload is known. Its note stays, and the caller removes it when
 * it has no more use.
 * @returns the id of the upload, which is that of the file
 * @throws {Failure}
 */
export async function sendFile(context: Context, sending: Sending): Promise<string> {
  const { signal } = context;
  signal.throwIfAborted();
  const ended = openEnding();
  const onAbort = () => ended.reject(signal.reason);
  signal.addEventListener('abort', onAbort);
  const source = await openSource(sending.file, ended.reject);
  let upload: tus.Upload | undefined;
  try {
    upload = prepare(context, sending, source, ended);
    const [previous] = await upload.findPreviousUploads();
    if (previous) upload.resumeFromPreviousUpload(previous);
    upload.start();
    const id = await ended.promise;
    await source.requireUnchanged();
    return id;
  } finally {
    signal.removeEventListener('abort', onAbort);
    // From here on it calls no handler.
    await upload?.abort();
    await source.close();
  }
}

interface Ending {
  /** The id. */
  promise: Promise<string>;
  resolve(id: string): void;
  reject(reason: unknown): void;
}

function openEnding(): Ending {
  let settle: Omit<Ending, 'promise'> | undefined;
  const promise = new Promise<string>((resolve, reject) => {
    settle = { resolve, reject };
  });
  // It may be rejected before anything waits for it.
  promise.catch(() => {});
  return { promise, resolve: (id) => settle?.resolve(id), reject: (reason) => settle?.reject(reason) };
}

function prepare(context: Context, sending: Sending, source: FileSource, ended: Ending): tus.Upload {
  const { file, key, options } = sending;
  const { server, credentials } = context.api;
  const patience = openPatience({ server, credentials, gate: sending.gate, ...options });
  const upload: tus.Upload = new tus.Upload(file as never, {
    endpoint: `${server}/uploads`,
    chunkSize: options.chunkSize ?? Number.POSITIVE_INFINITY,
    retryDelays: DELAYS,
    fingerprint: async () => key,
    urlStorage: urlStorage(context, sending, ended.reject),
    fileReader: { openFile: async () => ({ ...source, close() {} }) },
    httpStack: impatientStack(),
    uploadDataDuringCreation: file.size > 0 && file.size <= SMALL,
    onBeforeRequest: beforeRequest(context, sending, source),
    onAfterResponse(request, answer) {
      patience.look(request, answer);
      if (request.getMethod() === 'HEAD')
        noteOffset(context, sending, Number(answer.getHeader('Upload-Offset')));
    },
    onShouldRetry(error) {
      const again = patience.isNotOver(error);
      if (again) noteRetry(context, sending, patience.explain(error));
      return again;
    },
    // Behind a proxy that the server does not know, Location may name another origin.
    onUploadUrlAvailable() {
      upload.url = onServer(server, upload.url ?? '');
    },
    onProgress(sent) {
      patience.reached(sent);
      Object.assign(sending.transfer, { done: sent, note: undefined });
    },
    onSuccess: () => ended.resolve(upload.url?.split('/').at(-1) ?? ''),
    onError: (error) => ended.reject(patience.explain(error)),
  });
  return upload;
}

/** @param offset of the answer to HEAD */
function noteOffset({ output }: Context, { file, transfer }: Sending, offset: number): void {
  if (!(offset > transfer.before)) return;
  const share = percent(offset, file.size);
  if (transfer.before === 0 && offset < file.size)
    output.note(`${printable(file.label)}: continues at ${share} %`);
  Object.assign(transfer, { before: offset, done: offset, startedAt: Date.now() });
}

function noteRetry({ output }: Context, { file, transfer }: Sending, failure: Failure): void {
  const note = `trying again: ${failure.message}`;
  // Once for each reason, however often it comes.
  if (transfer.note !== note) output.note(`${printable(file.label)}: ${note}`);
  transfer.note = note;
}

/** The same path on the server that the user named. Another origin must not get the token. */
function onServer(server: string, address: string): string {
  if (address.startsWith(`${server}/`)) return address;
  return new URL(new URL(address).pathname, server).href;
}

/** Remembers the upload before its first byte is sent. */
function urlStorage(
  { api }: Context,
  { file, memory, key }: Sending,
  onFailure: (failure: Failure) => void,
): tus.UrlStorage {
  const { path, size, mtimeMs } = file;
  return {
    findAllUploads: async () => [],
    async findUploadsByFingerprint() {
      const note = await memory.find(key);
      if (!note) return [];
      const { uploadUrl } = note;
      return [
        { size, metadata: {}, creationTime: '', urlStorageKey: key, uploadUrl, parallelUploadUrls: null },
      ];
    },
    async addUpload(_fingerprint, { uploadUrl }) {
      const { server, credentials } = api;
      const note = { server, account: credentials.account, path, size, mtimeMs, uploadUrl: uploadUrl ?? '' };
      try {
        await memory.save(key, note);
        return key;
      } catch (error) {
        onFailure(toFailure(error));
        // tus-js-client handles no error here. It waits until the upload is aborted.
        return new Promise(() => {});
      }
    },
    removeUpload: () => memory.forget(key),
  };
}
