import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import sharp from 'sharp';
import { median } from './figures.js';
import type { Measured } from './programs.js';
import { startLandfall } from './standalone.js';

const FILES = 50;
const ROUNDS = 3;

/** The bench polls so rarely that it takes no CPU from the worker. */
const POLL_MS = 250;

type Landfall = Measured & { token: string };

/**
 * Measures how long fifty JPEGs of about 3 MB take from the last acknowledged byte until all are `completed`, against the
 * bare work. In the first row the queue is held while they are sent: no work hides behind the upload.
 */
export async function benchProcessing(): Promise<Record<string, string>[]> {
  const folder = mkdtempSync(join(tmpdir(), 'landfall-bench-jpeg-'));
  await makeJpegs(folder);
  const landfall = await startLandfall();
  const held: number[] = [];
  const flowing: number[] = [];
  const bare: number[] = [];
  try {
    // Warm up first, as the bare process does.
    await runAll(landfall, folder, 1, false);
    for (let round = 0; round < ROUNDS; round++) {
      bare.push(runBare(folder));
      held.push(await runAll(landfall, folder, FILES, true));
      flowing.push(await runAll(landfall, folder, FILES, false));
    }
  } finally {
    await landfall.stop();
    rmSync(folder, { recursive: true, force: true });
  }
  return [
    {
      figure: `${FILES} JPEGs of 3 MB to completed, s`,
      landfall: median(held).toFixed(2),
      bare: median(bare).toFixed(2),
      ratio: (median(held) / median(bare)).toFixed(2),
    },
    {
      figure: 'the same, processed while they arrive',
      landfall: median(flowing).toFixed(2),
      bare: median(bare).toFixed(2),
      ratio: (median(flowing) / median(bare)).toFixed(2),
    },
  ];
}

/** Makes JPEGs of blurred noise with some grain, which compress and decode nearly as photographs do. */
async function makeJpegs(folder: string): Promise<void> {
  const noise = { type: 'gaussian', mean: 128, sigma: 60 } as const;
  const [width, height] = [4000, 3000];
  const base = await sharp({ create: { width: 1000, height: 750, channels: 3, background: '#777', noise } })
    .blur(2)
    .resize(width, height)
    .raw()
    .toBuffer();
  for (let i = 0; i < FILES; i++) {
    // Each file differs in its content, and so in its hash.
    base.writeUInt32LE(i + 1, i * 100);
    const jpeg = await sharp(base, { raw: { width, height, channels: 3 } })
      .jpeg({ quality: 85 })
      .withExif({ IFD0: { Make: 'Landfall', Model: 'Bench' } })
      .toBuffer();
    writeFileSync(join(folder, `${i}.jpg`), jpeg);
  }
}

/** @returns the seconds that the bare work takes */
export function runBare(folder: string): number {
  const script = fileURLToPath(new URL('./bare-processing.js', import.meta.url));
  return Number(execFileSync(process.execPath, [script, folder], { encoding: 'utf8' }));
}

/** Uploads files and returns the seconds from the last acknowledgement (or the release of the queue) to the end. */
async function runAll(landfall: Landfall, folder: string, count: number, hold: boolean): Promise<number> {
  const headers = { Authorization: `Bearer ${landfall.token}` };
  const queue = `${landfall.url}/admin/queues/api/queues/processing`;
  if (hold) await must(fetch(`${queue}/pause`, { method: 'PUT', headers }));
  const names = readdirSync(folder).slice(0, count);
  for (const name of names) {
    const body = readFileSync(join(folder, name));
    await must(
      fetch(`${landfall.url}/uploads`, {
        method: 'POST',
        headers: {
          ...headers,
          'Tus-Resumable': '1.0.0',
          'Upload-Length': String(body.length),
          'Content-Type': 'application/offset+octet-stream',
        },
        body,
      }),
    );
  }
  const began = performance.now();
  if (hold) await must(fetch(`${queue}/resume`, { method: 'PUT', headers }));
  let completed = began;
  for (;;) {
    const { items } = (await (
      await must(fetch(`${landfall.url}/api/files?limit=${count}`, { headers }))
    ).json()) as {
      items: { status: string }[];
    };
    completed = performance.now();
    if (items.every(({ status }) => status === 'completed')) break;
    await pause(POLL_MS);
  }
  return (completed - began) / 1000;
}

async function must(answer: Promise<Response>): Promise<Response> {
  const response = await answer;
  if (!response.ok) throw new Error(`${response.url}: ${response.status} ${await response.text()}`);
  return response;
}
