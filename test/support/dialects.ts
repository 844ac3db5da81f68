import { createHash } from 'node:crypto';
import { idOf, type TestUser } from './client.js';
import { type Open, open, PARTIAL, type Spoken, say } from './ietf-client.js';

/*
 * The protocols in which a client can send a file in pieces. A scenario that takes a dialect is written once and runs in
 * each of them.
 */

/** What an answer says about an upload. */
interface Progress {
  /** In bytes. */
  offset: number;
  /** Whether the client may forget its copy of the file. */
  isComplete: boolean;
}

export interface Piece {
  /** In bytes. */
  offset: number;
  body: Buffer;
  /** Whether the upload ends with it. */
  isLast: boolean;
  /** Whether it carries a digest of its body, and so counts as a whole or not at all. */
  checksum?: boolean;
  /** Called with each offset that the server tells before its answer. */
  heard?(offset: number): void;
}

interface Beginning {
  /** Bytes of the upload. */
  length: number;
  /** The piece that is sent first. */
  first: Piece;
  headers?: Record<string, string>;
}

/** An upload that exists. */
interface Begun {
  path: string;
  /** As Dialect.send(). The first piece may be the body of the request that has created the upload. */
  send(piece: Piece): Promise<Progress | undefined>;
}

export interface Dialect {
  /** Creates an upload. @throws {Error} if its address does not become known */
  begin(user: TestUser, beginning: Beginning): Promise<Begun>;
  /**
   * Sends a piece to an upload that exists.
   * @returns undefined if the client has to ask where to go on
   */
  send(user: TestUser, path: string, piece: Piece): Promise<Progress | undefined>;
  /**
   * Asks where to go on.
   * @returns undefined if the client has to ask again
   * @throws {Error} after an answer to which real clients begin anew
   */
  ask(user: TestUser, path: string): Promise<Progress | undefined>;
}

const digestOf = (algorithm: 'sha1' | 'sha256', body: Buffer) =>
  createHash(algorithm).update(body).digest('base64');

/** tus 1.0. The length is known from the beginning. */
export const TUS: Dialect = {
  async begin(user, { length, headers }) {
    const path = await user.create(length, headers);
    return { path, send: (piece) => TUS.send(user, path, piece) };
  },
  async send(user, path, { offset, body, isLast, checksum }) {
    const verified = checksum ? { 'Upload-Checksum': `sha1 ${digestOf('sha1', body)}` } : {};
    const headers = { 'Upload-Offset': String(offset), ...verified };
    const answer = await user.tus('PATCH', path, headers, body as BodyInit).catch(() => undefined);
    if (answer?.status !== 204) return undefined;
    const reached = Number(answer.headers.get('Upload-Offset'));
    return { offset: reached, isComplete: isLast && reached === offset + body.length };
  },
  async ask(user, path) {
    const answer = await user.tus('HEAD', path).catch(() => undefined);
    if (answer && ![200, 423].includes(answer.status)) throw new Error(`HEAD ${path}: ${answer.status}`);
    if (answer?.status !== 200) return undefined;
    const [offset, length] = ['Upload-Offset', 'Upload-Length'].map((name) => answer.headers.get(name));
    return { offset: Number(offset), isComplete: offset === length };
  },
};

/**
 * Version 8 of the draft. The request that creates the upload stays open and brings the first piece. The length is known
 * when the last piece comes.
 *
 * The client resumes after a connection that breaks, as URLSession does. An answer that refuses a request is an error, because
 * URLSession gives up then.
 */
export const IETF: Dialect = {
  async begin(user, { first, headers }) {
    const request = open(user.url(), user, 'POST', '/uploads', { headers: { ...headOf(first), ...headers } });
    const path = `/uploads/${idOf(await request.told('location'))}`;
    let creation: Open | undefined = request;
    return {
      path,
      send(piece) {
        if (!creation) return IETF.send(user, path, piece);
        const sent = sendBody(creation, piece);
        creation = undefined;
        return sent;
      },
    };
  },
  send(user, path, piece) {
    const headers = { 'Content-Type': PARTIAL, 'Upload-Offset': String(piece.offset), ...headOf(piece) };
    return sendBody(open(user.url(), user, 'PATCH', path, { headers }), piece);
  },
  async ask(user, path) {
    const answer = await say(user.url(), user, 'HEAD', path);
    return answer && readProgress(answer);
  },
};

function headOf({ body, isLast, checksum }: Piece): Record<string, string> {
  return {
    'Upload-Complete': isLast ? '?1' : '?0',
    'Content-Length': String(body.length),
    ...(checksum ? { 'Content-Digest': `sha-256=:${digestOf('sha256', body)}:` } : {}),
  };
}

async function sendBody({ outgoing, answer, interim }: Open, piece: Piece): Promise<Progress | undefined> {
  outgoing.end(piece.body);
  const answered = await answer;
  for (const { 'upload-offset': offset } of interim) {
    if (offset !== undefined) piece.heard?.(Number(offset));
  }
  return answered && readProgress(answered);
}

/** @throws {Error} if the answer is a refusal */
function readProgress({ status, headers, body }: Spoken): Progress {
  if (status !== 201 && status !== 204) throw new Error(`${status} ${body}`);
  return { offset: Number(headers['upload-offset']), isComplete: headers['upload-complete'] === '?1' };
}
