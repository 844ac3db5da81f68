import { get } from 'node:http';
import type { Readable } from 'node:stream';
import { setTimeout as pause } from 'node:timers/promises';
import { GetObjectCommand } from '@aws-sdk/client-s3';
import { MIB, median, SCALE } from './figures.js';
import { type Contender, withContenders } from './s3-contenders.js';
import { startLandfallWithWorker } from './s3-landfall.js';
import { listObjects, onEachStore, type Store } from './s3-stores.js';
import { type Row, row } from './table.js';
import { upload } from './tus-client.js';

const ROUNDS = 5;
const LENGTH = Math.ceil(256 * SCALE) * MIB;
const RANGE = MIB;

/** Downloads through Landfall, whole and in ranges of 1 MiB one after the other, against the AWS SDK at the store. */
export function benchS3Download(): Promise<Row[]> {
  return onEachStore((store) =>
    withContenders(store, { landfall: startLandfallWithWorker }, async ({ landfall }) => {
      const location = await upload(landfall, LENGTH);
      const id = location.split('/').at(-1) ?? '';
      await waitUntilCompleted(landfall, id);
      return measureDownloads(store, landfall, id);
    }),
  );
}

async function measureDownloads(store: Store, landfall: Contender, id: string): Promise<Row[]> {
  const found = [...(await listObjects(store, landfall.bucket))].find(([, size]) => size === LENGTH);
  const Key = found?.[0] ?? '';
  const open = {
    landfall: (range?: string) => openContent(`${landfall.url}/api/files/${id}/content`, landfall, range),
    direct: async (Range?: string) => {
      const object = { Bucket: landfall.bucket, Key, ...(Range ? { Range } : {}) };
      return (await store.client.send(new GetObjectCommand(object))).Body as Readable;
    },
  };
  const whole = { landfall: [] as number[], direct: [] as number[] };
  const ranged = { landfall: [] as number[], direct: [] as number[] };
  for (let round = 0; round < ROUNDS; round++) {
    for (const name of ['landfall', 'direct'] as const) {
      whole[name].push(await time(async () => drain(await open[name]())));
      ranged[name].push(
        await time(async () => {
          let bytes = 0;
          for (let at = 0; at < LENGTH; at += RANGE) {
            bytes += await drain(await open[name](`bytes=${at}-${at + RANGE - 1}`));
          }
          return bytes;
        }),
      );
    }
  }
  return [
    row(
      `${store.name}, whole file, MB/s`,
      { landfall: median(whole.landfall), direct: median(whole.direct) },
      0,
    ),
    row(
      `${store.name}, ranges of 1 MiB, MB/s`,
      { landfall: median(ranged.landfall), direct: median(ranged.direct) },
      0,
    ),
  ];
}

/** @returns MiB a second. @param download returns how many bytes arrived. @throws when bytes are missing */
async function time(download: () => Promise<number>): Promise<number> {
  const began = performance.now();
  const bytes = await download();
  if (bytes !== LENGTH) throw new Error(`${bytes} bytes arrived`);
  return LENGTH / MIB / ((performance.now() - began) / 1000);
}

function openContent(url: string, { headers }: Contender, range?: string): Promise<Readable> {
  return new Promise((resolve, reject) => {
    get(url, { headers: { ...headers, ...(range ? { Range: range } : {}) } }, resolve).once('error', reject);
  });
}

function drain(body: Readable): Promise<number> {
  return new Promise((resolve, reject) => {
    let bytes = 0;
    body.on('data', (chunk: Buffer) => {
      bytes += chunk.length;
    });
    body.once('end', () => resolve(bytes)).once('error', reject);
  });
}

/** Landfall serves a file only after the worker has found it clean. */
async function waitUntilCompleted({ url, headers }: Contender, id: string): Promise<void> {
  for (;;) {
    const answer = await fetch(`${url}/api/files/${id}/status`, { headers });
    const { status } = (await answer.json()) as { status: string };
    if (status === 'completed') return;
    if (status !== 'pending' && status !== 'processing') throw new Error(`the file is ${status}`);
    await pause(100);
  }
}
