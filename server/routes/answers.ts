import type { z } from 'zod';
import { AppError, type ErrorCode } from '../../core/errors.js';
import type { Access } from '../auth/authenticate.js';
import { KEY_PROBLEMS } from '../idempotency/once.js';

/** An answer that is not JSON: its media type, or null if it has no content. */
export interface Content {
  mediaType: string | null;
}

export const EMPTY: Content = { mediaType: null };

/** The answers of a route when all goes well, by status: a schema of the JSON, or other content. */
export type Answers = Readonly<Record<number, z.ZodType | Content>>;

/**
 * The value that a handler returns: the one that the schema describes; nothing if the answer is not JSON. The
 * compiler accepts further fields in a literal here, so functions that make such a value name its type.
 */
export type Answered<A extends Answers> = {
  // biome-ignore lint/suspicious/noConfusingVoidType: a handler without a return statement returns void
  [Status in keyof A]: A[Status] extends z.ZodType ? z.output<A[Status]> : void;
}[keyof A];

/** A handler returns this when its client is gone: there is nobody to answer. */
export const NOBODY = Symbol('the client is gone');

export function isJson(answer: z.ZodType | Content): answer is z.ZodType {
  return 'safeParse' in answer;
}

/**
 * The status with which a handler's value is answered. Undefined: the handler answers itself, because the status
 * depends on the request.
 */
export function statusOf(answers: Answers): number | undefined {
  const all = Object.entries(answers).map(([status, answer]) => ({ status: Number(status), answer }));
  const json = all.find(({ answer }) => isJson(answer));
  const [only] = all.length === 1 && all[0]?.answer === EMPTY ? all : [];
  return (json ?? only)?.status;
}

/** The part of a route's declaration from which its problems follow. */
interface Declared {
  path: string;
  access: Access;
  params?: z.ZodType;
  body?: z.ZodType;
  limit?: unknown;
  keyed?: boolean;
  problems?: readonly ErrorCode[];
}

/** Every problem that a route may answer: those that its handler declares, and those of what stands before it. */
export function problemsOf(route: Declared): ErrorCode[] {
  const { path, access, params, body, limit, keyed, problems = [] } = route;
  const codes = new Set<ErrorCode>([
    'invalid_request',
    'headers_too_large',
    'internal',
    'unavailable',
    ...(path.startsWith('/health/') ? [] : (['user_agent_denied'] as const)),
    ...(access === 'public' ? [] : (['unauthenticated', 'forbidden'] as const)),
    ...(params ? (['not_found'] as const) : []),
    ...(body ? (['unsupported_media_type', 'too_large', 'request_timeout'] as const) : []),
    // All requests to /api count against the global limit.
    ...(limit || path.startsWith('/api/') ? (['rate_limited'] as const) : []),
    ...(keyed ? KEY_PROBLEMS : []),
    ...problems,
  ]);
  return [...codes].sort((a, b) => new AppError(a).status - new AppError(b).status);
}
