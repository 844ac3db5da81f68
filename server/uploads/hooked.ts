import { isIPv6 } from 'node:net';
import type { Request, Response } from 'express';
import type { HookConfig } from '../../core/config-groups.js';
import type { HooksOf } from '../../core/hooks/hooks.js';
import { type ClientRequest, canonicalName } from '../../core/hooks/question.js';
import type { HookAnswer, UploadHooks } from '../../core/uploads/hooks.js';

/* Between the hooks and HTTP: what a hook is told of a request, and what it may change in the answer. */

export interface HookedDeps {
  /** Undefined: there are no hooks. */
  hooksOf?: HooksOf | undefined;
  hooks?: UploadHooks | undefined;
  hook?: HookConfig | undefined;
}

/** Makes the hooks those of this request. @returns the dependencies for it, and what its hooks want in its answer */
export function hooked<Deps extends HookedDeps>(
  deps: Deps,
  req: Request,
): { deps: Deps; answer(): HookAnswer } {
  if (!deps.hooksOf) return { deps, answer: () => ({}) };
  const hooks = deps.hooksOf(() => describe(req, deps.hook?.forwardHeaders ?? []));
  return { deps: { ...deps, hooks }, answer: () => hooks.answer };
}

/** @param forwarded names of headers that hooks get in any case */
function describe(req: Request, forwarded: readonly string[]): ClientRequest {
  const headers: Record<string, string[]> = {};
  for (let at = 0; at < req.rawHeaders.length; at += 2) {
    const name = canonicalName(req.rawHeaders[at] ?? '');
    headers[name] = [...(headers[name] ?? []), req.rawHeaders[at + 1] ?? ''];
  }
  const isForwarded = forwarded.some((name) => canonicalName(name) === 'Authorization');
  // It opens this server, and the receiver need not be able to act for the user.
  if (req.principal && !isForwarded) delete headers.Authorization;
  return {
    method: req.method,
    uri: withoutToken(req.originalUrl),
    remoteAddress: remoteAddress(req),
    headers,
  };
}

/** The token in the address of an upload lets its holder go on with the upload. */
function withoutToken(url: string): string {
  const [path = '', query] = url.split('?', 2);
  if (query === undefined) return url;
  const rest = query.split('&').filter((pair) => !pair.startsWith('token='));
  return rest.length > 0 ? `${path}?${rest.join('&')}` : path;
}

/** The client's address with its port, which is not known behind a proxy. */
function remoteAddress({ ip = '', socket }: Request): string {
  const port = ip === socket.remoteAddress ? (socket.remotePort ?? 0) : 0;
  return isIPv6(ip) ? `[${ip}]:${port}` : `${ip}:${port}`;
}

/**
 * Headers that a hook cannot set: those that frame the answer, and those that clients of the upload protocols go by. A hook
 * that changed these would break uploads.
 */
const OURS =
  /^(content-length|transfer-encoding|connection|keep-alive|te|trailer|upgrade|location|tus-.*|upload-.*|x-request-id)$/i;

/** Sets the headers that a hook wants in the answer, except for ours. Pages of other origins may read them. */
export function setHookHeaders(res: Response, { headers = {} }: HookAnswer): void {
  const wanted = Object.entries(headers).filter(([name]) => !OURS.test(name));
  if (wanted.length === 0) return;
  const exposed = res.getHeader('Access-Control-Expose-Headers');
  for (const [name, value] of wanted) res.setHeader(name, value);
  const names = wanted.map(([name]) => name);
  res.setHeader('Access-Control-Expose-Headers', [exposed, ...names].filter(Boolean).join(', '));
}

/** An answer of an upload protocol. */
interface Answered {
  status: number;
  body?: string | undefined;
}

/**
 * The status and the body of an answer, as the hook wants them. An answer that cannot have content becomes a 200 if the hook
 * wants to send some.
 */
export function mergeHookAnswer(answered: Answered, { status, body }: HookAnswer): Answered {
  const isEmpty = [204, 205, 304].includes(status ?? answered.status);
  return {
    status: body !== undefined && isEmpty ? 200 : (status ?? answered.status),
    body: body ?? answered.body,
  };
}
