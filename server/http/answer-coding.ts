import { randomBytes, randomInt } from 'node:crypto';
import { promisify } from 'node:util';
import { brotliCompress, constants, gzip } from 'node:zlib';
import type { Request, Response } from 'express';
import Negotiator from 'negotiator';

/*
 * Content-Encoding of answers (RFC 9110, 8.4 and 12.5.3). content-coding.ts has that of requests.
 */

/** In the order of our preference: Brotli makes less of the same bytes. */
export const ANSWER_CODINGS = ['br', 'gzip'] as const;

export type AnswerCoding = (typeof ANSWER_CODINGS)[number];

/** The types of the package do not name `preferred`, which decides between codings that the client likes as much. */
interface Client {
  encodings(available: readonly string[], options: { preferred: readonly string[] }): string[];
}

/**
 * Chooses the coding of an answer by Accept-Encoding, and says in Vary that the answer depends on that header: call it for
 * every answer that might be compressed, 304 included. A client without the header gets no coding, though RFC 9110,
 * 12.5.3, would allow any: such clients are simple ones.
 * @param available those in which there is an answer, the best first
 * @returns undefined if the answer goes out as it is, because the client prefers that or accepts nothing else
 */
export function chooseCoding(
  req: Request,
  res: Response,
  available: readonly AnswerCoding[] = ANSWER_CODINGS,
): AnswerCoding | undefined {
  res.vary('Accept-Encoding');
  const client: Client = new Negotiator(req);
  const [best] = client.encodings([...available, 'identity'], { preferred: available });
  return available.find((coding) => coding === best);
}

/** Compressing an answer of fewer characters would save less than a packet. */
const LEAST_LENGTH = 1024;

/** Sends JSON, compressed if there is a coding for it and if it is long enough. */
export async function sendJson(res: Response, json: string, coding: AnswerCoding | undefined): Promise<void> {
  res.type('json');
  if (!coding || json.length < LEAST_LENGTH) {
    res.send(json);
    return;
  }
  const body = await compress(json + padding(), coding);
  res.setHeader('Content-Encoding', coding);
  res.send(body);
}

const toBrotli = promisify(brotliCompress);
const toGzip = promisify(gzip);

/** Compresses in a thread, as fast as gzip. */
export function compress(text: string, coding: AnswerCoding): Promise<Buffer> {
  if (coding === 'gzip') return toGzip(text);
  const { BROTLI_PARAM_QUALITY, BROTLI_PARAM_SIZE_HINT } = constants;
  return toBrotli(text, { params: { [BROTLI_PARAM_QUALITY]: 4, [BROTLI_PARAM_SIZE_HINT]: text.length } });
}

const LONGEST_PADDING = 200;

const WHITESPACE = ' \t\n\r';

/**
 * Random white space, which may follow JSON, of random length: compressed, up to about 200 bytes. Signed links stand
 * beside names that guests choose. Without the padding, the size of a compressed answer would tell whether a name repeats
 * a part of a link, even to a listener who cannot decrypt the answer (BREACH).
 */
function padding(): string {
  const bytes = randomBytes(randomInt(LONGEST_PADDING + 1));
  return Array.from(bytes, (byte) => WHITESPACE[byte % WHITESPACE.length]).join('');
}
