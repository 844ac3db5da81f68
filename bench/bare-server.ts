import { randomUUID } from 'node:crypto';
import { createWriteStream, mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';

/* The yardstick for uploads: the body of any request goes to a file, which is synced before the answer. */

const folder = mkdtempSync(join(tmpdir(), 'landfall-bench-bare-'));

const server = createServer(async (req, res) => {
  const path = join(folder, randomUUID());
  await pipeline(req, createWriteStream(path, { flush: true }));
  res.writeHead(204).end();
  rmSync(path);
});
server.requestTimeout = 0;
server.listen(0, '127.0.0.1', () =>
  console.log(`http://localhost:${(server.address() as AddressInfo).port}`),
);

for (const end of ['SIGTERM', 'disconnect'] as const) {
  process.on(end, () => {
    rmSync(folder, { recursive: true, force: true });
    process.exit(0);
  });
}
