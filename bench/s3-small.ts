import { median, ROUNDS, SCALE } from './figures.js';
import { measure, type Run } from './measure.js';
import { type Contender, startStock, withContenders } from './s3-contenders.js';
import { startLandfall } from './s3-landfall.js';
import { emptyBucket, onEachStore } from './s3-stores.js';
import { type Row, row } from './table.js';
import { upload } from './tus-client.js';

const FILES = Math.ceil(2000 * SCALE);
const LENGTH = 10 * 1024;
const AT_A_TIME = 32;

/** Many files of 10 KiB, each created and then sent in one PATCH, as tus-js-client does. */
export function benchS3Small(): Promise<Row[]> {
  return onEachStore((store) =>
    withContenders(store, { landfall: startLandfall, stock: startStock }, async ({ landfall, stock }) => {
      const runs: Record<'landfall' | 'stock', Run[]> = { landfall: [], stock: [] };
      for (let round = 0; round < ROUNDS; round++) {
        runs.landfall.push(await measure(landfall, store, FILES * LENGTH, () => sendAll(landfall)));
        runs.stock.push(await measure(stock, store, FILES * LENGTH, () => sendAll(stock)));
        await emptyBucket(store, stock.bucket);
      }
      const medianOf = (figure: (run: Run) => number) => ({
        landfall: median(runs.landfall.map(figure)),
        stock: median(runs.stock.map(figure)),
      });
      const speed = medianOf((run) => FILES / run.seconds);
      const cpu = medianOf((run) => (run.cpu * 1000) / FILES);
      const requests = medianOf((run) => run.requests / FILES);
      return [
        row(`${store.name}, files a second`, speed, 0),
        row(`${store.name}, CPU ms a file`, cpu, 2),
        ...(store.takeCounts ? [row(`${store.name}, S3 requests a file`, requests, 2)] : []),
      ];
    }),
  );
}

async function sendAll(server: Contender): Promise<void> {
  let left = FILES;
  await Promise.all(
    Array.from({ length: AT_A_TIME }, async () => {
      while (left-- > 0) await upload(server, LENGTH);
    }),
  );
}
