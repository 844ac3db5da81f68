import { createInterface } from 'node:readline/promises';
import { Writable } from 'node:stream';
import { text } from 'node:stream/consumers';
import type { SessionJson } from '../server/answers/auth.js';
import { EXIT, Failure } from './failure.js';
import { postJson } from './http.js';
import type { Output } from './output.js';
import { dropSession, keepSession } from './sessions.js';
import { printable } from './text.js';

/**
 * `landfall login`: stores a session. On a terminal it asks for what is missing; otherwise the password is the first line of
 * stdin.
 * @throws {Failure}
 */
export async function logIn(output: Output, server: string, givenEmail: string | undefined): Promise<void> {
  if (isExposed(server))
    output.note(`Warning: ${server} is not HTTPS, so that others on the way can read the password`);
  const { email, password } = await askCredentials(givenEmail);
  const answer = await postJson(server, '/api/auth/login', { email, password });
  const session = (await answer.json()) as SessionJson;
  const former = await keepSession(server, session);
  if (former) await endSession(server, former.refreshToken);
  const text = `Signed in to ${server} as ${printable(session.user.email)}`;
  output.result({ text, json: { server, user: session.user }, brief: server });
}

/** `landfall logout`: ends the stored session. */
export async function logOut(output: Output, server: string): Promise<void> {
  const former = await dropSession(server);
  if (!former) throw new Failure(EXIT.failed, `Not signed in to ${server}`);
  await postJson(server, '/api/auth/logout', { refreshToken: former.refreshToken });
  output.result({ text: `Signed out of ${server}`, json: { server }, brief: server });
}

/** The session that a new one replaces. It ends by itself later if the server does not answer now. */
async function endSession(server: string, refreshToken: string): Promise<void> {
  await postJson(server, '/api/auth/logout', { refreshToken }).catch(() => {});
}

function isExposed(server: string): boolean {
  const { protocol, hostname } = new URL(server);
  return protocol === 'http:' && !/^(localhost|127\.[\d.]+|\[::1\])$/.test(hostname);
}

async function askCredentials(givenEmail: string | undefined): Promise<{ email: string; password: string }> {
  if (!process.stdin.isTTY) {
    if (!givenEmail) throw new Failure(EXIT.usage, 'Without a terminal, --email names the account');
    const [password = ''] = (await text(process.stdin)).split(/\r?\n/);
    if (!password)
      throw new Failure(EXIT.usage, 'Without a terminal, the first line of stdin is the password');
    return { email: givenEmail, password };
  }
  const email = givenEmail ?? (await ask('E-mail: ', process.stderr));
  process.stderr.write('Password: ');
  const password = await ask('', new Writable({ write: (_chunk, _encoding, done) => done() }));
  process.stderr.write('\n');
  return { email, password };
}

/** @param output where the terminal shows what is typed */
async function ask(question: string, output: NodeJS.WritableStream): Promise<string> {
  const dialogue = createInterface({ input: process.stdin, output, terminal: true });
  try {
    const ended = new Promise<never>((_, reject) => {
      dialogue.once('close', () => reject(new Failure(EXIT.interrupted, 'Nothing was entered')));
    });
    return await Promise.race([dialogue.question(question), ended]);
  } finally {
    dialogue.close();
  }
}
