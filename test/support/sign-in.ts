import { createHash, randomUUID } from 'node:crypto';
import { PASSWORD, registerUser, type TestUser, useAccount } from './client.js';
import type { TestDatabase } from './database.js';
import { setRole } from './users.js';

/** The answer of register, login and refresh. */
export interface SignedIn {
  user: { id: string; email: string; role: string };
  accessToken: string;
  refreshToken: string;
  expiresIn: number;
}

/** POST to /api/auth/…; `url` is that of a server. */
export function postAuth(
  url: string,
  action: 'register' | 'login' | 'refresh' | 'logout',
  body: object,
  headers: Record<string, string> = {},
): Promise<Response> {
  return fetch(`${url}/api/auth/${action}`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json', ...headers },
    body: JSON.stringify(body),
  });
}

export async function logIn(url: string, email: string, password = PASSWORD): Promise<SignedIn> {
  return answerOf(await postAuth(url, 'login', { email, password }));
}

export const refresh = (url: string, refreshToken: string) => postAuth(url, 'refresh', { refreshToken });

/** A refresh that must succeed. */
export async function refreshed(url: string, refreshToken: string): Promise<SignedIn> {
  return answerOf(await refresh(url, refreshToken));
}

async function answerOf(answer: Response): Promise<SignedIn> {
  if (!answer.ok) throw new Error(`${answer.url}: ${answer.status} ${await answer.text()}`);
  return answer.json();
}

/** Signs a user in once more. */
export async function newSession(url: () => string, email: string): Promise<SignedIn & { as: TestUser }> {
  const session = await logIn(url(), email);
  return { ...session, as: useAccount(session.user, session.accessToken, url) };
}

/** A new account that is an admin's, though it is not the first; it is signed in after it became one. */
export async function registerAdmin(url: () => string, database: TestDatabase): Promise<TestUser> {
  const { id, email } = await registerUser(url);
  await setRole(database, id, 'admin');
  return (await newSession(url, email)).as;
}

export const newAddress = () => `${randomUUID()}@example.org`;

/** The hash that the database keeps of a secret. */
export const sha256 = (text: string) => createHash('sha256').update(text).digest();

/** POST or PATCH of JSON with this user's token. */
export function send(as: TestUser, method: 'POST' | 'PATCH', path: string, body: object): Promise<Response> {
  return as.fetch(path, {
    method,
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify(body),
  });
}

/** Status and code of an answer that is a problem. */
export async function problemOf(answer: Response): Promise<[number, string]> {
  return [answer.status, (await answer.json()).code];
}

/** Types of the events of one subject, with `!` after those that tell of a refusal; oldest first. */
export async function eventsOf(database: TestDatabase, subjectId: string): Promise<string[]> {
  const { rows } = await database.query(
    'SELECT type, result FROM all_events WHERE subject_id = $1 ORDER BY id',
    [subjectId],
  );
  return rows.map(({ type, result }) => (result === 'refused' ? `${type}!` : type));
}
