import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import { parseNatsAddress } from '../core/nats-address.js';
import { type Broker, openBroker } from '../worker/nats/broker.js';
import { createNatsServer, type NatsServer } from './support/nats.js';
import { makeNatsOperator } from './support/nats-credentials.js';
import { until } from './support/until.js';

/* How the worker treats servers, accounts and streams of NATS that are not as it would have made them. */

/** Two accounts: A has JetStream, and a user who may make no streams; B has none. */
const ACCOUNTS = `
  jetstream { store_dir: "$STORE" }
  accounts {
    A: { jetstream: enabled, users: [
      { user: user, password: "p@ss:word/%" },
      { user: limited, password: p, permissions: { publish: ["landfall.>"], subscribe: ["_INBOX.>"] } },
    ] }
    B: { users: [{ user: b, password: p }] }
  }`;

let nats: NatsServer;
let broker: Broker | undefined;
let lines: { level: number; msg: string; err?: { message: string } }[];

beforeEach(async () => {
  nats = await createNatsServer();
  lines = [];
});

afterEach(async () => {
  broker?.close();
  await nats.close();
});

function open(url: string, credentialsFile?: string): Broker {
  const log = pino({ level: 'info' }, { write: (line: string) => lines.push(JSON.parse(line)) });
  const address = parseNatsAddress(url);
  if (!address) throw new Error(`no address: ${url}`);
  broker = openBroker({ ...address, credentialsFile }, log);
  return broker;
}

const urlOf = (user: string) => `nats://${user}:p@127.0.0.1:${nats.port}`;

const message = { id: '1-a', subject: 'landfall.file.completed', body: '{}' };

const warnings = () => lines.filter(({ level }) => level === 40).map(({ err }) => err?.message);

test('a server without JetStream is named once, and used when it has JetStream', async () => {
  await nats.start('');
  const opened = open(`nats://127.0.0.1:${nats.port}`);
  await until('the warning', () => warnings().length > 0);
  expect(warnings()).toEqual([expect.stringMatching(/^NATS has no JetStream for this account/)]);
  await expect(opened.publish(message)).rejects.toThrow();
  await nats.kill();
  await nats.start('jetstream { store_dir: "$STORE" }');
  await until('the connection', () => opened.isThere());
  await opened.publish(message);
  expect(lines.at(-1)).toMatchObject({ level: 30, msg: 'NATS takes events' });
});

test('an account without JetStream is named, and the password is not', async () => {
  await nats.start(ACCOUNTS);
  const opened = open(urlOf('b'));
  await until('the warning', () => warnings().length > 0);
  expect(warnings()).toEqual([expect.stringMatching(/^NATS has no JetStream for this account/)]);
  expect(opened.isThere()).toBe(false);
});

test('a wrong password is tried again, and does not appear in the log', async () => {
  await nats.start(ACCOUNTS);
  const opened = open(`nats://user:wrong-password@127.0.0.1:${nats.port}`);
  await until('the warning', () => warnings().length > 0);
  expect(warnings()).toEqual(['Authorization Violation']);
  await nats.kill();
  await nats.start(
    'jetstream { store_dir: "$STORE" }\nauthorization { user: user, password: wrong-password }',
  );
  await until('the connection', () => opened.isThere());
  expect(JSON.stringify(lines)).not.toContain('wrong-password');
});

test('a stream that has the subjects already is used as it is, by a user who may not make one', async () => {
  await nats.start(ACCOUNTS);
  await nats.as((manager) => manager.streams.add({ name: 'EVENTS', subjects: ['landfall.>', 'others.>'] }));
  for (const user of ['user:p%40ss%3Aword%2F%25', 'limited:p']) {
    const opened = open(`nats://${user}@127.0.0.1:${nats.port}`);
    await until('the connection', () => opened.isThere());
    // The second time JetStream knows the message by its id.
    await opened.publish(message);
    opened.close();
  }
  expect((await nats.read('EVENTS')).map(({ id, subject }) => [id, subject])).toEqual([
    ['1-a', 'landfall.file.completed'],
  ]);
  const names = await nats.as((manager) => manager.streams.names().next());
  expect(names).toEqual(['EVENTS']);
  expect(warnings()).toEqual([]);
});

test('a stream LANDFALL that does not take an event keeps its settings, and the log names the subject', async () => {
  await nats.start(ACCOUNTS);
  await nats.as((manager) => manager.streams.add({ name: 'LANDFALL', subjects: ['landfall.file.>'] }));
  const opened = open(urlOf('limited'));
  await until('the connection', () => opened.isThere());
  await opened.publish(message);
  await expect(opened.publish({ ...message, id: '2', subject: 'landfall.auth.login' })).rejects.toThrow();
  await until('the warning', () => warnings().length > 0);
  expect(warnings()).toEqual(['NATS has not stored landfall.auth.login: no stream takes it']);
  const widened = { subjects: ['landfall.>'] };
  await nats.as((manager) => manager.streams.update('LANDFALL', widened));
  await until('a new connection', () => opened.isThere());
  await opened.publish({ ...message, id: '2', subject: 'landfall.auth.login' });
  expect(await nats.read('LANDFALL')).toHaveLength(2);
});

test('a credentials file takes the place of a password, and is read again at each attempt', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'landfall-creds-'));
  const file = join(folder, 'landfall.creds');
  const { settings, credentials } = makeNatsOperator();
  await nats.start(settings);
  const opened = open(`nats://127.0.0.1:${nats.port}`, file);
  await until('the warning', () => warnings().length > 0);
  expect(warnings()).toEqual([expect.stringContaining('ENOENT')]);
  await writeFile(file, credentials);
  await until('the connection', () => opened.isThere());
  await opened.publish(message);
  await rm(folder, { recursive: true });
});

test('tls:// never sends its password to a server that does not encrypt', async () => {
  await nats.start(ACCOUNTS);
  const opened = open(`tls://limited:p@127.0.0.1:${nats.port}`);
  await until('the warning', () => warnings().length > 0);
  expect(warnings()).toEqual([expect.stringContaining('tls')]);
  expect(opened.isThere()).toBe(false);
});

test('a server that accepts connections and says nothing, or nonsense, is given up and tried again', async () => {
  const sockets: Socket[] = [];
  const silent = createServer((socket) => {
    socket.on('error', () => {}).resume();
    if (sockets.push(socket) > 1) socket.write('HTTP/1.1 400 Bad Request\r\n\r\n');
  }).listen(nats.port, '127.0.0.1');
  await once(silent, 'listening');
  const opened = open(`nats://127.0.0.1:${nats.port}`);
  await until('the third connection', () => sockets.length > 2);
  // Nothing is left open.
  await until('the earlier ones to be closed', () => sockets.slice(0, 2).every(({ destroyed }) => destroyed));
  expect(opened.isThere()).toBe(false);
  for (const socket of sockets) socket.destroy();
  silent.close();
  await once(silent, 'close');
  await nats.start('jetstream { store_dir: "$STORE" }');
  await until('the connection', () => opened.isThere());
});
