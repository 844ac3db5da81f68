import { rename } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { createLogger } from '../core/log.js';
import { MARKER } from '../core/storage/storage.js';
import { watchDependencies } from '../worker/dependencies.js';
import { openLedger } from './support/ledger.js';

/* The errors that the worker takes for an outage. */

test('a store without its marker is away until the marker is back', async () => {
  const ledger = await openLedger();
  const marker = join(dirname(dirname(ledger.pathOf('any'))), MARKER);
  let back = () => {};
  const returned = new Promise<void>((resolve) => {
    back = resolve;
  });
  const { database, storage } = ledger;
  const log = createLogger('silent', 'test');
  const dependencies = watchDependencies({ database, storage, log, onAway: () => {}, onBack: back });
  try {
    expect(await dependencies.check()).toBe(false);
    await rename(marker, `${marker}.away`);
    expect(await dependencies.check()).toBe(true);
    await rename(`${marker}.away`, marker);
    await returned;
    expect(await dependencies.check()).toBe(false);
  } finally {
    dependencies.stop();
    await ledger.close();
  }
});
