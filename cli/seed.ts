/**
 * `npm run seed`: gives a running server sample users and sample files, through the API. It may run again: it then adds what
 * is missing.
 */
import { Command, InvalidArgumentError } from 'commander';
import type { RegistrationJson, SessionJson } from '../server/answers/auth.js';
import type { FilePageJson } from '../server/answers/files.js';
import { EXIT, Failure } from './failure.js';
import { postJson, reach, requireOk } from './http.js';
import { sampleFile } from './sample-files.js';

const DEFAULT_PASSWORD = 'sample password';

/** How many files of a person are sent at the same time. */
const AT_ONCE = 4;

/** The longest time for which a rate limit is waited for, in seconds. */
const LONGEST_WAIT_SECONDS = 120;

interface Options {
  url: string;
  users: number;
  files: number;
  password: string | undefined;
}

/** Someone whose files are made. */
interface Person {
  email: string;
  role: string;
  token: string;
}

function wholeNumber(most: number): (text: string) => number {
  return (text) => {
    const number = Number(text);
    if (Number.isInteger(number) && number >= 0 && number <= most) return number;
    throw new InvalidArgumentError(`must be a whole number from 0 to ${most}`);
  };
}

async function seed({ url, users, files, password }: Options): Promise<void> {
  const server = url.replace(/\/+$/, '');
  const { hostname } = new URL(server);
  if (password === undefined && !/^(localhost|127\.[\d.]+|\[::1\])$/.test(hostname)) {
    throw new Failure(
      EXIT.usage,
      'On another machine anybody could use the usual password: name one with --password',
    );
  }
  const asked = await requireOk(server, await reach(server, '/api/auth'));
  const { signIn } = (await asked.json()) as RegistrationJson;
  const names = signIn ? Array.from({ length: users }, (_, n) => `sample${n + 1}@example.org`) : ['local'];
  for (const name of names) {
    const person = signIn
      ? await enter(server, name, password ?? DEFAULT_PASSWORD)
      : { email: 'the local account (AUTH=off)', role: 'admin', token: 'none' };
    const { sent, present } = await sendFiles(server, person, name, files);
    console.log(`${person.email} (${person.role}): ${sent} files sent, ${present} were there`);
  }
  console.log(
    signIn ? `The password of all is "${password ?? DEFAULT_PASSWORD}". Page: ${server}` : `Page: ${server}`,
  );
}

/** Registers the account, or signs in to it if there is one. @throws {Failure} */
async function enter(server: string, email: string, password: string): Promise<Person> {
  const form = { email, password };
  const answer = await postJson(server, '/api/auth/register', form).catch((error: unknown) => {
    if (!(error instanceof Failure) || error.answered.code !== 'email_taken') throw error;
    return postJson(server, '/api/auth/login', form);
  });
  const { user, accessToken } = (await answer.json()) as SessionJson;
  return { email: user.email, role: user.role, token: accessToken };
}

/** Sends the files of a person that are not there yet. */
async function sendFiles(
  server: string,
  { token }: Person,
  name: string,
  count: number,
): Promise<{ sent: number; present: number }> {
  const authorization = { Authorization: `Bearer ${token}` };
  const known = await listNames(server, authorization);
  const wanted = Array.from({ length: count }, (_, n) => sampleFile(name, n));
  const missing = wanted.filter((file) => !known.has(file.name));
  const waiting = [...missing];
  const work = async () => {
    for (let file = waiting.shift(); file; file = waiting.shift()) {
      const body = new Uint8Array(await file.make());
      const headers = { ...authorization, 'Content-Type': file.type };
      await patiently(server, `/api/files?filename=${encodeURIComponent(file.name)}`, {
        method: 'POST',
        headers,
        body,
      });
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  return { sent: missing.length, present: wanted.length - missing.length };
}

async function listNames(server: string, headers: Record<string, string>): Promise<Set<string>> {
  const names = new Set<string>();
  for (let cursor: string | null = ''; cursor !== null; ) {
    const query: string = cursor === '' ? '' : `&cursor=${cursor}`;
    const answer = await patiently(server, `/api/files?limit=200${query}`, { headers });
    const page = (await answer.json()) as FilePageJson;
    for (const { filename } of page.items) names.add(filename);
    cursor = page.nextCursor;
  }
  return names;
}

/** Sends a request, and again after the time that a rate limit asks for. @throws {Failure} */
async function patiently(server: string, path: string, init: RequestInit): Promise<Response> {
  for (;;) {
    const answer = await reach(server, path, init);
    const seconds = Number(answer.headers.get('Retry-After'));
    if (answer.status !== 429 || !(seconds <= LONGEST_WAIT_SECONDS)) return requireOk(server, answer);
    await answer.body?.cancel();
    console.error(`The server asks for ${seconds} s of patience`);
    await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
  }
}

await new Command('npm run seed --')
  .description('Gives a running server sample users and sample files.')
  .option('--url <address>', 'the server', 'http://localhost:3000')
  .option('--users <number>', 'accounts, sample1@example.org and so on', wholeNumber(25), 3)
  .option('--files <number>', 'files of each account', wholeNumber(100_000), 20)
  .option('--password <text>', `of all accounts (at localhost: "${DEFAULT_PASSWORD}")`)
  .action(seed)
  .parseAsync()
  .catch((error: unknown) => {
    if (!(error instanceof Failure)) throw error;
    console.error(`landfall: ${error.toText()}`);
    process.exitCode = error.exitCode;
  });
