import type { IncomingMessage, ServerResponse } from 'node:http';
import zlib from 'node:zlib';
import { AppError } from '../../core/errors.js';
import type { ByteSource } from '../../core/uploads/receive.js';
import { flowFrom } from './flow.js';

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

/** The codings that are decoded. */
export const CONTENT_CODINGS = Object.keys(DECODERS);

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
    throw unsupported(req, CONTENT_CODINGS.join(', '));
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
 * @throws {AppError} (from flow) invalid_request when the bytes do not have that coding, end too early or continue after
 * its end; and the errors of `source`
 */
export function decode(coding: string, source: ByteSource): ByteSource {
  return {
    end: source.end,
    async flow(take) {
      const decoder = (DECODERS[coding] as () => Decoder)();
      let fed = 0;
      const feeding = source
        .flow((chunk) => {
          fed += chunk.byteLength;
          return decoder.write(chunk) ? undefined : drained(decoder);
        })
        .then(
          () => decoder.end(),
          (error: unknown) => decoder.destroy(error as Error),
        );
      try {
        await flowFrom(decoder, take);
      } catch (error) {
        throw error instanceof AppError ? error : notCoded(coding, error);
      } finally {
        decoder.destroy();
        source.end();
      }
      await feeding;
      if (fed > decoder.bytesWritten) throw notCoded(coding);
    },
  };
}

/** Resolves when the decoder takes more, or will never take more. */
function drained(decoder: Decoder): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      decoder.off('drain', done).off('close', done);
      resolve();
    };
    decoder.on('drain', done).on('close', done);
  });
}

function notCoded(coding: string, cause?: unknown): AppError {
  const detail = `The body is not complete ${coding}, as its Content-Encoding says`;
  return new AppError('invalid_request', { detail, cause });
}
