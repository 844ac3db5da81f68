import type { IncomingMessage } from 'node:http';
import { Busboy, type BusboyFileStream, type BusboyInstance } from '@fastify/busboy';
import { AppError } from '../../core/errors.js';
import type { ByteSource, Take } from '../../core/uploads/receive.js';
import { flowFrom } from '../http/flow.js';
import { createDialogue } from './form-dialogue.js';

/*
 * Yields the files of a form (multipart/form-data, RFC 7578) one after the other, while their bytes come from
 * the socket.
 *
 * A part is a file if it has a file name. Of the other parts, the field `settings` holds for the files after it, and all
 * others are skipped. One chunk of the body may contain the
 * ends and beginnings of many parts, so the parser gets the next chunk only after every file of the last one
 * was taken. The parser does not report some kinds of broken forms: see createDialogue(). All bytes outside
 * the content of files (headers, fields, text before and after the parts) are limited in number and size, so
 * a form cannot keep the server busy without sending a file.
 */

export const MAX_FILES = 100;
const MAX_FIELDS = 100;

/** Bytes of the field `settings`. */
const MAX_SETTINGS = 4096;

/** Bytes of one part's headers; the rest is cut off. */
const MAX_PART_HEADERS = 16 * 1024;

/** Bytes of a form outside the content of its files. */
const MAX_OVERHEAD = 1024 ** 2;

const BROKEN = 'The form ends too early, or its parts are not divided by its boundary';

/** RFC 2046, 5.1.1: "Boundary delimiters must not be longer than 70 characters". */
const BOUNDARY = /;\s*boundary=("[^"]{1,70}"|[^\s;"]{1,70})\s*(;|$)/i;

export interface FormFile {
  filename: string;
  /** Without parameters. RFC 7578, 4.4: text/plain if the part does not name a type. */
  type: string;
  /** JSON; absent: the form has none. */
  settings?: string;
  content: ByteSource;
}

/** Whether the body of a request is a form with files. */
export function isForm(req: IncomingMessage): boolean {
  return /^multipart\/form-data\s*(;|$)/i.test(req.headers['content-type'] ?? '');
}

/**
 * Yields the files of a form. The reader must read the content of each file to its end before it asks for the
 * next one.
 * @param body the body of a request for which isForm() holds
 * @throws {AppError} invalid_request, also while content is read; and the errors of `body`
 */
export async function* readForm(req: IncomingMessage, body: ByteSource): AsyncGenerator<FormFile> {
  const parser = createParser(req);
  /** Files that were found and not yet taken. */
  const found: FormFile[] = [];
  /** The file that the parser is reading or has read last. */
  let last: BusboyFileStream | undefined;
  /** Bytes of content of the files before it. */
  let before = 0;
  let received = 0;
  let settings: string | undefined;
  let failure: unknown;
  let ended = false;
  const dialogue = createDialogue(() => invalid(BROKEN));
  const { ask, notify, changed, settled, isAsking } = dialogue;

  const fail = (error: unknown) => {
    if (ended) return;
    failure = error;
    ended = true;
    last?.destroy(error as Error);
    body.end();
    notify();
  };
  const refuse = (detail: string) => () => fail(invalid(detail));
  parser.on('error', refuse(BROKEN));
  parser.on('filesLimit', refuse(`A form may hold at most ${MAX_FILES} files`));
  parser.on('fieldsLimit', refuse(`A form may hold at most ${MAX_FIELDS} fields`));
  parser.on('partsLimit', refuse(`A form may hold at most ${MAX_FILES + MAX_FIELDS} parts`));
  parser.on('field', (field, value, _isNameCut, isCut) => {
    if (field !== 'settings') return;
    if (isCut) fail(invalid(`The field settings may have at most ${MAX_SETTINGS} bytes`));
    // Those before it are stored already, without these settings.
    if (last) fail(invalid('The field settings must come before the files'));
    settings = value;
  });
  parser.on('file', (_field, stream, filename, _encoding, type) => {
    before += last?.bytesRead ?? 0;
    last = stream;
    // The reader of the stream gets the error. Without a reader it can be ignored.
    stream.on('error', () => {});
    found.push({
      filename: unescaped(filename),
      type,
      ...(settings === undefined ? {} : { settings }),
      content: { flow: (take) => readContent(stream, take), end: body.end },
    });
    notify();
  });

  async function readContent(stream: BusboyFileStream, take: Take): Promise<void> {
    try {
      await ask(() => flowFrom(stream, dialogue.countAnswers(take)));
    } catch (error) {
      throw failure ?? error;
    } finally {
      stream.destroy();
    }
    // The parser ends a truncated part like a complete one.
    if (failure) throw failure;
  }

  /** Gives the parser a chunk. Resolves when it has processed the chunk, and all files in it were taken. */
  async function parse(chunk: Uint8Array): Promise<void> {
    received += chunk.byteLength;
    let taken = false;
    parser.write(chunk, () => {
      taken = true;
      notify();
    });
    await settled(() => taken || ended);
    while (found.length > 0 && !ended) await changed();
    if (!ended && received - before - (last?.bytesRead ?? 0) > MAX_OVERHEAD) {
      throw invalid(`A form may hold at most ${MAX_OVERHEAD} bytes besides its files`);
    }
  }

  async function feed(): Promise<void> {
    // If the form ends within the body, the parser finishes before it gets all bytes.
    let finished = false;
    parser.once('finish', () => {
      finished = true;
      notify();
    });
    let parsing: Promise<void> | undefined;
    const flowing = body.flow((chunk) => {
      parsing = parse(chunk).catch(fail);
      return parsing;
    });
    // Also after an error: the parser has all bytes that were received before it.
    await flowing.finally(() => parsing);
    if (ended) return;
    parser.end();
    await settled(() => finished || ended);
    ended = true;
    notify();
  }

  // All received bytes were given to the parser, so a reader that still asks gets nothing more.
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
  }
}

/**
 * HTML, "multipart/form-data encoding algorithm": in a file's name browsers "replace every occurrence of
 * U+000D (CR) not followed by U+000A (LF) … with `%0D`". They escape LF and quotes alike, and nothing else:
 * `50%off` and `%25` are literal.
 */
function unescaped(filename: string): string {
  return filename.replaceAll(/%(22|0D|0A)/g, (escaped) => decodeURIComponent(escaped));
}

function createParser(req: IncomingMessage): BusboyInstance {
  const contentType = req.headers['content-type'] ?? '';
  if (!BOUNDARY.test(contentType)) throw noBoundary();
  try {
    return new Busboy({
      headers: { 'content-type': contentType },
      // With a lower mark the parser waits for ever after a skipped part that is larger than the mark.
      highWaterMark: Number.MAX_SAFE_INTEGER,
      isPartAFile: (_field, _type, filename) => Boolean(filename),
      limits: {
        files: MAX_FILES,
        fields: MAX_FIELDS,
        parts: MAX_FILES + MAX_FIELDS,
        fieldSize: MAX_SETTINGS,
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
