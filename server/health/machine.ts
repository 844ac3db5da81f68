import { statfs } from 'node:fs/promises';
import { totalmem } from 'node:os';
import { join } from 'node:path';
import type { DataSource } from 'typeorm';
import { queryRows } from '../../core/database/rows.js';
import { listenerName } from '../../core/services.js';

/* What this process and its machine have and use. */

interface Disk {
  freeBytes: number;
  totalBytes: number;
}

/** The disks of the data folder and of the spool, which may be mounted there; null where there is no such folder. */
export async function readDisks(dataDir: string): Promise<{ data: Disk | null; spool: Disk | null }> {
  const [data, spool] = await Promise.all([readDisk(dataDir), readDisk(join(dataDir, 'spool'))]);
  return { data, spool };
}

async function readDisk(folder: string): Promise<Disk | null> {
  const found = await statfs(folder).catch(() => undefined);
  return found ? { freeBytes: found.bavail * found.bsize, totalBytes: found.blocks * found.bsize } : null;
}

/** In bytes. */
export function readMemory() {
  const { rss, heapUsed, heapTotal, external } = process.memoryUsage();
  const limit = process.constrainedMemory() ?? 0;
  // Without a limit the system names 0 or a number that no machine has.
  const isLimited = limit > 0 && limit < totalmem();
  return {
    rssBytes: rss,
    heapUsedBytes: heapUsed,
    heapTotalBytes: heapTotal,
    externalBytes: external,
    limitBytes: isLimited ? limit : null,
  };
}

/** How many servers and workers are connected to the database now. */
export async function countProcesses(database: DataSource): Promise<{ servers: number; workers: number }> {
  const [row] = await queryRows<{ servers: number; workers: number }>(
    database,
    `SELECT count(*) FILTER (WHERE application_name = $1)::int AS servers,
            count(*) FILTER (WHERE application_name = $2)::int AS workers
     FROM pg_stat_activity WHERE datname = current_database()`,
    [listenerName('server'), listenerName('worker')],
  );
  return row ?? { servers: 0, workers: 0 };
}
