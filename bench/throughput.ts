import { createHash } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setInterval as every, setTimeout as pause } from 'node:timers/promises';
import { forEachOf } from '../core/concurrency.js';
import { MIB, median, percentile95 } from './figures.js';
import { type MixedFile, makeMixedFiles } from './mixed-files.js';
import { runBare } from './processing.js';
import { startWithWorkers, type WithWorkers } from './workers.js';

const ROUNDS = 3;
const WORKERS = 2;
const CONCURRENCY = 4;
const SENDERS = 4;

/** The bench polls so rarely that it takes no CPU from the workers. */
const POLL_MS = 500;

const KILL_EVERY_MS = 5_000;

type Row = Record<string, string>;

interface Sent extends MixedFile {
  id: string;
}

/**
 * Sends 500 mixed files to a server with two workers. First the queue is held while they are sent, and their processing is
 * compared with the bare work. Then they are processed while they arrive: how long each waits, by type. At last a worker is
 * killed every five seconds meanwhile, and each file is looked at.
 */
export async function benchThroughput(): Promise<Row[]> {
  const folder = mkdtempSync(join(tmpdir(), 'landfall-bench-mixed-'));
  const files = await makeMixedFiles(folder);
  const landfall = await startWithWorkers(WORKERS, CONCURRENCY);
  try {
    // Warm up first, as the bare process does.
    await processed(landfall, await send(landfall, files.slice(0, 8)));
    const bare: number[] = [];
    const held: number[] = [];
    const memory = watchMemory(landfall);
    for (let round = 0; round < ROUNDS; round++) {
      bare.push(runBare(folder));
      held.push(await runHeld(landfall, files));
    }
    const peak = memory.stop();
    const waits = await runFlowing(landfall, files);
    const { kills, seconds } = await runKilled(landfall, files);
    return [
      {
        figure: `${files.length} mixed files, files a second`,
        landfall: (files.length / median(held)).toFixed(1),
        bare: (files.length / median(bare)).toFixed(1),
        ratio: (median(bare) / median(held)).toFixed(2),
        aim: aim(median(bare) / median(held) >= 0.85, '≥ 0.85'),
      },
      {
        figure: 'peak memory of a worker with its parsers, MiB',
        landfall: (peak / MIB).toFixed(0),
        aim: aim(peak < 700 * MIB, '< 700'),
      },
      ...[...waits].map(([type, times]) => ({
        figure: `from the last byte to completed, p95, ms: ${type}`,
        landfall: percentile95(times).toFixed(0),
      })),
      {
        figure: `all right in the end after ${kills} kills of workers, files`,
        landfall: `${files.length}`,
      },
      { figure: 'the same, s', landfall: seconds.toFixed(1) },
    ];
  } finally {
    await landfall.stop();
    rmSync(folder, { recursive: true, force: true });
  }
}

function aim(isMet: boolean, text: string): string {
  return `${text} ${isMet ? 'met' : 'NOT MET'}`;
}

/** @returns seconds from the release of the queue until all files are processed */
async function runHeld(landfall: WithWorkers, files: MixedFile[]): Promise<number> {
  await call(landfall, 'POST', '/api/admin/queue/pause');
  const sent = await send(landfall, files);
  const began = performance.now();
  await call(landfall, 'POST', '/api/admin/queue/resume');
  await processed(landfall, sent);
  return (performance.now() - began) / 1000;
}

/** @returns milliseconds from the end of the upload until a file is processed, by type */
async function runFlowing(landfall: WithWorkers, files: MixedFile[]): Promise<Map<string, number[]>> {
  const sent = await send(landfall, files);
  const shown = await processed(landfall, sent);
  const waits = new Map<string, number[]>();
  for (const { id, type } of sent) {
    const { createdAt, completedAt } = shown.get(id) as FileJson;
    const ms = Date.parse(completedAt ?? '') - Date.parse(createdAt);
    waits.set(type, [...(waits.get(type) ?? []), ms]);
  }
  return waits;
}

/** Kills a worker every five seconds meanwhile. @throws when a file is not what it should be */
async function runKilled(
  landfall: WithWorkers,
  files: MixedFile[],
): Promise<{ kills: number; seconds: number }> {
  const ended = new AbortController();
  const began = performance.now();
  const killing = killAgainAndAgain(landfall, ended.signal);
  const sent = await send(landfall, files);
  const shown = await processed(landfall, sent);
  const seconds = (performance.now() - began) / 1000;
  ended.abort();
  const kills = await killing;
  await forEachOf(sent, SENDERS, async (file) => requireRight(landfall, file, shown.get(file.id)));
  return { kills, seconds };
}

