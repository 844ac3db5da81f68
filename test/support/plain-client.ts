import { createHash } from 'node:crypto';
import { type ClientRequest, request } from 'node:http';
import { Readable } from 'node:stream';
import type { FileJson, TestUser } from './client.js';

/* A client that uses POST /api/files and not tus. */

export const MIB = 1024 ** 2;
export const BOUNDARY = 'the-boundary';
export const FORM_TYPE = `multipart/form-data; boundary=${BOUNDARY}`;

export const sha256 = (content: Uint8Array | string) => createHash('sha256').update(content).digest('hex');

export type Body = Uint8Array | string | Readable | FormData;

/** Sends one POST /api/files, as a stream without Content-Length if the body is one. */
export function post(
  user: TestUser,
  body: Body,
  headers: Record<string, string> = {},
  query = '',
): Promise<Response> {
  return user.fetch(`/api/files${query}`, {
    method: 'POST',
    headers,
    body: body as BodyInit,
    duplex: 'half',
  } as RequestInit);
}

export async function filesOf(answer: Response): Promise<(FileJson & { etaSeconds: number | null })[]> {
  if (answer.status !== 201) throw new Error(`${answer.status} ${await answer.text()}`);
  return (await answer.json()).files;
}

export async function expectProblem(answer: Response, status: number, code: string): Promise<string> {
  const problem = await answer.json();
  expect({ status: answer.status, code: problem.code, problem }).toMatchObject({ status, code });
  expect(answer.headers.get('Content-Type')).toMatch(/^application\/problem\+json/);
  return problem.detail;
}

/** One part of a form. */
export const part = (headers: string, content: Uint8Array | string = '') =>
  Buffer.concat([
    Buffer.from(`--${BOUNDARY}\r\n${headers}\r\n\r\n`),
    Buffer.from(content),
    Buffer.from('\r\n'),
  ]);
export const filePart = (name: string, content: Uint8Array | string = '') =>
  part(`Content-Disposition: form-data; name="file"; filename="${name}"`, content);
export const END = Buffer.from(`--${BOUNDARY}--\r\n`);
export const form = (...parts: Buffer[]) => Buffer.concat([...parts, END]);

/** Cuts content into pieces whose sizes match no buffer or chunk of the server. */
function* pieces(content: Buffer, size = 70_001): Generator<Buffer> {
  for (let at = 0; at < content.length; at += size) yield content.subarray(at, at + size);
}
export const streamOf = (content: Buffer, size?: number) => Readable.from(pieces(content, size));

/** A POST whose body is written by the test. */
export function begin(url: string, user: TestUser, headers: Record<string, string>): ClientRequest {
  const outgoing = request(`${url}/api/files`, {
    method: 'POST',
    headers: { Authorization: `Bearer ${user.token}`, ...headers },
  });
  outgoing.on('error', () => {});
  return outgoing;
}
