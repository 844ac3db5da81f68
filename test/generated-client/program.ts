import createClient from 'openapi-fetch';
import type { components, paths } from './api.js';

/*
 * A program of somebody who has only the OpenAPI document: `api.d.ts` is generated from it. generated-client.test.ts
 * compiles this file, so the types must fit, and runs it.
 */

type Problem = components['schemas']['Problem'];

const baseUrl = process.argv[2] ?? '';

/** The value of an answer that must be a success. */
function need<T>({ data, error }: { data?: T; error?: Problem }): T {
  if (data === undefined) throw new Error(error?.detail ?? error?.title ?? 'no answer');
  return data;
}

const guest = createClient<paths>({ baseUrl });
const credentials = { email: 'program@example.org', password: 'a long enough secret' };
const { user, accessToken } = need(await guest.POST('/api/auth/register', { body: credentials }));

const client = createClient<paths>({ baseUrl, headers: { Authorization: `Bearer ${accessToken}` } });
const { key, scopes } = need(
  await client.POST('/api/keys', {
    params: { header: { 'Idempotency-Key': '"one key"' } },
    body: { name: 'a program', scopes: ['read'] },
  }),
);

const sent = await fetch(`${baseUrl}/api/files?filename=a.txt`, {
  method: 'POST',
  headers: { Authorization: `Bearer ${accessToken}`, 'Content-Type': 'text/plain' },
  body: 'a file',
});
const { files }: { files: components['schemas']['File'][] } = await sent.json();
const [file] = files;
if (!file) throw new Error('no file');

const reader = createClient<paths>({ baseUrl, headers: { Authorization: `Bearer ${key}` } });
const { items, nextCursor } = need(
  await reader.GET('/api/files', { params: { query: { q: 'a.t', limit: 5 } } }),
);
const path = { id: file.id };
const renamed = need(
  await client.PATCH('/api/files/{id}', { params: { path }, body: { filename: 'b.txt' } }),
);
const { error: refused } = await reader.PATCH('/api/files/{id}', {
  params: { path },
  body: { filename: 'c' },
});
const { response: deleted } = await client.DELETE('/api/files/{id}', { params: { path } });
const { error: missing } = await reader.GET('/api/files/{id}', { params: { path } });

/** These must not compile. They are never called. */
export const mistakes = [
  // @ts-expect-error There is no such path.
  () => client.GET('/api/nothing', {}),
  // @ts-expect-error The body is missing.
  () => client.POST('/api/keys', {}),
  // @ts-expect-error There is no such scope.
  () => client.POST('/api/keys', { body: { name: 'a', scopes: ['everything'] } }),
  // @ts-expect-error The id is missing.
  () => client.GET('/api/files/{id}', { params: {} }),
  // @ts-expect-error There is no such field.
  () => renamed.name,
];

console.log(
  JSON.stringify({
    role: user.role,
    scopes,
    found: items.map(({ id, filename, size }) => ({ id, filename, size })),
    nextCursor,
    renamed: renamed.filename,
    refused: refused?.code,
    deleted: deleted.status,
    missing: missing?.code,
    id: file.id,
  }),
);
