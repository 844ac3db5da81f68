import { randomBytes } from 'node:crypto';
import { expectCompletedOnce } from '../support/aftermath.js';
import { idOf } from '../support/client.js';
import { expectInOrder, type Installation, install } from '../support/installation.js';
import { MIB } from '../support/piecewise-upload.js';
import { until } from '../support/until.js';

/* Fifty uploads at once, of all sizes, under kills at random moments. */

const UPLOADS = 50;
const KILLS = 20;

const SMALLEST = 10 * 1024;
const LARGEST = 12 * MIB;

/** Of tus-js-client, whose types do not name this option: tus 1.0, and two versions of the IETF draft. */
const PROTOCOLS = [{}, { protocol: 'ietf-draft-03' }, { protocol: 'ietf-draft-05' }] as object[];

const CHUNK_SIZES = [200 * 1024, MIB, 3 * MIB, 5.5 * MIB, Number.POSITIVE_INFINITY];

let installation: Installation;

beforeAll(async () => {
  installation = await install();
});
afterAll(() => installation?.close());

test('server and worker are killed twenty times under fifty uploads: each is completed exactly once', async () => {
  const { user, processes } = installation;
  const contents = Array.from({ length: UPLOADS }, (_, index) =>
    // Sizes grow geometrically, so that there are as many small uploads as large ones.
    randomBytes(Math.round(SMALLEST * (LARGEST / SMALLEST) ** (index / (UPLOADS - 1)))),
  );
  const total = contents.reduce((sum, content) => sum + content.length, 0);
  const offsets = new Map<string, number[]>();
  const received = () => [...offsets.values()].reduce((sum, each) => sum + (each.at(-1) ?? 0), 0);
  const uploads = contents.map((content, index) =>
    user.tusUpload(content, {
      ...PROTOCOLS[index % PROTOCOLS.length],
      chunkSize: CHUNK_SIZES[index % CHUNK_SIZES.length] ?? MIB,
      retryDelays: Array(200).fill(200),
      metadata: { filename: `${index}.bin` },
      onAfterResponse(request, response) {
        const offset = response.getHeader('Upload-Offset');
        if (!offset || response.getStatus() >= 300) return;
        const id = idOf(request.getURL());
        offsets.set(id, [...(offsets.get(id) ?? []), Number(offset)]);
      },
    }),
  );
  const landed = Promise.all(uploads);
  landed.catch(() => {});

  // Each kill comes when a random share of all bytes has been acknowledged.
  const moments = Array.from({ length: KILLS }, () => Math.random() * 0.9).sort((a, b) => a - b);
  for (const [index, moment] of moments.entries()) {
    await Promise.race([
      until(`${moment} of the bytes to be here`, () => received() > moment * total, 100),
      // It only matters if it fails.
      landed.then(() => {}),
    ]);
    const part = index % 4 === 3 ? 'worker' : 'server';
    await processes.kill(part);
    await processes.start(part);
  }

  const ids = await landed;
  expect(new Set(ids).size).toBe(contents.length);
  // A restart of the worker runs its passes, so that lost jobs need not wait for the next pass.
  await processes.stop('worker');
  await processes.start('worker');
  for (const [index, id] of ids.entries()) {
    const content = contents[index] ?? Buffer.alloc(0);
    await expectCompletedOnce(processes, user, id, content, 90);
    const acknowledged = offsets.get(id) ?? [];
    expect(acknowledged.at(-1)).toBe(content.length);
    expect(acknowledged).toEqual([...acknowledged].sort((a, b) => a - b));
  }
  await expectInOrder(installation);
});
