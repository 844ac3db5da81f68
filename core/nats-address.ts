/** How a NATS server is reached. */
export interface NatsAddress {
  /** `host:port`, of one server or of several of the same cluster. */
  servers: string[];
  /** Whether the connection must be encrypted. */
  tls: boolean;
  user?: string;
  password?: string;
  token?: string;
}

const DEFAULT_PORT = '4222';

/**
 * Parses `nats://user:password@host:4222`, `tls://token@host`, or several such addresses, separated by commas.
 * @returns undefined when the text is something else, or its parts contradict each other
 */
export function parseNatsAddress(text: string): NatsAddress | undefined {
  try {
    const urls = text.split(',').map((part) => new URL(part.trim()));
    const model = urls.find((url) => url.username) ?? urls[0];
    if (!model) return undefined;
    const { protocol, username, password } = model;
    const isAlike = (url: URL) =>
      url.protocol === protocol &&
      (!url.username || (url.username === username && url.password === password));
    if (!urls.every((url) => isServer(url) && isAlike(url))) return undefined;
    return {
      servers: urls.map((url) => `${url.hostname}:${url.port || DEFAULT_PORT}`),
      tls: protocol === 'tls:',
      ...readCredentials(decodeURIComponent(username), decodeURIComponent(password)),
    };
  } catch {
    // No URL, or an incomplete escape such as %4.
    return undefined;
  }
}

function isServer({ protocol, hostname, pathname, search, hash }: URL): boolean {
  const isBare = ['', '/'].includes(pathname) && !search && !hash;
  return ['nats:', 'tls:'].includes(protocol) && hostname !== '' && isBare;
}

/** A name without a password is a token. */
function readCredentials(user: string, password: string): Partial<NatsAddress> {
  if (!user) return {};
  return password ? { user, password } : { token: user };
}
