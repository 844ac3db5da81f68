import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { registerUser, type TestUser } from './client.js';
import { type Processes, startProcesses } from './processes.js';
import { freePort } from './services/port.js';
import { until } from './until.js';

/** A way to the database that can be cut. */
async function layWire(databaseUrl: string) {
  const { hostname, port: databasePort } = new URL(databaseUrl);
  const sockets = new Set<Socket>();
  const server: Server = createServer((inward) => {
    const outward = connect(Number(databasePort), hostname);
    for (const [from, to] of [
      [inward, outward],
      [outward, inward],
    ] as const) {
      sockets.add(from);
      from.pipe(to);
      from
        .on('error', () => {})
        .on('close', () => {
          sockets.delete(from);
          to.destroy();
        });
    }
  });
  const listen = async (port: number) => {
    server.listen(port, '127.0.0.1');
    await once(server, 'listening');
    return port;
  };
  const port = await listen(await freePort());
  const url = new URL(databaseUrl);
  url.port = String(port);
  return {
    url: url.href,
    cut() {
      server.close();
      for (const socket of sockets) socket.destroy();
    },
    mend: () => listen(port),
  };
}

let wire: Awaited<ReturnType<typeof layWire>>;
let processes: Processes;
let user: TestUser;

beforeAll(async () => {
  processes = await startProcesses({}, ['server', 'worker'], async (url) => {
    wire = await layWire(url);
    return wire.url;
  });
  user = await registerUser(() => processes.url);
});

afterAll(async () => {
  await processes?.close();
  wire?.cut();
});

const tusHeaders = { 'Tus-Resumable': '1.0.0' };

test('while the database is away clients are told to come again, and all goes on when it is back', async () => {
  const upload = await user.create(6);
  const patch = (offset: number, body: string) =>
    user.fetch(upload, {
      method: 'PATCH',
      headers: {
        ...tusHeaders,
        'Upload-Offset': String(offset),
        'Content-Type': 'application/offset+octet-stream',
      },
      body,
    });
  expect((await patch(0, 'abc')).status).toBe(204);

  wire.cut();
  const list = await user.fetch('/api/files');
  expect([list.status, (await list.json()).code]).toEqual([503, 'unavailable']);
  expect((await patch(3, 'def')).status).toBe(503);
  // A 5xx would make tus-js-client begin again with the first byte.
  expect((await user.fetch(upload, { method: 'HEAD', headers: tusHeaders })).status).toBe(423);
  expect((await user.fetch('/health/ready')).status).toBe(503);
  expect((await user.fetch('/health/live')).status).toBe(200);

  await wire.mend();
  await until('the server to be ready', async () => (await user.fetch('/health/ready')).ok);
  const head = await user.fetch(upload, { method: 'HEAD', headers: tusHeaders });
  expect(head.headers.get('Upload-Offset')).toBe('3');
  expect((await patch(3, 'def')).status).toBe(204);
  const id = upload.split('/').at(-1) ?? '';
  expect(await user.settled(id)).toMatchObject({ status: 'completed', size: 6, attempts: 1 });
});
