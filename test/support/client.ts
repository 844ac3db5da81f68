import { randomUUID } from 'node:crypto';
import { Readable } from 'node:stream';
import * as tus from 'tus-js-client';
import { until } from './until.js';

export interface FileJson {
  id: string;
  filename: string;
  size: number;
  declaredType: string | null;
  detectedType: string | null;
  sha256: string | null;
  duplicateOf: string | null;
  status: string;
  step: string | null;
  progress: number;
  attempts: number;
  steps: Record<string, { state: string; ms: number; reason?: string }>;
  // biome-ignore lint/suspicious/noExplicitAny: the tests look into it at many places
  metadata: any;
  warnings: { step: string; code: string; detail: string }[];
  error: { step: string; code: string; detail: string } | null;
  createdAt: string;
  completedAt: string | null;
  deletedAt: string | null;
  derived: {
    name: string;
    contentType: string;
    size: number;
    width: number | null;
    height: number | null;
    link: string | null;
  }[];
  deliveries: { destination: string; address: string; at: string }[];
  settings: object | null;
  links: { content: string | null; thumbnails: Record<string, string> | null };
}

export interface TestUser {
  id: string;
  email: string;
  role: string;
  token: string;
  /** The address of the server. */
  url(): string;
  /** The same user on another server. */
  at(url: () => string): TestUser;
  /** fetch() with this user's token; `path` begins with a slash. */
  fetch(path: string, init?: RequestInit): Promise<Response>;
  /** GET that must succeed. */
  // biome-ignore lint/suspicious/noExplicitAny: the caller knows the shape
  get(path: string): Promise<any>;
  /** A tus request. `address` is a path or a Location; a header that is null is left out. */
  tus(
    method: string,
    address: string,
    headers?: Record<string, string | null>,
    body?: BodyInit,
  ): Promise<Response>;
  /** Creates an upload, of unknown length if `length` is null. Returns its path. */
  create(length: number | null, headers?: Record<string, string>): Promise<string>;
  /** Uploads in one go with a tus request of its own (creation-with-upload). Returns the id. */
  upload(content: Uint8Array, metadata?: Record<string, string>): Promise<string>;
  /** Uploads by tus-js-client. Returns the id. */
  tusUpload(content: Buffer | Readable, options?: Partial<tus.UploadOptions>): Promise<string>;
  /** Waits until a file has come to an end and returns it. */
  settled(id: string, seconds?: number): Promise<FileJson>;
}

export const PASSWORD = 'correct horse battery';

/** Registers a new account on the server at `url()`, which may move between calls. */
export async function registerUser(
  url: () => string,
  headers: Record<string, string> = {},
): Promise<TestUser> {
  const email = `${randomUUID()}@example.org`;
  const response = await fetch(`${url()}/api/auth/register`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json', ...headers },
    body: JSON.stringify({ email, password: PASSWORD }),
  });
  if (response.status !== 201) throw new Error(`register: ${response.status} ${await response.text()}`);
  const { user, accessToken } = await response.json();
  return useAccount(user, accessToken, url);
}

/** The holder of this token, which may be an API key or an upload token. */
export function useAccount(
  user: Pick<TestUser, 'id' | 'email' | 'role'>,
  token: string,
  url: () => string,
): TestUser {
  const withToken = (path: string, init: RequestInit = {}) => {
    const headers = new Headers(init.headers);
    headers.set('Authorization', `Bearer ${token}`);
    return fetch(`${url()}${path}`, { ...init, headers });
  };
  const tusRequest: TestUser['tus'] = (method, address, headers = {}, body) => {
    const all: Record<string, string | null> = {
      'Tus-Resumable': '1.0.0',
      ...(method === 'PATCH' ? { 'Content-Type': 'application/offset+octet-stream' } : {}),
      ...headers,
    };
    return withToken(address.replace(/^https?:\/\/[^/]+/, ''), {
      method,
      headers: Object.fromEntries(
        Object.entries(all).filter((entry): entry is [string, string] => entry[1] !== null),
      ),
      ...(body === undefined ? {} : { body, duplex: 'half' }),
    } as RequestInit);
  };
  const get = async (path: string) => {
    const answer = await withToken(path);
    if (!answer.ok) throw new Error(`GET ${path}: ${answer.status} ${await answer.text()}`);
    return answer.json();
  };
  return {
    ...user,
    token,
    url,
    at: (other) => useAccount(user, token, other),
    fetch: withToken,
    get,
    tus: tusRequest,
    async create(length, headers = {}) {
      const known = length === null ? { 'Upload-Defer-Length': '1' } : { 'Upload-Length': String(length) };
      const answer = await tusRequest('POST', '/uploads', { ...known, ...headers });
      if (answer.status !== 201) throw new Error(`create: ${answer.status} ${await answer.text()}`);
      return `/uploads/${idOf(answer.headers.get('Location') ?? '')}`;
    },
    async upload(content, metadata = {}) {
      const answer = await tusRequest(
        'POST',
        '/uploads',
        {
          'Upload-Length': String(content.byteLength),
          'Content-Type': 'application/offset+octet-stream',
          ...(Object.keys(metadata).length > 0 ? { 'Upload-Metadata': encodeMetadata(metadata) } : {}),
        },
        content as BodyInit,
      );
      if (answer.status !== 201) throw new Error(`upload: ${answer.status} ${await answer.text()}`);
      return idOf(answer.headers.get('Location') ?? '');
    },
    tusUpload: (content, options = {}) =>
      new Promise((resolve, reject) => {
        const upload = new tus.Upload(content, {
          endpoint: `${url()}/uploads`,
          headers: { Authorization: `Bearer ${token}` },
          // On a busy machine a server takes long to start.
          retryDelays: [0, 100, ...Array<number>(150).fill(500)],
          onSuccess: () => resolve(idOf(upload.url ?? '')),
          onError: reject,
          ...options,
        });
        upload.start();
      }),
    settled: (id, seconds) =>
      until(
        `file ${id} to settle`,
        async () => {
          const answer = await withToken(`/api/files/${id}`).catch(() => undefined);
          if (!answer?.ok) return undefined;
          const file: FileJson = await answer.json();
          return ['completed', 'failed', 'infected'].includes(file.status) ? file : undefined;
        },
        seconds,
      ),
  };
}

/** Upload-Metadata header. */
export function encodeMetadata(metadata: Record<string, string>): string {
  return Object.entries(metadata)
    .map(([key, value]) => `${key} ${Buffer.from(value).toString('base64')}`)
    .join(',');
}

/** Last part of an upload's address. */
export function idOf(location: string): string {
  return location.split('/').at(-1) ?? '';
}
