import type { IncomingMessage, ServerResponse } from 'node:http';
import { pipeline } from 'node:stream/promises';
import zlib from 'node:zlib';
import { AppError } from '../../core/errors.js';

/*
 * Content-Encoding of requests (RFC 9110, 8.4). Where the whole body is one file, its coding is undone; everywhere else a
 * body that has one is refused: the bytes of a PATCH are a piece of the file, and no JSON here is worth compressing.
 */

type Decoder = zlib.Gunzip | zlib.BrotliDecompress;

/** What one decoder gives at a time, in bytes. */
const CHUNK = 64 * 1024;

/**
 * The largest window of Zstandard, as a power of two (8 MiB). RFC 9659, 3: "Compressors MUST NOT emit frames requiring a
 * window size larger than 8 MB, and decompressors MUST support this window size." Node would take 128 MiB for each.
 */
const ZSTD_WINDOW_LOG = 23;

/** Node has it since 22.15. */
const { createZstdDecompress } = zlib as unknown as {
  createZstdDecompress?: (options: zlib.BrotliOptions) => Decoder;
};

const DECODERS: Record<string, () => Decoder> = {
  gzip: () => zlib.createGunzip({ chunkSize: CHUNK }),
  deflate: () => zlib.createInflate({ chunkSize: CHUNK }),
  br: () => zlib.createBrotliDecompress({ chunkSize: CHUNK }),
  ...(createZstdDecompress && {
    zstd: () =>
      createZstdDecompress({
        chunkSize: CHUNK,
        params: { [(zlib.constants as Record<string, number>).ZSTD_d_windowLogMax ?? 100]: ZSTD_WINDOW_LOG },
      }),
  }),
};

/** Express' requests know their answer. */
type CodedRequest = IncomingMessage & { res?: ServerResponse | undefined };

/**
 * The coding of a body, which is to be undone.
 * @returns undefined if it has none
 * @throws {AppError} unsupported_media_type where it is not known, or more than one
 */
export function codingOf(req: CodedRequest): string | undefined {
  const codings = listCodings(req);
  const [coding] = codings;
  if (codings.length > 1 || (coding !== undefined && !Object.hasOwn(DECODERS, coding))) {
    throw unsupported(req, Object.keys(DECODERS).join(', '));
  }
  return coding;
}

/** @throws {AppError} unsupported_media_type if the body has any coding */
export function refuseCoding(req: CodedRequest): void {
  if (listCodings(req).length > 0) throw unsupported(req, 'identity');
}

/** "Two or more encodings are listed in the order in which they were applied"; "x-gzip" is gzip (8.4.1.3). */
function listCodings({ headers }: IncomingMessage): string[] {
  return (headers['content-encoding'] ?? '')
    .toLowerCase()
    .split(',')
    .map((name) => name.trim().replace(/^x-gzip$/, 'gzip'))
    .filter((name) => name !== '' && name !== 'identity');
}

/**
 * RFC 9110, 15.5.16: "If the problem was caused by an unsupported content coding, the Accept-Encoding response header
 * field ought to be used to indicate which (if any) content codings would have been accepted in the request."
 */
function unsupported({ res }: CodedRequest, accepted: string): AppError {
  if (!res?.headersSent) res?.setHeader('Accept-Encoding', accepted);
  return new AppError('unsupported_media_type', {
    detail: `Content-Encoding may be, and once only: ${accepted}`,
  });
}

/**
 * Undoes a coding as the bytes come, a piece at a time.
 * @param coding from codingOf()
 * @throws {AppError} invalid_request where the bytes are not of that coding, end too early or go on behind its end; what
 * `source` throws
 */
export async function* decode(coding: string, source: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  const decoder = (DECODERS[coding] as () => Decoder)();
  let fed = 0;
  async function* feed(): AsyncGenerator<Uint8Array> {
    for await (const chunk of source) {
      fed += chunk.byteLength;
      yield chunk;
    }
  }
  // Its errors are those of the decoder, which its reader is told.
  const feeding = pipeline(feed(), decoder).catch(() => {});
  try {
    yield* decoder;
  } catch (error) {
    if (error instanceof AppError) throw error;
    throw notCoded(coding, error);
  } finally {
    decoder.destroy();
  }
  await feeding;
  if (fed > decoder.bytesWritten) throw notCoded(coding);
}

function notCoded(coding: string, cause?: unknown): AppError {
  const detail = `The body is not what its Content-Encoding says (${coding}), or not all of it`;
  return new AppError('invalid_request', { detail, cause });
}
