import { isIP } from 'node:net';
import { ipKeyGenerator } from 'express-rate-limit';

/** The prefix of IPv6 addresses that one customer has at least: with it anybody has as many addresses as he likes. */
const IPV6_PREFIX = 64;

/**
 * Whom an address stands for where something is counted. An IPv4 address is the same in IPv6's clothes, an IPv6 address
 * stands for its network.
 * @param address as Express has it: from X-Forwarded-For only if a proxy that is trusted says so
 */
export function networkOf(address: string | undefined): string {
  const given = address ?? '';
  // Some proxies add the port, with which each connection would be somebody else.
  const [, bracketed, dotted] = /^(?:\[(.+)\](?::\d+)?|([\d.]+):\d+)$/.exec(given) ?? [];
  const bare = bracketed ?? dotted ?? given;
  // What is none is the same for all, so that nobody can invent any.
  return isIP(bare) ? ipKeyGenerator(bare, IPV6_PREFIX) : 'unknown';
}
