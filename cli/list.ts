import type { FileJson, FilePageJson } from '../server/answers/files.js';
import type { Api } from './api.js';
import type { Context } from './context.js';
import { printable, sizeText, tableText } from './text.js';

/** The largest page of the server. */
const MAX_PAGE = 200;

/**
 * `landfall ls`: lists files, newest first. With --json and --quiet a file is written as soon as its page is here; a table
 * needs all rows.
 * @param limit how many at most
 */
export async function listFiles({ api, output }: Context, limit: number, plain: boolean): Promise<void> {
  const rows: FileJson[] = [];
  for await (const file of newestFiles(api, limit)) {
    if (plain) output.result({ text: '', json: file, brief: file.id });
    else rows.push(file);
  }
  const lines = tableText(rows.map(toRow), [1]);
  for (const text of lines) output.result({ text, json: {}, brief: '' });
}

async function* newestFiles(api: Api, limit: number): AsyncGenerator<FileJson> {
  let left = limit;
  let cursor: string | null = null;
  do {
    const query = new URLSearchParams({
      limit: String(Math.min(left, MAX_PAGE)),
      ...(cursor ? { cursor } : {}),
    });
    const page: FilePageJson = await api.json(`/api/files?${query}`);
    yield* page.items;
    left -= page.items.length;
    cursor = page.nextCursor;
  } while (cursor && left > 0);
}

function toRow({ id, size, status, createdAt, filename }: FileJson): string[] {
  return [id, sizeText(size), status, localTime(createdAt), printable(filename)];
}

/** Such as `2026-11-29 15:04`, in the time zone of this machine. */
function localTime(time: string): string {
  const date = new Date(time);
  const two = (part: number) => String(part).padStart(2, '0');
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return `${day} ${two(date.getHours())}:${two(date.getMinutes())}`;
}
