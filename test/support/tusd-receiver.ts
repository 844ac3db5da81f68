import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { until } from './until.js';

/** The receiver of tusd_receiver.py, as a process. The launcher of the tests sees to it that there is a Python. */
export interface TusdReceiver {
  url: string;
  /** What it has printed of each question. */
  // biome-ignore lint/suspicious/noExplicitAny: the tests look into it
  printed: any[];
  close(): Promise<void>;
}

export async function startTusdReceiver(): Promise<TusdReceiver> {
  const python = spawn('python3', ['test/support/tusd_receiver.py'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const ended = new Promise<void>((resolve) => python.once('close', () => resolve()));
  python.once('error', () => {});
  const printed: TusdReceiver['printed'] = [];
  createInterface(python.stdout).on('line', (line) => printed.push(JSON.parse(line)));
  const { port } = await until('the receiver to listen', () => printed[0]);
  printed.length = 0;
  return {
    url: `http://127.0.0.1:${port}/`,
    printed,
    async close() {
      python.kill();
      await ended;
    },
  };
}
