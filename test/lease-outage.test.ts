import { openListener } from '../core/database/listen.js';
import { createLogger } from '../core/log.js';
import { LEASE_MS, openLeases } from '../core/uploads/lease.js';
import { freeLease } from './support/leases.js';
import { openLedger, type TestLedger } from './support/ledger.js';
import { type PostgresProxy, type Statement, startPostgresProxy } from './support/postgres-proxy.js';
import { until } from './support/until.js';

/* Leases while single connections to PostgreSQL hang. */

const never = new AbortController().signal;

let wire: PostgresProxy;
let ledger: TestLedger;

beforeAll(async () => {
  wire = await startPostgresProxy();
  ledger = await openLedger(wire.reach);
});
afterAll(async () => {
  await ledger?.close();
  await wire?.close();
});

async function acquire(holder: string) {
  const log = createLogger('silent', 'test');
  const listener = await openListener(ledger.url, log);
  const leases = await openLeases({ database: ledger.database, listener, log }, holder);
  const { id } = await ledger.create(100);
  await freeLease(ledger, id);
  const take = () => leases.acquire(id, { ownerId: ledger.ownerId }, never, () => {});
  const close = async () => {
    leases.close();
    await listener.close();
  };
  return { id, lease: await take(), take, close };
}

const isRelease = ({ text }: Statement) => text.startsWith('UPDATE uploads SET lease_holder = NULL WHERE');
const isRenewal = ({ text }: Statement) => /renewed AS/.test(text);

test('a lease outlives a renewal that hangs, and renewals do not pile up', async () => {
  const { id, lease, close } = await acquire('renews');
  const hanging = wire.pauseAt(isRenewal, 'before');
  await hanging.reached;
  const [from, began] = [wire.statements.length, performance.now()];
  const { lease_expires_at: before } = await ledger.row(id);
  await until('another renewal', async () => (await ledger.row(id)).lease_expires_at > before);
  // There is one in a third of the time of a lease; a busy machine may let some of these pass.
  const most = Math.max(1, Math.round((performance.now() - began) / (LEASE_MS / 3)));
  const renewals = wire.statements.slice(from).filter(isRenewal).length;
  expect(renewals).toBeGreaterThanOrEqual(1);
  expect(renewals).toBeLessThanOrEqual(most);
  hanging.open();
  await lease.release();
  await close();
});

test('a release does not wait for a database that hangs; the lease is free once it has expired', async () => {
  const { id, lease, take, close } = await acquire('releases');
  const hanging = wire.pauseAt(isRelease, 'before');
  await lease.release();
  await hanging.reached;
  expect((await ledger.row(id)).lease_holder).toBe('releases');
  const again = await take();
  expect(again).toMatchObject({ epoch: lease.epoch + 1, upload: { untidy: true } });
  // The late release changes nothing: another request holds the lease by then.
  const carriedOut = wire.pauseAt(isRelease, 'after');
  hanging.open();
  await carriedOut.reached;
  expect((await ledger.row(id)).lease_holder).toBe('releases');
  carriedOut.open();
  await again.release();
  await close();
});
