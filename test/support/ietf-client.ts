import { type ClientRequest, type IncomingHttpHeaders, type IncomingMessage, request } from 'node:http';
import type { TestUser } from './client.js';

/*
 * A client of draft-ietf-httpbis-resumable-upload that shows its tests every answer, interim ones too. Versions are those of
 * Upload-Draft-Interop-Version.
 */

export const PARTIAL = 'application/partial-upload';

export interface Spoken {
  status: number;
  headers: IncomingHttpHeaders;
  body: string;
  /** The headers of all 104 answers, in their order. */
  interim: IncomingHttpHeaders[];
}

export interface Utterance {
  /** Null: none is named. */
  version?: number | null;
  headers?: Record<string, string>;
  body?: Uint8Array | undefined;
  /** Whether the body is sent without Content-Length. */
  chunked?: boolean;
}

/** A request that its test writes and ends; `answer` resolves to undefined if the connection ends without an answer. */
export interface Open {
  outgoing: ClientRequest;
  interim: IncomingHttpHeaders[];
  answer: Promise<Spoken | undefined>;
  /** Resolves to the next 104 that has this header, or has had it already. */
  told(header: string): Promise<string>;
}

/** Begins a request, whose head is sent at once. @param address a path or a Location */
export function open(...how: Parameters<typeof prepare>): Open {
  const request = prepare(...how);
  request.outgoing.flushHeaders();
  return request;
}

function prepare(
  url: string,
  user: Pick<TestUser, 'token'>,
  method: string,
  address: string,
  { version = 8, headers = {} }: Omit<Utterance, 'body'> = {},
): Open {
  const outgoing = request(url + address.replace(/^https?:\/\/[^/]+/, ''), {
    method,
    headers: {
      Authorization: `Bearer ${user.token}`,
      ...(version === null ? {} : { 'Upload-Draft-Interop-Version': String(version) }),
      ...headers,
    },
    agent: false,
  });
  const interim: IncomingHttpHeaders[] = [];
  const waiting = new Set<() => void>();
  outgoing.on('information', (info: { statusCode: number; headers: IncomingHttpHeaders }) => {
    if (info.statusCode !== 104) return;
    interim.push(info.headers);
    for (const wake of waiting) wake();
  });
  const answer = new Promise<Spoken | undefined>((resolve) => {
    outgoing.on('response', (incoming: IncomingMessage) => {
      let body = '';
      incoming.setEncoding('utf8').on('data', (text) => {
        body += text;
      });
      incoming.on('end', () =>
        resolve({ status: incoming.statusCode ?? 0, headers: incoming.headers, body, interim }),
      );
      incoming.on('error', () => resolve(undefined));
    });
    outgoing.on('error', () => resolve(undefined)).on('close', () => resolve(undefined));
  });
  return {
    outgoing,
    interim,
    answer,
    told: (header) =>
      new Promise((resolve, reject) => {
        const look = () => {
          const found = interim.find((headers) => headers[header] !== undefined)?.[header];
          if (typeof found === 'string') resolve(found);
        };
        waiting.add(look);
        look();
        outgoing.once('close', () => reject(new Error(`the connection ended without ${header}`)));
      }),
  };
}

/** Sends a whole request. @returns undefined if the connection ends without an answer */
export async function say(
  url: string,
  user: Pick<TestUser, 'token'>,
  method: string,
  address: string,
  { body, chunked = false, headers, ...utterance }: Utterance = {},
): Promise<Spoken | undefined> {
  const length = body && !chunked ? { 'Content-Length': String(body.byteLength) } : {};
  const sent = prepare(url, user, method, address, { ...utterance, headers: { ...length, ...headers } });
  if (chunked) sent.outgoing.flushHeaders();
  sent.outgoing.end(body);
  return sent.answer;
}
