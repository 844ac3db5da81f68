import { randomBytes } from 'node:crypto';
import { request } from 'node:http';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { cpuSeconds, type Measured, median, peakMemory, startLandfall, startScript } from './system.js';

const GIB = 1024 ** 3;
const MIB = 1024 ** 2;
const ROUNDS = 5;

interface Round {
  seconds: number;
  /** Of the server process. */
  cpu: number;
}

/** Uploads 1 GiB in one PATCH, in turns with a bare Node server that writes the same bytes to a file. */
export async function benchUpload(): Promise<Record<string, string>[]> {
  const landfall = await startLandfall();
  const bare = await startScript('./bare-server.js', {});
  const rounds: { landfall: Round[]; bare: Round[] } = { landfall: [], bare: [] };
  try {
    const before = peakMemory(landfall.pid);
    for (let round = 0; round < ROUNDS; round++) {
      rounds.bare.push(await measure(bare, () => send(`${bare.url}/`, {})));
      const location = await create(landfall.url, landfall.token);
      rounds.landfall.push(
        await measure(landfall, () => send(location, { Authorization: `Bearer ${landfall.token}` })),
      );
      await remove(location, landfall.token);
    }
    const speed = (runs: Round[]) => GIB / MIB / median(runs.map((run) => run.seconds));
    const cpu = (runs: Round[]) => median(runs.map((run) => run.cpu));
    return [
      {
        what: '1 GiB, one PATCH, MB/s',
        landfall: speed(rounds.landfall).toFixed(0),
        bare: speed(rounds.bare).toFixed(0),
        ratio: (speed(rounds.landfall) / speed(rounds.bare)).toFixed(2),
      },
      {
        what: '1 GiB, one PATCH, CPU s',
        landfall: cpu(rounds.landfall).toFixed(2),
        bare: cpu(rounds.bare).toFixed(2),
        ratio: (cpu(rounds.landfall) / cpu(rounds.bare)).toFixed(2),
      },
      {
        what: 'server RSS, peak, MiB (before)',
        landfall: `${(peakMemory(landfall.pid) / MIB).toFixed(0)} (${(before / MIB).toFixed(0)})`,
        bare: (peakMemory(bare.pid) / MIB).toFixed(0),
        ratio: '',
      },
    ];
  } finally {
    await landfall.stop();
    await bare.stop();
  }
}

async function measure(server: Measured, run: () => Promise<void>): Promise<Round> {
  const cpu = cpuSeconds(server.pid);
  const began = performance.now();
  await run();
  return { seconds: (performance.now() - began) / 1000, cpu: cpuSeconds(server.pid) - cpu };
}

async function create(url: string, token: string): Promise<string> {
  const answer = await fetch(`${url}/uploads`, {
    method: 'POST',
    headers: { Authorization: `Bearer ${token}`, 'Tus-Resumable': '1.0.0', 'Upload-Length': String(GIB) },
  });
  return answer.headers.get('Location') ?? '';
}

async function remove(location: string, token: string): Promise<void> {
  await fetch(location, {
    method: 'DELETE',
    headers: { Authorization: `Bearer ${token}`, 'Tus-Resumable': '1.0.0' },
  });
}

const block = randomBytes(MIB);

function* gibibyte() {
  for (let sent = 0; sent < GIB; sent += block.length) yield block;
}

/** Sends 1 GiB and waits for the 204. */
async function send(url: string, headers: Record<string, string>): Promise<void> {
  const outgoing = request(url, {
    method: 'PATCH',
    headers: {
      'Tus-Resumable': '1.0.0',
      'Upload-Offset': '0',
      'Content-Type': 'application/offset+octet-stream',
      'Content-Length': GIB,
      ...headers,
    },
  });
  const answered = new Promise<number>((resolve, reject) => {
    outgoing.on('response', (response) => resolve(response.resume().statusCode ?? 0)).on('error', reject);
  });
  await pipeline(Readable.from(gibibyte(), { objectMode: false, highWaterMark: MIB }), outgoing);
  const status = await answered;
  if (status !== 204) throw new Error(`${url} answered ${status}`);
}