async function killAgainAndAgain(landfall: WithWorkers, signal: AbortSignal): Promise<number> {
  let kills = 0;
  try {
    for await (const _ of every(KILL_EVERY_MS, undefined, { signal })) {
      await landfall.replace(kills % WORKERS);
      kills++;
    }
  } catch (error) {
    if (!signal.aborted) throw error;
  }
  return kills;
}

interface FileJson {
  id: string;
  status: string;
  sha256: string | null;
  createdAt: string;
  completedAt: string | null;
  links: { thumbnails: Record<string, string> | null };
}

/** Whether a file was processed once in effect: the right bytes, all its thumbnails, completed once. */
async function requireRight(landfall: WithWorkers, sent: Sent, shown: FileJson | undefined): Promise<void> {
  const sha256 = createHash('sha256')
    .update(await readFile(sent.path))
    .digest('hex');
  const { items } = (await call(landfall, 'GET', `/api/files/${sent.id}/events?limit=200`)) as {
    items: { type: string }[];
  };
  const ends = items.filter(({ type }) => type === 'file.completed').length;
  const thumbnails = Object.keys(shown?.links.thumbnails ?? {}).length;
  const isImage = sent.type.startsWith('image/');
  if (
    shown?.status === 'completed' &&
    shown.sha256 === sha256 &&
    ends === 1 &&
    thumbnails === (isImage ? 3 : 0)
  )
    return;
  throw new Error(
    `${sent.name}: ${shown?.status}, completed ${ends} times, ${thumbnails} thumbnails, ${shown?.sha256}`,
  );
}

/** Sends each file with the request that creates its upload. */
async function send(landfall: WithWorkers, files: MixedFile[]): Promise<Sent[]> {
  const sent: Sent[] = [];
  await forEachOf(files, SENDERS, async (file) => {
    const body = await readFile(file.path);
    const metadata = [
      ['filename', file.name],
      ['filetype', file.type],
    ]
      .map(([key, value]) => `${key} ${Buffer.from(value ?? '').toString('base64')}`)
      .join(',');
    const answer = await fetch(`${landfall.url}/uploads`, {
      method: 'POST',
      headers: {
        ...landfall.headers,
        'Tus-Resumable': '1.0.0',
        'Upload-Length': String(body.length),
        'Upload-Metadata': metadata,
        'Content-Type': 'application/offset+octet-stream',
      },
      body,
    });
    if (!answer.ok) throw new Error(`${file.name}: ${answer.status} ${await answer.text()}`);
    sent.push({ ...file, id: answer.headers.get('Location')?.split('/').at(-1) ?? '' });
  });
  return sent;
}

/** Waits until files are processed. @returns them by id */
async function processed(landfall: WithWorkers, sent: Sent[]): Promise<Map<string, FileJson>> {
  const shown = new Map<string, FileJson>();
  const open = new Set(sent.map(({ id }) => id));
  while (open.size > 0) {
    await pause(POLL_MS);
    // The newest files come first, so those of this round are on the first pages.
    for (let cursor = '', seen = 0; seen < sent.length; ) {
      const page = (await call(landfall, 'GET', `/api/files?limit=200${cursor}`)) as {
        items: FileJson[];
        nextCursor: string | null;
      };
      for (const file of page.items) {
        if (file.status === 'pending' || file.status === 'processing' || !open.delete(file.id)) continue;
        shown.set(file.id, file);
      }
      seen += page.items.length;
      if (page.nextCursor === null) break;
      cursor = `&cursor=${page.nextCursor}`;
    }
  }
  return shown;
}

async function call(landfall: WithWorkers, method: string, path: string): Promise<unknown> {
  const answer = await fetch(`${landfall.url}${path}`, { method, headers: landfall.headers });
  if (!answer.ok) throw new Error(`${path}: ${answer.status} ${await answer.text()}`);
  return answer.json();
}

const SAMPLE_MS = 100;

/** Watches the resident memory of each worker with its parser processes. @returns the largest, in bytes */
function watchMemory({ workers }: WithWorkers): { stop(): number } {
  let peak = 0;
  const timer = setInterval(() => {
    for (const { pid } of workers) peak = Math.max(peak, memoryOfTree(pid));
  }, SAMPLE_MS);
  return {
    stop() {
      clearInterval(timer);
      return peak;
    },
  };
}

function memoryOfTree(pid: number): number {
  try {
    const [, kib] = /VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? [];
    const children = readdirSync(`/proc/${pid}/task`).flatMap((task) =>
      readFileSync(`/proc/${pid}/task/${task}/children`, 'utf8')
        .trim()
        .split(' ')
        .filter(Boolean)
        .map(Number),
    );
    return Number(kib ?? 0) * 1024 + children.reduce((sum, child) => sum + memoryOfTree(child), 0);
  } catch {
    // The process has just ended.
    return 0;
  }
}
