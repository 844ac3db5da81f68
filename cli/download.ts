import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { link, lstat, open, rename, rm, stat } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import type { FileJson } from '../server/answers/files.js';
import type { Context } from './context.js';
import { EXIT, Failure } from './failure.js';
import { type Download, type DownloadNote, fetchMissing } from './part-file.js';
import { keyOf, openMemory, tidyMemory, withLock } from './private-files.js';
import { safeName } from './safe-name.js';
import { printable, sizeText } from './text.js';

export interface GetOptions {
  /** A file, or a folder that exists; without it the current folder. */
  output?: string | undefined;
  /** Whether to replace a file. */
  force: boolean;
  /** For how many seconds to try again without any progress. */
  retrySeconds: number;
}

/**
 * `landfall get`: downloads one file into a hidden part file beside its place, continues a part that is there, checks the SHA-256
 * and gives it its name.
 * @throws {Failure}
 */
export async function getFile(context: Context, id: string, options: GetOptions): Promise<void> {
  const { api, output } = context;
  const file = await api.json<FileJson>(`/api/files/${encodeURIComponent(id)}`);
  const target = await chooseTarget(file, options.output);
  const shown = printable(target);
  if (!options.force) await requireFree(target);
  await tidyMemory('downloads');
  const memory = openMemory<DownloadNote>('downloads');
  const part = join(dirname(target), `.landfall-${file.id}.part`);
  const key = keyOf(api.server, file.id, part);
  await withLock(memory.path(key), `Another landfall process is downloading to ${shown}`, async () => {
    const download = { file, part, memory, key, retrySeconds: options.retrySeconds };
    await fetchMissing(context, download);
    await requireRight(download);
    await putInPlace(part, target, options.force);
    await memory.forget(key);
  });
  const { size, sha256 } = file;
  output.result({
    text: `${shown}  ${sizeText(size)}`,
    json: { id: file.id, path: target, size, sha256 },
    brief: target,
  });
}

async function chooseTarget(file: FileJson, wanted: string | undefined): Promise<string> {
  const name = safeName(file.filename, file.id);
  if (wanted === undefined) return resolve(name);
  const found = await stat(wanted).catch(() => undefined);
  if (found?.isDirectory() || wanted.endsWith('/')) return resolve(wanted, name);
  return resolve(wanted);
}

async function requireFree(target: string): Promise<void> {
  if (await lstat(target).catch(() => undefined)) {
    throw new Failure(
      EXIT.failed,
      `${printable(target)} exists already: --force replaces it, --output names another place`,
    );
  }
}

/** @throws {Failure} when the bytes are not those of the file; the part is removed then, because it cannot be continued */
async function requireRight({ file, part, memory, key }: Download): Promise<void> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(part)) hash.update(chunk);
  if (file.sha256 === null || hash.digest('hex') === file.sha256) return;
  await memory.forget(key);
  await rm(part, { force: true });
  throw new Failure(
    EXIT.failed,
    'The bytes that arrived do not have the SHA-256 of the file: download it again',
  );
}

/** File systems that have no hard links answer with one of these. */
const NO_LINKS = ['EPERM', 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS', 'EMLINK'];

/** Gives a complete part its name. Without `force` no file is replaced, even if it appeared meanwhile. */
async function putInPlace(part: string, target: string, force: boolean): Promise<void> {
  const handle = await open(part, 'r+');
  await handle.sync().finally(() => handle.close());
  if (!force) {
    try {
      // Unlike rename(), link() fails if there is a file.
      await link(part, target);
      await rm(part);
      return;
    } catch (error) {
      const { code = '' } = error as NodeJS.ErrnoException;
      if (code !== 'EEXIST' && !NO_LINKS.includes(code)) throw error;
      await requireFree(target);
    }
  }
  await rename(part, target);
}
