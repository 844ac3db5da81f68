import { createHash } from 'node:crypto';
import { type Request, type RequestHandler, type Response, Router } from 'express';
import type { z } from 'zod';
import { AppError, type ErrorCode } from '../../core/errors.js';
import type { Access, Authenticate, LinkAccess } from '../auth/authenticate.js';
import { can, type Owned } from '../auth/can.js';
import { actorOf, type Principal, type SignedInActor } from '../auth/principal.js';
import type { Refusals } from '../auth/refusals.js';
import { chooseCoding, sendJson } from '../http/answer-coding.js';
import { knowsTag } from '../http/conditions.js';
import { readJson } from '../http/json-body.js';
import type { Answer, Once } from '../idempotency/once.js';
import type { Bucket, Limits } from '../limits/limits.js';
import { type Answered, type Answers, NOBODY, statusOf } from './answers.js';

/**
 * A route, declared once. Its handler sees only the values that its schemas describe, and returns the value that
 * they describe. The OpenAPI document, the page's types and the access matrix derive from the declaration.
 */
export interface Route<P, Q, B, A extends Answers, H = unknown> {
  method: 'get' | 'post' | 'put' | 'patch' | 'delete';
  path: string;
  /** The action that the caller must be allowed to do. */
  access: Access;
  /** The signed links that also grant access; by default none. */
  link?: LinkAccess;
  /**
   * The rate limit that requests count against, besides the global one; undefined: only the global one. It
   * may depend on the request, whose body is not checked yet.
   */
  limit?: Bucket | { either: readonly Bucket[]; choose(req: Request): Bucket };
  /** Whether a request may have an Idempotency-Key; see ../idempotency/once.ts. */
  keyed?: true;
  summary: string;
  params?: z.ZodType<P>;
  query?: z.ZodType<Q>;
  /** Of the headers that are part of the interface; their names in lower case. */
  headers?: z.ZodType<H>;
  body?: z.ZodType<B>;
  /** Media types of a body that the handler reads itself. */
  accepts?: readonly string[];
  /**
   * The answers when all goes well, by status; at most one of them is JSON, unless the handler chooses the status of the
   * same JSON by res.status(). With 304 beside it, the JSON gets an entity tag, and a client that already has it gets 304.
   */
  answers: A;
  /** The problems that the handler itself may answer; see problemsOf() for those of what stands before it. */
  problems?: readonly ErrorCode[];
  /** Returns the value of the JSON answer; nothing if the answer is empty or the handler has answered itself. */
  handle(call: Call<P, Q, B, H>): Promise<Answered<A> | typeof NOBODY>;
}

export interface Call<P, Q, B, H = unknown> {
  params: P;
  query: Q;
  headers: H;
  body: B;
  /** Absent on public routes and on requests with a signed link to a resource. */
  principal: Principal | undefined;
  /**
   * Returns the resource if it belongs to the caller or the signed link was made for it.
   * @throws {AppError} not_found if it belongs to somebody else
   */
  own<T extends Owned & { id: string }>(resource: T): T;
  req: Request;
  res: Response;
}

// biome-ignore lint/suspicious/noExplicitAny: routes of all shapes stand in one list
export type AnyRoute = Route<any, any, any, any, any>;

/** Infers the types of a route. */
export function route<P, Q, B, const A extends Answers, H>(
  declaration: Route<P, Q, B, A, H>,
): Route<P, Q, B, A, H> {
  return declaration;
}

/** The principal of a route that is not public. */
export function userOf(call: { principal: Principal | undefined }): Principal {
  if (!call.principal) throw new AppError('unauthenticated');
  return call.principal;
}

/** The principal of a route that is not public, for the event log. */
export function signedInActor(call: { principal: Principal | undefined; req: Request }): SignedInActor {
  return { ...actorOf(call.req), userId: userOf(call).userId };
}

/**
 * One page of a list, and the cursor of the next page; null if there is none.
 * @param found the next items of the list, one more than `limit` if the list continues
 */
export function pageOf<T>(
  found: T[],
  limit: number,
  cursorOf: (last: T) => string,
): { items: T[]; nextCursor: string | null } {
  const items = found.slice(0, limit);
  const last = found.length > limit ? items.at(-1) : undefined;
  return { items, nextCursor: last === undefined ? null : cursorOf(last) };
}

/** Dependencies of all routes. */
export interface RouteDeps {
  authenticate: Authenticate;
  limits: Limits;
  refusals: Refusals;
  once: Once;
}

