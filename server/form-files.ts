import type { IncomingMessage } from 'node:http';
import { setImmediate as turn } from 'node:timers/promises';
import { Busboy, type BusboyFileStream, type BusboyInstance } from '@fastify/busboy';
import { AppError } from '../core/errors.js';

/*
 * The files of a form (multipart/form-data, RFC 7578), one after the other, as their bytes come from the socket.
 *
 * A part is a file if it has a file name; all others are read past. One chunk of the body may hold the ends and
 * beginnings of many parts, so the next one is given to the parser only when every file of the last one was taken.
 * What is broken in certain ways, the parser answers with silence; silence is an error here, see `through`. What is not content of a file (headers, fields, what stands before and behind the parts) is limited, in number and in
 * bytes: a form cannot keep the server busy without bringing a file.
 */

const MAX_FILES = 100;
const MAX_FIELDS = 100;

/** Bytes of one part's headers; what exceeds them is cut off. */
const MAX_PART_HEADERS = 16 * 1024;

/** Bytes of a form besides the content of its files. */
const MAX_OVERHEAD = 1024 ** 2;

const BROKEN = 'The form ends too early, or its parts are not divided by its boundary';

/** RFC 2046, 5.1.1: "Boundary delimiters must not be longer than 70 characters". */
const BOUNDARY = /;\s*boundary=("[^"]{1,70}"|[^\s;"]{1,70})\s*(;|$)/i;

export interface FormFile {
  filename: string;
  /** Without parameters. RFC 7578, 4.4: text/plain if the part does not say. */
  type: string;
  content: AsyncIterable<Uint8Array>;
}

/** Whether the body of a request is a form with files. */
export function isForm(req: IncomingMessage): boolean {
  return /^multipart\/form-data\s*(;|$)/i.test(req.headers['content-type'] ?? '');
}

/**
 * The files of a form. The content of each must be read to its end before the next is asked for.
 * @param body of a request for which isForm() holds
 * @throws {AppError} invalid_request, also while content is read; what `body` throws
 */
export async function* readForm(
  req: IncomingMessage,
  body: AsyncIterableIterator<Uint8Array>,
): AsyncGenerator<FormFile> {
  const parser = createParser(req);
  /** Found and not yet taken. */
  const found: FormFile[] = [];
  /** The one that the parser is in, or was in last. */
  let last: BusboyFileStream | undefined;
  /** Bytes of content of the files before that. */
  let before = 0;
  let received = 0;
  let failure: unknown;
  let ended = false;
  /** How often the reader has asked, for a file or for content of one, and whether it waits for the answer. */
  let asked = 0;
  let asking = false;
  let wake = () => {};
  /** Until something has changed. Never do both sides wait: feed() does while nobody asks, the reader while it asks. */
  const changed = () =>
    new Promise<void>((resolve) => {
      wake = resolve;
    });

  const fail = (error: unknown) => {
    if (ended) return;
    failure = error;
    ended = true;
    last?.destroy(error as Error);
    wake();
  };
  const refuse = (detail: string) => () => fail(invalid(detail));
  parser.on('error', refuse(BROKEN));
  parser.on('filesLimit', refuse(`A form may hold at most ${MAX_FILES} files`));
  parser.on('fieldsLimit', refuse(`A form may hold at most ${MAX_FIELDS} fields`));
  parser.on('partsLimit', refuse(`A form may hold at most ${MAX_FILES + MAX_FIELDS} parts`));
  parser.on('file', (_field, stream, filename, _encoding, type) => {
    before += last?.bytesRead ?? 0;
    last = stream;
    // Its reader is told; without one nobody needs to be.
    stream.on('error', () => {});
    found.push({ filename, type, content: contentOf(stream) });
    wake();
  });

  async function ask<T>(question: () => Promise<T>): Promise<T> {
    asked++;
    asking = true;
    wake();
    try {
      return await question();
    } finally {
      asking = false;
    }
  }

  async function* contentOf(stream: BusboyFileStream): AsyncGenerator<Uint8Array> {
    const chunks = stream[Symbol.asyncIterator]();
    try {
      for (;;) {
        const next = await ask(() => chunks.next());
        if (next.done) break;
        yield next.value;
      }
    } catch (error) {
      throw failure ?? error;
    } finally {
      stream.destroy();
    }
    // A part that breaks off ends like one that is whole.
    if (failure) throw failure;
  }

  /**
   * Until the parser is through with what it was given. It works in ticks, and all of those come before the next turn
   * of the event loop: longer it takes only while content is not read. Whoever asks and has no answer by then will
   * never get one.
   */
  async function through(isThrough: () => boolean): Promise<void> {
    while (!isThrough() && !ended) {
      const question = asked;
      await (asking ? turn() : changed());
      if (asking && asked === question && !isThrough()) throw invalid(BROKEN);
    }
  }

  async function feed(): Promise<void> {
    // After an end within the form it comes before all bytes were given.
    let finished = false;
    parser.once('finish', () => {
      finished = true;
      wake();
    });
    for await (const chunk of body) {
      received += chunk.byteLength;
      let taken = false;
      parser.write(chunk, () => {
        taken = true;
        wake();
      });
      await through(() => taken);
      while (found.length > 0 && !ended) await changed();
      if (ended) return;
      if (received - before - (last?.bytesRead ?? 0) > MAX_OVERHEAD) {
        throw invalid(`A form may hold at most ${MAX_OVERHEAD} bytes besides its files`);
      }
    }
    parser.end();
    await through(() => finished);
    ended = true;
    wake();
  }

  // All that had come was given: who still asks then asks in vain.
  const onGone = () => {
    if (asking) fail(invalid('The connection broke'));
  };
  req.socket.once('close', onGone);
  feed().catch(fail);
  try {
    for (;;) {
      await ask(async () => {
        while (found.length === 0 && !ended) await changed();
      });
      if (failure) throw failure;
      const file = found.shift();
      if (!file) return;
      wake();
      yield file;
    }
  } finally {
    req.socket.off('close', onGone);
    fail(undefined);
    await body.return?.();
  }
}

function createParser(req: IncomingMessage): BusboyInstance {
  const contentType = req.headers['content-type'] ?? '';
  if (!BOUNDARY.test(contentType)) throw noBoundary();
  try {
    return new Busboy({
      headers: { 'content-type': contentType },
      // It waits for room that nobody tells it of, if the end of the form comes in a chunk that is larger than this.
      highWaterMark: Number.MAX_SAFE_INTEGER,
      isPartAFile: (_field, _type, filename) => Boolean(filename),
      limits: {
        files: MAX_FILES,
        fields: MAX_FIELDS,
        parts: MAX_FILES + MAX_FIELDS,
        // Nobody looks at them.
        fieldSize: 0,
        headerSize: MAX_PART_HEADERS,
        headerPairs: 32,
      },
    });
  } catch (error) {
    throw noBoundary(error);
  }
}

function noBoundary(cause?: unknown): AppError {
  return new AppError('invalid_request', {
    detail: 'Content-Type: multipart/form-data must name its boundary, of 1 to 70 characters',
    cause,
  });
}

function invalid(detail: string): AppError {
  return new AppError('invalid_request', { detail });
}
