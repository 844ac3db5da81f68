import { randomBytes } from 'node:crypto';
import { Upload } from 'tus-js-client';
import { MIB, median, SCALE } from './figures.js';
import { openSlowLink } from './slow-link.js';
import { startLandfall } from './standalone.js';
import { createUpload, patchUpload, type TusServer } from './tus-client.js';

const ROUNDS = 3;
const LENGTH = Math.ceil(32 * SCALE) * MIB;
const PARALLEL = 4;

/** Bytes of the larger file whose parts are concatenated. */
const LARGE = Math.ceil(1024 * SCALE) * MIB;

/** Bytes a second that each connection carries. */
const RATE = 4 * MIB;

type Row = Record<string, string>;

/**
 * Uploads one file by tus-js-client over a link that limits each connection, over one connection and over four; and
 * measures how long the creation of a final upload takes for a small and for a large file.
 */
export async function benchParallelUploads(): Promise<Row[]> {
  const landfall = await startLandfall();
  const link = await openSlowLink(Number(new URL(landfall.url).port), RATE);
  const headers = { Authorization: `Bearer ${landfall.token}` };
  try {
    const content = randomBytes(LENGTH);
    const one: number[] = [];
    const four: number[] = [];
    for (let round = 0; round < ROUNDS; round++) {
      one.push(await upload(link.url, headers, content, 1));
      four.push(await upload(link.url, headers, content, PARALLEL));
    }
    const small = await concatenate({ url: landfall.url, headers }, MIB);
    const large = await concatenate({ url: landfall.url, headers }, LARGE);
    return [
      row(`${LENGTH / MIB} MiB at ${RATE / MIB} MiB/s a connection, s`, median(one), median(four), 2),
      row(`POST of a final upload of 4 parts, 1 MiB and ${LARGE / MIB} MiB, ms`, small, large, 1),
    ];
  } finally {
    link.close();
    await landfall.stop();
  }
}

function row(figure: string, first: number, second: number, digits: number): Row {
  return {
    figure,
    'one connection / small': first.toFixed(digits),
    'four / large': second.toFixed(digits),
    ratio: (first / second).toFixed(2),
  };
}

/** @returns seconds */
async function upload(
  url: string,
  headers: Record<string, string>,
  content: Buffer,
  parallelUploads: number,
): Promise<number> {
  const began = performance.now();
  await new Promise<void>((resolve, reject) => {
    const endpoint = `${url}/uploads`;
    const done = { onSuccess: () => resolve(), onError: reject };
    new Upload(content, { endpoint, headers, parallelUploads, retryDelays: null, ...done }).start();
  });
  return (performance.now() - began) / 1000;
}

/** Sends a file in four partial uploads. @returns milliseconds that the creation of the final upload takes */
async function concatenate(server: TusServer, length: number): Promise<number> {
  const times: number[] = [];
  const partial = { ...server, headers: { ...server.headers, 'Upload-Concat': 'partial' } };
  const paths: string[] = [];
  for (let part = 0; part < PARALLEL; part++) {
    const location = await createUpload(partial, length / PARALLEL);
    await patchUpload(server, location, 0, length / PARALLEL);
    paths.push(new URL(location).pathname);
  }
  for (let round = 0; round < 9; round++) {
    const began = performance.now();
    const answer = await fetch(`${server.url}/uploads`, {
      method: 'POST',
      headers: { ...server.headers, 'Tus-Resumable': '1.0.0', 'Upload-Concat': `final;${paths.join(' ')}` },
    });
    if (answer.status !== 201) throw new Error(`the final upload was answered ${answer.status}`);
    times.push(performance.now() - began);
  }
  return median(times);
}
