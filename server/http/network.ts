import { isIP } from 'node:net';
import { ipKeyGenerator } from 'express-rate-limit';

/** Providers give each customer at least this prefix, so each customer controls very many IPv6 addresses. */
const IPV6_PREFIX = 64;

/**
 * The network that an address is counted under. An IPv4 address also counts as such in its IPv6 form; an IPv6
 * address counts for its network.
 * @param address as Express reports it: from X-Forwarded-For only behind a trusted proxy
 */
export function networkOf(address: string | undefined): string {
  const given = address ?? '';
  // Some proxies add the port, which differs for each connection.
  const [, bracketed, dotted] = /^(?:\[(.+)\](?::\d+)?|([\d.]+):\d+)$/.exec(given) ?? [];
  const bare = bracketed ?? dotted ?? given;
  // All invalid addresses count as one, so that nobody can invent new ones.
  return isIP(bare) ? ipKeyGenerator(bare, IPV6_PREFIX) : 'unknown';
}
