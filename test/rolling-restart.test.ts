import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createServer, request as httpRequest } from 'node:http';
import type { AddressInfo } from 'node:net';
import { expectBlobsInOrder, expectCompletedOnce } from './support/aftermath.js';
import { idOf, registerUser, type TestUser } from './support/client.js';
import { makeJpeg } from './support/fixtures.js';
import { type Form, openS3AndRedis } from './support/forms.js';
import { type Part, type Processes, startProcesses } from './support/processes.js';
import { until } from './support/until.js';

/*
 * A new version is deployed: one process after the other is stopped and started again. Uploads that are under
 * way lose nothing by it.
 */

const MIB = 1024 ** 2;

interface RoundRobin {
  url: string;
  close(): void;
}

/**
 * Sends each request to the next of these servers, running or not. If it is not, the client gets no answer.
 */
async function startRoundRobin(urls: string[]): Promise<RoundRobin> {
  let turn = 0;
  const balancer = createServer((incoming, answer) => {
    const { method, headers, url = '/' } = incoming;
    const outgoing = httpRequest(new URL(url, urls[turn++ % urls.length]), { method, headers });
    outgoing.on('response', (response) => {
      answer.writeHead(response.statusCode ?? 502, response.headers);
      response.pipe(answer);
      response.on('error', () => answer.destroy());
    });
    outgoing.on('error', () => answer.destroy());
    answer.on('close', () => outgoing.destroy());
    incoming.pipe(outgoing);
  });
  balancer.listen(0, '127.0.0.1');
  await once(balancer, 'listening');
  return {
    url: `http://127.0.0.1:${(balancer.address() as AddressInfo).port}`,
    close() {
      balancer.close();
      balancer.closeAllConnections();
    },
  };
}

let form: Form;
let processes: Processes;
let balancer: RoundRobin;
let user: TestUser;

beforeAll(async () => {
  form = await openS3AndRedis();
  processes = await startProcesses(form.env, ['server', 'server-2', 'worker', 'worker-2']);
  balancer = await startRoundRobin([processes.url, processes.urlOf('server-2')]);
  user = await registerUser(() => balancer.url);
});

afterAll(async () => {
  balancer?.close();
  await processes?.close();
  await form?.close();
});

/** Photographs and other things; each unlike all others. */
async function makeContents(): Promise<Buffer[]> {
  const image = await makeJpeg({ width: 1400, height: 900 });
  return Array.from({ length: 20 }, (_, index) => {
    const rest = randomBytes((2 + (index % 5)) * MIB + index);
    return index % 2 ? rest : Buffer.concat([image, rest]);
  });
}

test('servers and workers are restarted one by one under twenty uploads: nothing is lost, nothing is done twice', async () => {
  const contents = await makeContents();
  const acknowledged = new Map<string, number[]>();
  const total = contents.reduce((sum, content) => sum + content.length, 0);
  const received = () => [...acknowledged.values()].reduce((sum, offsets) => sum + (offsets.at(-1) ?? 0), 0);
  // Each restart comes after its share of the bytes, so that none comes after the last byte.
  const order: Part[] = ['server', 'worker', 'server-2', 'worker-2'];
  let restarts = 0;
  const mayGoOn = () => received() < (restarts + 1) * (total / order.length);
  const uploads = contents.map((content, index) =>
    user.tusUpload(content, {
      // Some uploads are one request, which a server that stops ends early.
      ...(index % 4 ? { chunkSize: 300_000 } : {}),
      retryDelays: Array(500).fill(200),
      metadata: { filename: `${index}.jpg` },
      onBeforeRequest: () => until('the next restart', mayGoOn, 120).then(() => {}),
      onAfterResponse(request, response) {
        const offset = response.getHeader('Upload-Offset');
        if (!offset || response.getStatus() >= 300) return;
        const id = idOf(request.getURL());
        acknowledged.set(id, [...(acknowledged.get(id) ?? []), Number(offset)]);
      },
    }),
  );

  for (const part of order) {
    const enough = (restarts + 0.3) * (total / order.length);
    await until(`${enough} bytes to be here`, () => received() > enough, 120);
    expect([part, await processes.stop(part)]).toEqual([part, 0]);
    await processes.start(part);
    restarts++;
  }

  const ids = await Promise.all(uploads);
  expect(new Set(ids).size).toBe(contents.length);
  for (const [index, id] of ids.entries()) {
    await expectCompletedOnce(processes, user, id, contents[index] ?? Buffer.alloc(0));
    const offsets = acknowledged.get(id) ?? [];
    expect(offsets.at(-1)).toBe(contents[index]?.length);
    expect(offsets).toEqual([...offsets].sort((a, b) => a - b));
  }
  // No client had to begin anew.
  expect([...acknowledged.keys()].sort()).toEqual([...ids].sort());
  const { items } = await user.get('/api/files?limit=200');
  expect(items).toHaveLength(contents.length);
  await expectBlobsInOrder(processes, form.bucket);
});
