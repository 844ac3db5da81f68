import { createHash } from 'node:crypto';
import { type FileHandle, open, stat } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { EXIT, Failure } from './failure.js';
import type { LocalFile } from './selection.js';
import { printable } from './text.js';

/** The bytes of one file, which must not change while they are sent. */
export interface FileSource {
  size: number;
  /** Opens the bytes from `start` until before `end`, and closes what was opened before. */
  slice(start: number, end: number): Promise<{ value: Readable; done: boolean }>;
  /** SHA-256 of all bytes, hex. */
  hash(signal: AbortSignal): Promise<string>;
  /** @throws {Failure} when the file is not as it was selected any more */
  requireUnchanged(): Promise<void>;
  close(): Promise<void>;
}

const READ_BYTES = 256 * 1024;

/**
 * The file stays open until close(), so that all bytes are those of one file even if another one takes its name.
 * @param onFailure called when the file cannot be read, or ends too early
 */
export async function openSource(
  file: LocalFile,
  onFailure: (failure: Failure) => void,
): Promise<FileSource> {
  const handle = await open(file.path, 'r').catch((error) => {
    throw unreadable(file, error);
  });
  const { size } = file;
  let current: Readable | undefined;

  return {
    size,
    async slice(start, end) {
      current?.destroy();
      const last = Math.min(end, size);
      current = Readable.from(read(handle, file, start, last), { objectMode: false }).on('error', onFailure);
      // tus-js-client takes the length of the body from here.
      return { value: Object.assign(current, { size: last - start }), done: end >= size };
    },
    async hash(signal) {
      const hash = createHash('sha256');
      for await (const chunk of read(handle, file, 0, size)) {
        signal.throwIfAborted();
        hash.update(chunk);
      }
      return hash.digest('hex');
    },
    async requireUnchanged() {
      const now = await stat(file.path).catch(() => undefined);
      if (now?.size !== size || now.mtimeMs !== file.mtimeMs) throw changed(file);
    },
    async close() {
      current?.destroy();
      await handle.close();
    },
  };
}

/** A stream of `node:fs` would close the file together with itself, whatever its options say. */
async function* read(
  handle: FileHandle,
  file: LocalFile,
  start: number,
  end: number,
): AsyncGenerator<Buffer> {
  for (let position = start; position < end; ) {
    const buffer = Buffer.allocUnsafe(Math.min(READ_BYTES, end - position));
    const { bytesRead } = await handle.read(buffer, 0, buffer.length, position).catch((error) => {
      throw unreadable(file, error);
    });
    if (bytesRead === 0) throw changed(file);
    position += bytesRead;
    yield buffer.subarray(0, bytesRead);
  }
}

function unreadable({ label }: LocalFile, { code }: NodeJS.ErrnoException): Failure {
  return new Failure(EXIT.failed, `${printable(label)} cannot be read (${code})`);
}

function changed({ label }: LocalFile): Failure {
  return new Failure(EXIT.failed, `${printable(label)} has changed while it was uploaded: upload it again`);
}
