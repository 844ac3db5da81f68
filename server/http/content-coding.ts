import type { IncomingMessage, ServerResponse } from 'node:http';
import { pipeline } from 'node:stream/promises';
import zlib from 'node:zlib';
import { AppError } from '../../core/errors.js';

/*
 * Content-Encoding of requests (RFC 9110, 8.4). If the whole body is one file, it is decoded. Other bodies
 * with a coding are refused: the bytes of a PATCH are a piece of the file, and no JSON here is worth
 * compressing.
 */

type Decoder = zlib.Gunzip | zlib.BrotliDecompress;

/** The largest chunk that a decoder emits, in bytes. */
const CHUNK = 64 * 1024;

/**
 * The largest window of Zstandard, as a power of two (8 MiB). RFC 9659, 3: "Compressors MUST NOT emit frames
 * requiring a window size larger than 8 MB, and decompressors MUST support this window size." Node would
 * allow 128 MiB for each.
 */
const ZSTD_WINDOW_LOG = 23;

/** Node has this function since 22.15. */
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

/** Requests of Express refer to their answer. */
type CodedRequest = IncomingMessage & { res?: ServerResponse | undefined };

/**
 * Returns the coding of a body that is to be decoded.
 * @returns undefined if the body has no coding
 * @throws {AppError} unsupported_media_type for an unknown coding or more than one
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
    detail: `Content-Encoding must name one of: ${accepted}`,
  });
}

/**
 * Decodes the bytes as they come, chunk by chunk.
 * @param coding from codingOf()
 * @throws {AppError} invalid_request when the bytes do not have that coding, end too early or continue after
 * its end; and the errors of `source`
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
  // The pipeline's errors reach the reader through the decoder.
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
  const detail = `The body is not complete ${coding}, as its Content-Encoding says`;
  return new AppError('invalid_request', { detail, cause });
}
