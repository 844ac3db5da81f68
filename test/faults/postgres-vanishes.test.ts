import { randomBytes } from 'node:crypto';
import { expectCompletedOnce } from '../support/aftermath.js';
import { idOf } from '../support/client.js';
import { sendHalf } from '../support/half-open.js';
import { expectInOrder, type Installation, install } from '../support/installation.js';
import { beginUpload, MIB, UNEVEN } from '../support/piecewise-upload.js';
import { type PostgresProxy, type Statement, startPostgresProxy } from '../support/postgres-proxy.js';
import { until } from '../support/until.js';

/*
 * PostgreSQL vanishes as when its host loses power: no connection is refused or ended, and no byte comes
 * through any more. Older connections stay silent for ever, even when PostgreSQL is back.
 */

/** The longest time for which a lease may block an upload. */
const HELD_SECONDS = 30;

let wire: PostgresProxy;
let installation: Installation;

beforeAll(async () => {
  wire = await startPostgresProxy();
  installation = await install({ reach: wire.reach, env: { DATABASE_POOL_SIZE: '14' } });
});
afterAll(async () => {
  await installation?.close();
  await wire?.close();
});

const isList = ({ text }: Statement) => text.startsWith('SELECT *, (extract(epoch FROM created_at)');

/** Starts requests whose queries have not reached PostgreSQL yet. */
async function startRequests(count: number) {
  const { user } = installation;
  const pauses = Array.from({ length: count }, () => wire.pauseAt(isList, 'before'));
  const answers = pauses.map(() => user.fetch('/api/files').then(({ status }) => status));
  await Promise.all(pauses.map(({ reached }) => reached));
  return {
    answers,
    letGo() {
      for (const { open } of pauses) open();
    },
  };
}

test.each([
  ['for a moment', async () => {}],
  [
    'until all waiting requests were answered',
    async (answers: Promise<number>[]) => void (await Promise.all(answers)),
  ],
])(
  'when PostgreSQL vanishes %s, requests and uploads go on by themselves when it is back',
  async (_how, wait) => {
    const { user, s3, processes } = installation;
    const slow = s3.rule(({ method }) => method === 'PUT', { delay: 200 });
    const content = randomBytes(24 * MIB);
    const upload = await beginUpload(user, content, UNEVEN);
    const finished = upload.finish();
    finished.catch(() => {});
    const held = await user.create(2 * MIB);
    const holder = sendHalf(processes.url, user, held, {
      offset: 0,
      length: 2 * MIB,
      sent: randomBytes(MIB),
    });
    await until('the upload to have come some way', () => (upload.acknowledged.at(-1) ?? 0) > MIB);
    const isHeld = async () => {
      const { rows } = await processes.database.query('SELECT lease_holder FROM uploads WHERE id = $1', [
        idOf(held),
      ]);
      return rows[0].lease_holder !== null;
    };
    await until('the other to be held', isHeld);
    const { answers, letGo } = await startRequests(10);

    wire.vanish();
    letGo();
    await until('the server to say so', async () => (await user.fetch('/health/ready')).status === 503);
    expect((await user.fetch('/health/live')).status).toBe(200);
    await wait(answers);
    wire.reappear();

    const head = await until(
      'the upload that was held to be free',
      async () => {
        const answer = await user.tus('HEAD', held);
        expect([200, 423]).toContain(answer.status);
        return answer.status === 200 && answer;
      },
      HELD_SECONDS,
    );
    expect(Number(head.headers.get('Upload-Offset'))).toBeLessThanOrEqual(MIB);
    expect(await Promise.all(answers)).toEqual(Array(10).fill(503));
    await until('the server to be ready', async () => (await user.fetch('/health/ready')).ok, HELD_SECONDS);
    const later = await Promise.all(Array.from({ length: 30 }, () => user.fetch('/api/files')));
    expect(later.map(({ status }) => status)).toEqual(Array(30).fill(200));
    slow();
    holder.destroy();
    await finished;
    await expectCompletedOnce(processes, user, upload.id, content, 120);
    await user.tus('DELETE', held);
    await expectInOrder(installation);
  },
);
