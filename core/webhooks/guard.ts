import { Resolver } from 'node:dns/promises';
import { isIP, type LookupFunction } from 'node:net';
import ipaddr from 'ipaddr.js';

/*
 * Which addresses a receiver may have. Users choose the receivers, so without this check they could reach services in
 * the private network of the workers.
 *
 * A name is checked by the addresses to which it leads at the moment of the connection: the function that looks names up
 * for the connection returns only addresses that are allowed, so there is no second look-up that could answer otherwise.
 * Node does not call it for a host that is an address itself; isAllowedHost() checks that one.
 */

/** How long a name server has to answer, in milliseconds, and how often it is asked. */
const DNS_MS = 1_500;
const DNS_TRIES = 2;

/** A host leads to no address that webhooks may reach. */
export class AddressRefused extends Error {
  override name = 'AddressRefused';
}

/** IPv6 addresses of the Internet, as far as they have been given out. Others may be routed to IPv4 or not at all. */
const GLOBAL_IPV6 = ipaddr.IPv6.parseCIDR('2000::/3');

/**
 * Whether an address belongs to the public Internet: not to a private network, a machine itself, a link, a carrier's
 * NAT, multicast, documentation, or a prefix that embeds IPv4 addresses (IPv4-mapped addresses are read as IPv4).
 */
export function isPublic(address: string): boolean {
  const parsed = ipaddr.process(address);
  if (parsed.range() !== 'unicast') return false;
  return parsed instanceof ipaddr.IPv4 || parsed.match(GLOBAL_IPV6);
}

/** Whether a host, as URL writes it, may be called. A name may, as far as can be told without a look-up. */
export function isAllowedHost(host: string): boolean {
  const bare = host.replace(/^\[|\]$/g, '');
  return isIP(bare) === 0 || isPublic(bare);
}

/**
 * Makes the look-up for connections to receivers. It asks name servers only, with a time limit, and not the system's
 * resolver: that one would occupy a thread for as long as a user's name server does not answer.
 * @param servers name servers, such as `127.0.0.1:53`; undefined: those of the system
 */
export function createGuardedLookup(servers?: string[]): LookupFunction {
  const resolver = new Resolver({ timeout: DNS_MS, tries: DNS_TRIES });
  if (servers) resolver.setServers(servers);

  async function find(name: string): Promise<string[]> {
    const [v4, v6] = await Promise.allSettled([resolver.resolve4(name), resolver.resolve6(name)]);
    const found = [v4, v6].flatMap((answer) => (answer.status === 'fulfilled' ? answer.value : []));
    if (found.length === 0 && v4.status === 'rejected') throw v4.reason;
    const allowed = found.filter(isPublic);
    if (allowed.length === 0) throw new AddressRefused(`${name} has no public address`);
    return allowed;
  }

  return (name, { all }, callback) => {
    find(name).then(
      (addresses) => {
        const list = addresses.map((address) => ({ address, family: isIP(address) }));
        const [first] = list;
        if (all || !first) callback(null, list);
        else callback(null, first.address, first.family);
      },
      (error) => callback(error, []),
    );
  };
}
