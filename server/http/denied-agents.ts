import type { RequestHandler } from 'express';
import { AppError } from '../../core/errors.js';

/*
 * DENY_USER_AGENTS: programs that name themselves honestly and are not wanted, such as a client with a known fault or a
 * crawler. It is no protection: a program may send any User-Agent.
 */

/** Load balancers ask about health, whatever they call themselves. */
const ALWAYS = /^\/health(\/|$)/;

/**
 * Refuses requests whose User-Agent matches a pattern, before anything else is known of them.
 * @param patterns parts of the header, in any case; `*` stands for any characters
 */
export function denyUserAgents(patterns: readonly string[]): RequestHandler {
  const denied = patterns.map((pattern) => pattern.toLowerCase().split('*'));
  return function denyNamed(req, _res, next) {
    const agent = req.get('User-Agent')?.toLowerCase();
    if (agent && !ALWAYS.test(req.path) && denied.some((parts) => hasInOrder(agent, parts))) {
      throw new AppError('user_agent_denied', { detail: 'This server does not serve this program' });
    }
    next();
  };
}

/** Whether the text has all parts, one after the other. Takes linear time, unlike a regular expression. */
function hasInOrder(text: string, parts: string[]): boolean {
  let from = 0;
  return parts.every((part) => {
    const at = text.indexOf(part, from);
    from = at + part.length;
    return at >= 0;
  });
}
