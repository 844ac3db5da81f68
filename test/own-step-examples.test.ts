import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import sharp from 'sharp';
import { type FileJson, registerUser, type TestUser } from './support/client.js';
import { makeJpeg } from './support/fixtures.js';
import { type Processes, startProcesses } from './support/processes.js';
import { freePort } from './support/services/port.js';
import { until } from './support/until.js';

/* The three examples of docs/steps.md, as they stand in examples/steps, with a real worker. Only addresses are changed. */

const EXAMPLES = resolve('examples/steps');

type WithDerived = FileJson & { derived: { name: string; contentType: string; link: string }[] };

let folder: string;
let processes: Processes;
let user: TestUser;
let endService = async () => {};

/** Starts the program of the service. */
async function startService(secret: string): Promise<number> {
  const port = await freePort();
  const service = spawn(process.execPath, [join(EXAMPLES, 'describe-service.mjs')], {
    env: { PATH: process.env.PATH ?? '', DESCRIBE_SECRET: secret, PORT: String(port) },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  endService = async () => {
    if (service.exitCode !== null) return;
    service.kill();
    await once(service, 'exit');
  };
  let output = '';
  service.stdout.on('data', (chunk) => {
    output += chunk;
  });
  await until('the service to listen', () => output.includes(`listening on ${port}`));
  return port;
}

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'landfall-examples-'));
  const secret = `whsec_${randomBytes(32).toString('base64')}`;
  const port = await startService(secret);
  const text = await readFile(join(EXAMPLES, 'steps.yaml'), 'utf8');
  const file = join(folder, 'steps.yaml');
  await writeFile(file, text.replace(':8090/', `:${port}/`).replaceAll('{folder}', EXAMPLES));
  processes = await startProcesses({}, ['server']);
  await processes.start('worker', {
    STEPS_FILE: file,
    STEPS_DIR: join(EXAMPLES, 'modules'),
    DESCRIBE_SECRET: secret,
    PUBLIC_URL: processes.url,
  });
  user = await registerUser(() => processes.url);
});

afterAll(async () => {
  await processes?.close();
  await endService();
  await rm(folder, { recursive: true, force: true });
});

async function sendAndSettle(content: Buffer, filename: string): Promise<WithDerived> {
  return (await user.settled(await user.upload(content, { filename }))) as WithDerived;
}

async function derivedOf({ derived }: WithDerived, name: string): Promise<Buffer> {
  const answer = await fetch(`${processes.url}${derived.find((one) => one.name === name)?.link}`);
  expect(answer.status).toBe(200);
  return Buffer.from(await answer.arrayBuffer());
}

/** Seconds of silence, 8 kHz. */
function makeWav(seconds: number): Buffer {
  const rate = 8000;
  const header = Buffer.alloc(44);
  header.write('RIFF', 0, 'latin1');
  header.writeUInt32LE(36 + seconds * rate, 4);
  header.write('WAVEfmt ', 8, 'latin1');
  header.writeUInt32LE(16, 16);
  header.writeUInt16LE(1, 20);
  header.writeUInt16LE(1, 22);
  header.writeUInt32LE(rate, 24);
  header.writeUInt32LE(rate, 28);
  header.writeUInt16LE(1, 32);
  header.writeUInt16LE(8, 34);
  header.write('data', 36, 'latin1');
  header.writeUInt32LE(seconds * rate, 40);
  return Buffer.concat([header, Buffer.alloc(seconds * rate, 128)]);
}

test('the module puts a watermark on images', async () => {
  const file = await sendAndSettle(await makeJpeg({ width: 1000, height: 500 }), 'a.jpg');
  expect(file).toMatchObject({
    status: 'completed',
    warnings: [],
    steps: { watermark: { state: 'done' }, transcribe: { state: 'skipped' }, describe: { state: 'skipped' } },
    metadata: { watermark: { width: 1000, height: 500, text: expect.stringContaining('©') } },
    derived: [{ name: 'watermark-image', contentType: 'image/webp', width: 1000, height: 500 }],
  });
  const picture = sharp(await derivedOf(file, 'watermark-image'));
  expect(await picture.metadata()).toMatchObject({ format: 'webp', width: 1000, height: 500 });
});

test('the command makes captions of a recording', async () => {
  const file = await sendAndSettle(makeWav(3), 'speech.wav');
  expect(file).toMatchObject({
    status: 'completed',
    warnings: [],
    metadata: { transcribe: { language: 'en', seconds: 3, cues: 3 } },
    // A recording has a waveform too.
    derived: expect.arrayContaining([
      expect.objectContaining({ name: 'transcribe-captions', contentType: 'text/vtt' }),
    ]),
  });
  const captions = String(await derivedOf(file, 'transcribe-captions'));
  expect(captions).toMatch(/^WEBVTT\n\n00:00:00\.000 --> 00:00:01\.000\nSecond 1 of speech\.wav\n/);
});

test('the service describes texts', async () => {
  const file = await sendAndSettle(
    Buffer.from('Once upon a time there was a file that was uploaded in parts.'),
    'tale.txt',
  );
  expect(file).toMatchObject({
    status: 'completed',
    warnings: [],
    metadata: { describe: { words: 13 } },
    derived: [{ name: 'describe-summary', contentType: 'text/plain' }],
  });
  expect(String(await derivedOf(file, 'describe-summary'))).toBe(
    'Once upon a time there was a file that was',
  );
});
