import { createHash, randomBytes } from 'node:crypto';
import { timeline } from '../support/aftermath.js';
import { idOf } from '../support/client.js';
import { expectInOrder, type Installation, install } from '../support/installation.js';
import { MIB } from '../support/piecewise-upload.js';
import { type RedisProcess, startRedis } from '../support/redis.js';
import { until } from '../support/until.js';

/* Redis is killed again and again while uploads and jobs run. Each time it comes back empty. */

const UPLOADS = 20;

let redis: RedisProcess;
let installation: Installation;

beforeAll(async () => {
  redis = await startRedis();
  installation = await install({ env: { REDIS_URL: redis.url } });
});
afterAll(async () => {
  await installation?.close();
  await redis?.close();
});

test('bytes are acknowledged without Redis; when it is back, each file is completed exactly once', async () => {
  const { user, processes, s3 } = installation;
  const slow = s3.rule(({ method }) => method === 'PUT', { delay: 100 });
  // A third of the uploads may end before Redis is killed, the next third once it was killed, the others
  // after the second kill.
  let kills = 0;
  const contents = Array.from({ length: UPLOADS }, (_, index) => randomBytes((index + 1) * 0.5 * MIB));
  let acknowledgements = 0;
  let finished = 0;
  const uploads = contents.map(async (content, index) => {
    const id = await user.tusUpload(content, {
      chunkSize: MIB,
      retryDelays: [],
      async onBeforeRequest(request) {
        const isLast = Number(request.getHeader('Upload-Offset')) + MIB >= content.length;
        if (isLast) await until('its time to end', () => kills >= index % 3, 200);
      },
      onAfterResponse(_, response) {
        if (response.getStatus() === 204) acknowledgements++;
      },
    });
    finished++;
    return id;
  });
  const landed = Promise.all(uploads);
  landed.catch(() => {});
  for (const thirds of [1, 2]) {
    await until('some uploads to be finished', () => finished >= (thirds - 0.5) * (UPLOADS / 3));
    await redis.stop();
    kills++;
    const before = { acknowledgements, finished };
    await until('more bytes to be acknowledged', () => acknowledgements > before.acknowledgements + 5);
    await until('more uploads to be finished', () => finished > before.finished);
    await redis.start();
  }
  slow();
  const ids = await landed;
  for (const [index, id] of ids.entries()) {
    const file = await user.settled(idOf(id));
    const sha256 = createHash('sha256')
      .update(contents[index] ?? '')
      .digest('hex');
    expect(file).toMatchObject({ status: 'completed', sha256 });
    // A job that ran when Redis was killed is added again, and may repeat its steps.
    const completed = (await timeline(processes, id)).filter((type) => type === 'file.completed');
    expect(completed).toHaveLength(1);
  }
  await expectInOrder(installation);
});
