import { type Request, type RequestHandler, type Response, Router } from 'express';
import type { z } from 'zod';
import { AppError } from '../../core/errors.js';
import type { Access, Authenticate } from '../auth/authenticate.js';
import { can, type Owned } from '../auth/can.js';
import { actorOf, type Principal, type SignedInActor } from '../auth/principal.js';
import type { Refusals } from '../auth/refusals.js';
import { readJson } from '../http/json-body.js';
import type { Bucket, Limits } from '../limits/limits.js';

/** One route, declared once: what is not in its schemas does not reach its handler. */
export interface Route<P, Q, B> {
  method: 'get' | 'post' | 'patch' | 'delete';
  path: string;
  /** What the caller must be allowed to do. */
  access: Access;
  /** Whether a link that was signed for its path opens it too. */
  link?: boolean;
  /**
   * The rate limit that it counts against, besides the one for everything; undefined: only that one. May depend on the
   * request, whose body has not been checked yet.
   */
  limit?: Bucket | ((req: Request) => Bucket | undefined);
  summary: string;
  params?: z.ZodType<P>;
  query?: z.ZodType<Q>;
  body?: z.ZodType<B>;
  /** Status of the answer if the handler returns a value; 200. */
  status?: number;
  /** Returns the JSON to answer, or nothing if it has answered by itself. */
  handle(call: Call<P, Q, B>): Promise<unknown>;
}

interface Call<P, Q, B> {
  params: P;
  query: Q;
  body: B;
  /** Absent only on public routes and where a signed link opened the door. */
  principal: Principal | undefined;
  /**
   * Returns what belongs to the caller, or what the signed link was made for.
   * @throws {AppError} not_found if it is somebody else's
   */
  own<T extends Owned & { id: string }>(resource: T): T;
  req: Request;
  res: Response;
}

// biome-ignore lint/suspicious/noExplicitAny: routes of all shapes stand in one list
export type AnyRoute = Route<any, any, any>;

/** Gives a route its types. */
export function route<P, Q, B>(declaration: Route<P, Q, B>): Route<P, Q, B> {
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
 * One page of a list, and where the next one begins; null: there is none.
 * @param found what comes next in the list: one more than `limit` where it goes on
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

/** What all routes need. */
export interface RouteDeps {
  authenticate: Authenticate;
  limits: Limits;
  refusals: Refusals;
}

/** Makes the router that serves the declared routes. A known path with another method answers 405. */
export function serve(routes: AnyRoute[], deps: RouteDeps): Router {
  const router = Router({ caseSensitive: true });
  for (const declared of routes) {
    router[declared.method](declared.path, ...toHandlers(declared, deps));
  }
  for (const path of new Set(routes.map((declared) => declared.path))) {
    const allowed = routes
      .filter((declared) => declared.path === path)
      .map(({ method }) => method.toUpperCase());
    if (allowed.includes('GET')) allowed.push('HEAD');
    router.all(path, (_req, res) => {
      res.setHeader('Allow', allowed.join(', '));
      throw new AppError('method_not_allowed', { detail: `Allowed: ${allowed.join(', ')}` });
    });
  }
  return router;
}

function toHandlers(declared: AnyRoute, { authenticate, limits, refusals }: RouteDeps): RequestHandler[] {
  const { access, link = false, limit } = declared;
  const signIn: RequestHandler = async (req, _res, next) => {
    await authenticate(req, access, { link });
    next();
  };
  /** Before the limits, which may look into it. */
  const readBody: RequestHandler = async (req, _res, next) => {
    // Whether it had been received, though nobody had read it, when the caller was believed.
    const wasThere = req.complete;
    req.body = await readJson(req);
    // What was true when the head of the request came may be over when its body is there.
    if (!wasThere) await authenticate(req, access, { link });
    next();
  };
  const handle: RequestHandler = async (req, res) => {
    const { principal } = req;
    const answer = await declared.handle({
      params: parse(declared.params, req.params, 'path'),
      query: parse(declared.query, req.query, 'query'),
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
    if (answer !== undefined) res.status(declared.status ?? 200).json(answer);
  };
  const count: RequestHandler = (req, res, next) => {
    const bucket = typeof limit === 'function' ? limit(req) : limit;
    return bucket ? limits.bucket(bucket)(req, res, next) : next();
  };
  return [signIn, ...(declared.body ? [readBody] : []), count, handle];
}

function parse(schema: z.ZodType | undefined, value: unknown, place: string): unknown {
  if (!schema) return undefined;
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  // An id that cannot be one is an id that does not exist.
  if (place === 'path') throw new AppError('not_found');
  const name = issue?.path.join('.');
  throw new AppError('invalid_request', {
    detail: `${name ? `${name} in the ${place}` : place}: ${issue?.message}`,
  });
}
