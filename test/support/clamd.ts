import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { mkdir, mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { startGuarded } from './guarded.js';
import { freePort } from './services/port.js';
import { until } from './until.js';

/** A text that the signatures of a TestClamd find. */
interface Signature {
  name: string;
  text: string;
}

/** A clamd of the suite's own, with signatures that the suite writes. */
export interface TestClamd {
  port: number;
  /** The address for CLAMAV_HOST: a TCP port. */
  host: string;
  /** The path of its socket, which CLAMAV_HOST can name too. */
  socket: string;
  /** @param settings lines of its configuration */
  start(settings?: string): Promise<void>;
  /** SIGKILL, at once. */
  kill(): Promise<void>;
  pid(): number;
  /** Lets clamd load these signatures, of this version. It may run or not. */
  load(version: number, signatures: Signature[]): Promise<void>;
  /** Sends a command, such as VERSION. */
  ask(command: string): Promise<string>;
  /** Its log so far. */
  log(): string;
  close(): Promise<void>;
}

/** A clamd that is not started yet. */
export async function createTestClamd(): Promise<TestClamd> {
  const port = await freePort();
  const folder = await mkdtemp(join(tmpdir(), 'landfall-clamd-'));
  const database = join(folder, 'database');
  const config = join(folder, 'clamd.conf');
  const socket = join(folder, 'clamd.socket');
  await mkdir(database);
  let running: { kill(): Promise<void> } | undefined;
  let output = '';

  const clamd: TestClamd = {
    port,
    host: `127.0.0.1:${port}`,
    socket,
    async start(settings = '') {
      const lines = [
        'Foreground yes',
        // It writes to its terminal nevertheless.
        `PidFile ${join(folder, 'pid')}`,
        `TCPSocket ${port}`,
        'TCPAddr 127.0.0.1',
        `LocalSocket ${socket}`,
        'FixStaleSocket yes',
        `DatabaseDirectory ${database}`,
        `TemporaryDirectory ${folder}`,
        settings,
      ];
      await writeFile(config, `${lines.join('\n')}\n`);
      const { shell, kill } = startGuarded(process.env.CLAMD_PATH ?? 'clamd', ['-c', config]);
      running = { kill };
      shell.stdout.on('data', (chunk) => {
        output += chunk;
      });
      await until('clamd to start', () => clamd.ask('PING').catch(() => undefined));
    },
    async kill() {
      await running?.kill();
    },
    pid: () => Number(readFileSync(join(folder, 'pid'), 'utf8')),
    async load(version, signatures) {
      const file = join(folder, 'daily.cud');
      await writeFile(file, await pack(folder, version, signatures));
      await rename(file, join(database, 'daily.cud'));
      const isRunning = await clamd.ask('PING').catch(() => undefined);
      if (!isRunning) return;
      await clamd.ask('RELOAD');
      await until(`clamd to load version ${version}`, async () =>
        (await clamd.ask('VERSION')).includes(`/${version}/`),
      );
    },
    ask: (command) =>
      new Promise((resolve, reject) => {
        let answer = '';
        const client = connect(port, '127.0.0.1', () => client.end(`z${command}\0`));
        client.on('data', (chunk) => {
          answer += chunk;
        });
        client.on('error', reject);
        client.on('close', () => resolve(answer.replace('\0', '').trim()));
      }),
    log: () => output,
    async close() {
      await clamd.kill();
      await rm(folder, { recursive: true, force: true });
    },
  };
  return clamd;
}

/**
 * A database of signatures as ClamAV's own one, `daily`, whose version clamd tells: a head of 512 bytes before a tar.gz.
 * One without a seal has the ending .cud.
 */
async function pack(folder: string, version: number, signatures: Signature[]): Promise<Buffer> {
  const now = Math.floor(Date.now() / 1000);
  const head = `ClamAV-VDB:01 Jan 2026 00-00 +0000:${version}:${signatures.length}:90:X:X:test:${now}`;
  const lines = signatures.map(({ name, text }) => `${name}:0:*:${Buffer.from(text).toString('hex')}\n`);
  const ndb = lines.join('');
  const sha256 = createHash('sha256').update(ndb).digest('hex');
  await writeFile(join(folder, 'daily.ndb'), ndb);
  await writeFile(join(folder, 'daily.info'), `${head}\ndaily.ndb:${ndb.length}:${sha256}\n`);
  const archive = execFileSync('tar', [
    ...['-C', folder, '--owner=0', '--group=0', '--format=ustar', '-czf', '-'],
    ...['daily.info', 'daily.ndb'],
  ]);
  return Buffer.concat([Buffer.from(head.padEnd(512, ' ')), archive]);
}
