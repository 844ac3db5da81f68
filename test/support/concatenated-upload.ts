import { encodeMetadata, idOf, type TestUser } from './client.js';
import { beginUpload, type PiecewiseUpload } from './piecewise-upload.js';
import { until } from './until.js';

/*
 * A client that sends a file as partial uploads, each piecewise, and then concatenates them. Like a PiecewiseUpload it goes
 * on whatever happens to the server.
 */

/** Sends the POST of a final upload. @param addresses of its partial uploads, in their order */
export function postFinal(
  user: TestUser,
  addresses: string[],
  headers: Record<string, string> = {},
): Promise<Response> {
  return user.tus('POST', '/uploads', { 'Upload-Concat': `final;${addresses.join(' ')}`, ...headers });
}

/** Makes a final upload of these partial ones. Returns its id. */
export async function concatenate(
  user: TestUser,
  paths: string[],
  metadata: Record<string, string> = {},
): Promise<string> {
  const described = Object.keys(metadata).length > 0;
  const answer = await postFinal(
    user,
    paths,
    described ? { 'Upload-Metadata': encodeMetadata(metadata) } : {},
  );
  expect([answer.status, await answer.text()]).toEqual([201, '']);
  return idOf(answer.headers.get('Location') ?? '');
}

export interface ConcatenatedUpload extends PiecewiseUpload {
  partials: PiecewiseUpload[];
}

/**
 * Creates the partial uploads.
 * @param parts sizes of the pieces of each partial upload, in bytes
 * @param options.headers of the partial uploads and of the final one
 * @param options.finalFirst creates the final upload before the partial ones have bytes
 * @returns the upload; it has its id and path after finish()
 */
export async function beginConcatenation(
  user: TestUser,
  content: Buffer,
  parts: number[][],
  { headers = {}, finalFirst = false }: { headers?: Record<string, string>; finalFirst?: boolean } = {},
): Promise<ConcatenatedUpload> {
  const partials: PiecewiseUpload[] = [];
  let start = 0;
  for (const sizes of parts) {
    const end = start + sizes.reduce((sum, size) => sum + size, 0);
    const manner = { headers: { ...headers, 'Upload-Concat': 'partial' } };
    partials.push(await beginUpload(user, content.subarray(start, end), sizes, manner));
    start = end;
  }

  /** Sends POST until one is answered. A final upload of an unanswered POST may become a second file. */
  async function join(): Promise<void> {
    const paths = partials.map(({ path }) => path);
    const answer = await until('the final upload to be created', async () => {
      const answered = await postFinal(user, paths, headers).catch(() => undefined);
      if (answered && answered.status < 500 && answered.status !== 201) {
        throw new Error(`POST of the final upload: ${answered.status} ${await answered.text()}`);
      }
      return answered?.status === 201 ? answered : undefined;
    });
    upload.id = idOf(answer.headers.get('Location') ?? '');
    upload.path = `/uploads/${upload.id}`;
  }

  const upload: ConcatenatedUpload = {
    id: '',
    path: '',
    user,
    partials,
    acknowledged: [],
    async finish(gate = async () => {}) {
      if (finalFirst) await join();
      for (const partial of partials) await partial.finish(gate);
      await gate();
      if (!finalFirst) await join();
    },
  };
  return upload;
}
