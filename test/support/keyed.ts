import type { TestUser } from './client.js';
import type { Queryable } from './database.js';

/* Requests with an Idempotency-Key. */

/** POST of JSON with a key, in the form that the header wants. */
export function postKeyed(as: TestUser, key: string, path: string, body?: object): Promise<Response> {
  return as.fetch(path, {
    method: 'POST',
    headers: { 'Idempotency-Key': `"${key}"`, ...(body ? { 'Content-Type': 'application/json' } : {}) },
    ...(body ? { body: JSON.stringify(body) } : {}),
  });
}

/** The parts of an answer that a repetition must have too. */
export async function essence(answer: Response) {
  const headers = ['Content-Type', 'Cache-Control', 'Location'].map((name) => answer.headers.get(name));
  return { status: answer.status, headers, body: await answer.text() };
}

export const isReplayed = (answer: Response) => answer.headers.get('Idempotency-Replayed') === 'true';

/** Lets time pass for all requests with a key. */
export async function ageKeys(database: Queryable, seconds: number): Promise<void> {
  await database.query(`UPDATE keyed_requests SET created_at = created_at - $1 * interval '1 second'`, [
    seconds,
  ]);
}