/** Creates the router of the declared routes. A known path with another method answers 405. */
export function serve(routes: AnyRoute[], deps: RouteDeps): Router {
  const router = Router({ caseSensitive: true });
  for (const [path, declared] of groupByPath(routes)) {
    for (const one of declared) router[one.method](path, ...toHandlers(one, deps));
    const allowed = declared.map(({ method }) => method.toUpperCase());
    if (allowed.includes('GET')) allowed.push('HEAD');
    router.all(path, (_req, res) => {
      res.setHeader('Allow', allowed.join(', '));
      throw new AppError('method_not_allowed', { detail: `Allowed: ${allowed.join(', ')}` });
    });
  }
  return router;
}

/** The routes of each path. Paths without a parameter come first: a word of theirs may stand where others have an id. */
function groupByPath(routes: AnyRoute[]): [path: string, routes: AnyRoute[]][] {
  const paths = [...new Set(routes.map(({ path }) => path))];
  const isOpen = (path: string) => Number(path.includes(':'));
  return paths
    .sort((one, other) => isOpen(one) - isOpen(other))
    .map((path) => [path, routes.filter((declared) => declared.path === path)]);
}

function toHandlers(
  declared: AnyRoute,
  { authenticate, limits, refusals, once }: RouteDeps,
): RequestHandler[] {
  const { access, link = false, limit, keyed = false } = declared;
  const status = statusOf(declared.answers);
  const signIn: RequestHandler = async (req, _res, next) => {
    await authenticate(req, access, { link });
    next();
  };
  /** Runs before the limits, which may look into the body. */
  const readBody: RequestHandler = async (req, _res, next) => {
    // Whether the whole body had already arrived when the caller was authenticated.
    const wasThere = req.complete;
    req.body = await readJson(req);
    // A right that held when the head came may have ended by the time the body is complete.
    if (!wasThere) await authenticate(req, access, { link });
    next();
  };
  /** Undefined: the handler has answered itself, or there is nobody to answer. */
  const answerTo = async (req: Request, res: Response): Promise<Answer | undefined> => {
    const { principal } = req;
    const value = await declared.handle({
      params: parse(declared.params, req.params, 'path'),
      query: parse(declared.query, req.query, 'query'),
      headers: parse(declared.headers, req.headers, 'headers'),
      body: parse(declared.body, req.body ?? {}, 'body'),
      principal,
      own(resource) {
        if (access === 'public' || !principal || can(principal, access, resource)) return resource;
        refusals.note(req, { action: access, code: 'not_found', subjectId: resource.id });
        throw new AppError('not_found');
      },
      req,
      res,
    });
    if (value === NOBODY || status === undefined) return undefined;
    const json = value === undefined ? undefined : JSON.stringify(value);
    const isUnchanged = declared.answers[304] && json !== undefined && isKnown(req, res, json);
    return isUnchanged ? { status: 304, json: undefined } : { status, json };
  };
  const handle: RequestHandler = async (req, res) => {
    const work = () => answerTo(req, res);
    const answer = await (keyed ? once(req, res, work) : work());
    if (!answer) return;
    // A part of the request may have been refused.
    await refusals.whenWritten(req);
    // A handler that has chosen another status means it.
    if (res.statusCode === 200) res.status(answer.status);
    // Answers to other methods may hold a new token or key, whose size must not tell anything about it.
    const coding = declared.method === 'get' ? chooseCoding(req, res) : undefined;
    if (answer.json === undefined) res.end();
    else await sendJson(res, answer.json, coding);
  };
  const count: RequestHandler = (req, res, next) => {
    const bucket = typeof limit === 'object' ? limit.choose(req) : limit;
    return bucket ? limits.bucket(bucket)(req, res, next) : next();
  };
  return [signIn, ...(declared.body ? [readBody] : []), count, handle];
}

/** Gives the answer its entity tag, and says whether the client has this answer already. */
function isKnown(req: Request, res: Response, json: string): boolean {
  const etag = `"${createHash('sha256').update(json).digest('base64url').slice(0, 22)}"`;
  // Weak: the bytes differ when the answer is sent compressed.
  res.setHeader('ETag', `W/${etag}`);
  // A client may keep the answer, but must ask each time whether it still holds.
  res.setHeader('Cache-Control', 'private, no-cache');
  return knowsTag(req, etag) ?? false;
}

function parse(schema: z.ZodType | undefined, value: unknown, place: string): unknown {
  if (!schema) return undefined;
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  // A malformed id cannot belong to anything, so the answer is not_found.
  if (place === 'path') throw new AppError('not_found');
  const name = issue?.path.join('.');
  throw new AppError('invalid_request', {
    detail: `${name ? `${name} in the ${place}` : place}: ${issue?.message}`,
  });
}
