import { EXIT, Failure } from './failure.js';
import { keyOf } from './private-files.js';
import { freshSession, lastServer, type StoredSession } from './sessions.js';

/** By what the requests of this process are authorised. */
export interface Credentials {
  /** Distinguishes accounts in the notes about transfers. */
  account: string;
  /** A bearer token for the next request. @throws {Failure} */
  token(): Promise<string>;
  /** The server did not accept this token. @returns whether token() gives another one */
  refuse(token: string): boolean;
}

const DEFAULT_SERVER = 'http://localhost:3000';

/** The address of a server as the user wrote it, without a slash at its end. @throws {Failure} */
export function readServer(address: string): string {
  const url = URL.canParse(address) ? new URL(address) : undefined;
  if (!url || !/^https?:$/.test(url.protocol) || url.username || url.search || url.hash) {
    throw new Failure(
      EXIT.usage,
      `"${address}" is not the address of a server, such as https://files.example.org`,
    );
  }
  return url.href.replace(/\/+$/, '');
}

/** LANDFALL_URL, else the server of the last sign-in, else the one that `npm start` starts. */
export async function chooseServer(): Promise<string> {
  const named = process.env.LANDFALL_URL;
  return named ? readServer(named) : ((await lastServer()) ?? DEFAULT_SERVER);
}

/** LANDFALL_API_KEY, else the session of `landfall login`. @throws {Failure} when there is neither */
export async function openCredentials(server: string): Promise<Credentials> {
  const key = process.env.LANDFALL_API_KEY;
  if (!key) return sessionCredentials(server, await freshSession(server, undefined));
  // fetch() would name the whole header in its error.
  if (!/^[\x21-\x7e]+$/.test(key))
    throw new Failure(EXIT.usage, 'LANDFALL_API_KEY is not a key: it has blanks or other characters');
  return { account: keyOf('key', key), token: async () => key, refuse: () => false };
}

function sessionCredentials(server: string, first: StoredSession): Credentials {
  let refused: string | undefined;
  let turn: Promise<StoredSession> | undefined;
  return {
    account: first.userId,
    async token() {
      turn ??= freshSession(server, refused).finally(() => {
        turn = undefined;
      });
      return (await turn).accessToken;
    },
    refuse(token) {
      refused = token;
      return true;
    },
  };
}
