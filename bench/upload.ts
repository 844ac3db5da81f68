import { cpuSeconds, GIB, MIB, median, peakMemory } from './figures.js';
import { type Measured, startScript } from './programs.js';
import { startLandfall } from './standalone.js';
import { createUpload, patchUpload, terminateUpload } from './tus-client.js';

const ROUNDS = 5;

interface Round {
  seconds: number;
  /** Of the server process. */
  cpu: number;
}

/** Uploads 1 GiB in one PATCH, in turns with a bare Node server that writes the same bytes to a file. */
export async function benchUpload(): Promise<Record<string, string>[]> {
  const landfall = await startLandfall();
  const client = { url: landfall.url, headers: { Authorization: `Bearer ${landfall.token}` } };
  const bare = await startScript('./bare-server.js', {});
  const rounds: { landfall: Round[]; bare: Round[] } = { landfall: [], bare: [] };
  try {
    const before = peakMemory(landfall.pid);
    for (let round = 0; round < ROUNDS; round++) {
      rounds.bare.push(
        await measure(bare, () => patchUpload({ url: bare.url, headers: {} }, `${bare.url}/`, 0, GIB)),
      );
      const location = await createUpload(client, GIB);
      rounds.landfall.push(await measure(landfall, () => patchUpload(client, location, 0, GIB)));
      await terminateUpload(client, location);
    }
    const speed = (runs: Round[]) => GIB / MIB / median(runs.map((run) => run.seconds));
    const cpu = (runs: Round[]) => median(runs.map((run) => run.cpu));
    return [
      {
        figure: '1 GiB, one PATCH, MB/s',
        landfall: speed(rounds.landfall).toFixed(0),
        bare: speed(rounds.bare).toFixed(0),
        ratio: (speed(rounds.landfall) / speed(rounds.bare)).toFixed(2),
      },
      {
        figure: '1 GiB, one PATCH, CPU s',
        landfall: cpu(rounds.landfall).toFixed(2),
        bare: cpu(rounds.bare).toFixed(2),
        ratio: (cpu(rounds.landfall) / cpu(rounds.bare)).toFixed(2),
      },
      {
        figure: 'server RSS, peak, MiB (before)',
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
