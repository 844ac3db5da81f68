import { SCALE } from './figures.js';
import { type Contender, chooseContenders, runInTurns } from './s3-contenders.js';
import { startNullS3 } from './s3-stores.js';
import { type Load, runLoad, toRows } from './slow-load.js';
import { atMost, type Row } from './table.js';

const LOAD: Load = {
  clients: Math.ceil(500 * SCALE),
  processes: 1,
  bytesPerSecond: 64 * 1024,
  seconds: SCALE < 1 ? 5 : 30,
  beginMs: 5000,
};

const AIMS = {
  'CPU s': atMost(1.3, 'tusd'),
  'HEAD to others, p99, ms': atMost(50),
  'last byte to answer, p99, ms': atMost(1000),
  'peak memory, MiB': atMost(200),
  'S3 requests an upload': atMost(3),
  'clients with an error': atMost(0),
};

/** Five hundred clients on slow lines at once: the cost to the server, and the time of HEADs for other uploads. */
export async function benchS3Slow(): Promise<Row[]> {
  const store = await startNullS3();
  try {
    const work = (server: Contender) => runLoad(store, server, LOAD);
    return toRows(await runInTurns(store, chooseContenders(), work), LOAD, AIMS);
  } finally {
    await store.stop();
  }
}
