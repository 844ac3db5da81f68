import type { IncomingMessage } from 'node:http';
import { setImmediate as turn } from 'node:timers/promises';
import { Busboy, type BusboyFileStream, type BusboyInstance } from '@fastify/busboy';
import { AppError } from '../../core/errors.js';

/*
 * The files of a form (multipart/form-data, RFC 7578), one after the other, as their bytes come from the socket.
 *
 * A part is a file if it has a file name; all others are read past. One chunk of the body may hold the ends and
 * beginnings of many parts, so the next one is given to the parser only when every file of the last one was taken.
 * To forms that are broken in certain ways the parser says nothing at all: see createDialogue(). What is not content of a
 * file (headers, fields, what stands before and behind the parts) is limited, in number and in bytes: a form cannot keep the
 * server busy without bringing a file.
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
  const { ask, notify, changed, settled, isAsking } = createDialogue();

  const fail = (error: unknown) => {
    if (ended) return;
    failure = error;
    ended = true;
    last?.destroy(error as Error);
    notify();
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
    found.push({ filename: unescaped(filename), type, content: contentOf(stream) });
    notify();
  });

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

  async function feed(): Promise<void> {
    // After an end within the form it comes before all bytes were given.
    let finished = false;
    parser.once('finish', () => {
      finished = true;
      notify();
    });
    for await (const chunk of body) {
      received += chunk.byteLength;
      let taken = false;
      parser.write(chunk, () => {
        taken = true;
        notify();
      });
      await settled(() => taken || ended);
      while (found.length > 0 && !ended) await changed();
      if (ended) return;
      if (received - before - (last?.bytesRead ?? 0) > MAX_OVERHEAD) {
        throw invalid(`A form may hold at most ${MAX_OVERHEAD} bytes besides its files`);
      }
    }
    parser.end();
    await settled(() => finished || ended);
    ended = true;
    notify();
  }

  // All that had come was given: who still asks then asks in vain.
  const onGone = () => {
    if (isAsking()) fail(invalid('The connection broke'));
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
      notify();
      yield file;
    }
  } finally {
    req.socket.off('close', onGone);
    fail(undefined);
    await body.return?.();
  }
}

/**
 * HTML, "multipart/form-data encoding algorithm": of a file's name browsers "replace every occurrence of U+000D (CR) not
 * followed by U+000A (LF) … with `%0D`" and LF and quotes alike, and nothing else: `50%off` and `%25` are as they were.
 */
function unescaped(filename: string): string {
  return filename.replaceAll(/%(22|0D|0A)/g, (escaped) => decodeURIComponent(escaped));
}

/**
 * Between the parser, which is fed, and the reader, who asks for files and for their content. Never do both sides wait
 * for `changed`: the reader only while it asks, feed() only while it does not, or has not taken what was found.
 */
function createDialogue() {
  let asked = 0;
  let asking = false;
  let wake = () => {};
  const changed = () =>
    new Promise<void>((resolve) => {
      wake = resolve;
    });
  return {
    changed,
    /** Tells who waits that something has changed. */
    notify: () => wake(),
    isAsking: () => asking,
    /** Waits for what the reader wants. */
    async ask<T>(wanted: () => Promise<T>): Promise<T> {
      asked++;
      asking = true;
      wake();
      try {
        return await wanted();
      } finally {
        asking = false;
      }
    },
    /**
     * Waits until the parser is through with what it was given. It works in ticks, which all come before the next turn
     * of the event loop; only content that nobody reads can keep it longer. So if the reader asks, and has no answer
     * in the next turn, there will never be one.
     * @throws {AppError} invalid_request
     */
    async settled(isThrough: () => boolean): Promise<void> {
      while (!isThrough()) {
        const question = asked;
        await (asking ? turn() : changed());
        if (asking && asked === question && !isThrough()) throw invalid(BROKEN);
      }
    },
  };
}

function createParser(req: IncomingMessage): BusboyInstance {
  const contentType = req.headers['content-type'] ?? '';
  if (!BOUNDARY.test(contentType)) throw noBoundary();
  try {
    return new Busboy({
      headers: { 'content-type': contentType },
      // Else it waits for ever if a part that is read past is larger than this, and the end of the form comes with it.
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
