import { get } from 'node:http';
import { setTimeout as pause } from 'node:timers/promises';
import { cpuSeconds, median, peakMemory, percentile99, resetPeakMemory, SCALE } from './figures.js';
import { register, startLandfall } from './standalone.js';
import { atMost, type Row, row } from './table.js';
import { createUpload, type TusServer } from './tus-client.js';

/** One user may have twenty streams on one server. */
const STREAMS = 20;
const USERS = Math.ceil(50 * SCALE);
const OPENED_AT_A_TIME = 20;

/** How long the server is watched without and with streams, in milliseconds. */
const WATCH_MS = 20_000 * SCALE;

/** How many events are made, one every so many milliseconds. */
const EVENTS = Math.ceil(400 * SCALE);
const EVERY_MS = 50;

interface User extends TusServer {
  streams: Stream[];
}

interface Stream {
  /** Called at each event that arrives. */
  onEvent: () => void;
  close(): void;
}

/**
 * Holds a thousand streams of live events open on one server, those of fifty users, and measures what they cost and how
 * long an event takes from the request that causes it to each client. (The time includes the request, its commit, and
 * the wait of up to 100 ms until the event gets its number.)
 */
export async function benchLiveEvents(): Promise<Row[]> {
  const landfall = await startLandfall();
  const { pid, url } = landfall;
  const users: User[] = [{ url, headers: bearer(landfall.token), streams: [] }];
  try {
    for (let n = 1; n < USERS; n++) {
      users.push({ url, headers: bearer(await register(url, `bench-${n}@example.org`)), streams: [] });
    }
    await burst(users[0] as User);
    const without = { memory: residentMemory(pid), cpu: await idleCpu(pid) };
    const began = performance.now();
    await Promise.all(Array.from({ length: OPENED_AT_A_TIME }, (_, index) => openShare(users, index)));
    const seconds = (performance.now() - began) / 1000;
    const count = users.length * STREAMS;
    await pause(2_000);
    const memory = residentMemory(pid) - without.memory;
    const cpu = await idleCpu(pid);
    const before = cpuSeconds(pid);
    const times = await makeEvents(users);
    const busy = cpuSeconds(pid) - before;
    return [
      row(`open ${count} streams, s`, { landfall: seconds }, 2),
      row('memory of a stream, KiB', { landfall: memory / count / 1024 }, 1),
      row('CPU without streams, % of a core', { landfall: without.cpu }, 2),
      row('CPU with them and no events, % of a core', { landfall: cpu }, 2),
      row(`CPU of ${EVENTS} events to ${STREAMS} clients each, ms an event`, {
        landfall: (busy / EVENTS) * 1000,
      }),
      row('request to delivery, median, ms', { landfall: median(times) }, 0),
      row('request to delivery, p99, ms', { landfall: percentile99(times) }, 0, atMost(250)),
    ];
  } finally {
    for (const { streams } of users) for (const stream of streams) stream.close();
    await landfall.stop();
  }
}

const bearer = (token: string) => ({ Authorization: `Bearer ${token}` });

/** Lets the server grow to its usual size before it is measured. */
async function burst(user: TusServer): Promise<void> {
  for (let n = 0; n < 300 * SCALE; n++) await createUpload(user, 10);
}

/** In bytes. */
function residentMemory(pid: number): number {
  resetPeakMemory(pid);
  return peakMemory(pid);
}

/** Percent of a core while nothing happens. */
async function idleCpu(pid: number): Promise<number> {
  const before = cpuSeconds(pid);
  await pause(WATCH_MS);
  return ((cpuSeconds(pid) - before) / (WATCH_MS / 1000)) * 100;
}

async function openShare(users: User[], index: number): Promise<void> {
  for (let n = index; n < users.length * STREAMS; n += OPENED_AT_A_TIME) {
    const user = users[n % users.length] as User;
    user.streams.push(await openStream(user));
  }
}

function openStream({ url, headers }: TusServer): Promise<Stream> {
  return new Promise((resolve, reject) => {
    const outgoing = get(`${url}/api/events`, { headers, agent: false }, (answer) => {
      if (answer.statusCode !== 200) reject(new Error(`a stream was answered ${answer.statusCode}`));
      const stream: Stream = { onEvent: () => {}, close: () => outgoing.destroy() };
      answer.setEncoding('utf8').on('data', (text: string) => {
        if (text.includes('data:')) stream.onEvent();
      });
      answer.once('data', () => resolve(stream)).on('error', () => {});
    });
    outgoing.on('error', reject);
  });
}

/** Makes events of all users in turn. @returns milliseconds from each request to each of its deliveries */
async function makeEvents(users: User[]): Promise<number[]> {
  const times: number[] = [];
  const running: Promise<void>[] = [];
  for (let n = 0; n < EVENTS; n++) {
    running.push(makeEvent(users[n % users.length] as User, times));
    await pause(EVERY_MS);
  }
  await Promise.all(running);
  return times;
}

async function makeEvent(user: User, times: number[]): Promise<void> {
  const began = performance.now();
  const delivered = user.streams.map(
    (stream) =>
      new Promise<void>((resolve) => {
        stream.onEvent = () => {
          times.push(performance.now() - began);
          resolve();
        };
      }),
  );
  await Promise.all([createUpload(user, 10), ...delivered]);
}
