import { once } from 'node:events';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import { AppError } from '../core/errors.js';
import { createClamd } from '../core/scanning/clamd.js';
import { type Scan, ScannerLost } from '../core/scanning/scanner.js';
import { createTestClamd, type TestClamd } from './support/clamd.js';
import { registerUser, type TestUser } from './support/client.js';
import { type Processes, startProcesses } from './support/processes.js';
import { until } from './support/until.js';

/* Scanning with clamd: a real one of ClamAV, with signatures of this suite's own. */

const THREAT = { name: 'Landfall.Test', text: 'landfall-test-threat' };
const FOUND = 'Landfall.Test.UNOFFICIAL';

const MiB = 1024 ** 2;

let clamd: TestClamd;

beforeAll(async () => {
  clamd = await createTestClamd();
  await clamd.load(101, [THREAT]);
  await clamd.start('StreamMaxLength 2M');
});

afterAll(() => clamd?.close());

const never = new AbortController().signal;

const tried = ({ database }: Processes, id: string) =>
  until('an attempt', async () => {
    const { rows } = await database.query('SELECT attempts FROM files WHERE id = $1', [id]);
    return rows[0]?.attempts > 0;
  });

describe('a scan', () => {
  const scanner = (more: { timeoutMs?: number; maxSize?: number } = {}) =>
    createClamd({
      address: { host: '127.0.0.1', port: clamd.port },
      timeoutMs: 60_000,
      maxSize: Number.POSITIVE_INFINITY,
      ...more,
    });
  const send = async (scan: Scan, ...chunks: Buffer[]) => {
    for (const chunk of chunks) await scan.push(chunk);
    return scan.end();
  };

  it('finds a threat, also across the border of two chunks, and tells the version of the signatures', async () => {
    const infected = Buffer.from(`before ${THREAT.text} after`);
    for (const at of [0, 10, infected.length]) {
      const scan = scanner().begin(infected.length, never);
      const result = await send(scan, infected.subarray(0, at), infected.subarray(at));
      expect(result.verdict).toEqual({ kind: 'infected', threat: FOUND });
      expect(result.version).toMatch(/^ClamAV [\d.]+\/101\//);
    }
  });

  it.each([0, 1, 2 * MiB])('finds nothing in %s harmless bytes', async (size) => {
    const bytes = Buffer.alloc(size, 'x');
    const result = await send(scanner().begin(size, never), ...(size > 0 ? [bytes] : []));
    expect(result.verdict).toEqual({ kind: 'clean' });
  });

  it('reaches clamd by its socket', async () => {
    const local = createClamd({ address: { path: clamd.socket }, timeoutMs: 60_000, maxSize: 100 });
    expect((await send(local.begin(20, never), Buffer.from(THREAT.text))).verdict.kind).toBe('infected');
  });

  it('ends when the stream is longer than clamd allows', async () => {
    // clamd cuts the connection, so that its answer is lost now and then.
    const chunks = Array<Buffer>(80).fill(Buffer.alloc(256 * 1024));
    for (let round = 0; round < 20; round++) {
      const result = await send(scanner().begin(20 * MiB, never), ...chunks);
      expect(result.verdict).toEqual({ kind: 'too_large' });
    }
  });

  it('sends nothing of a file that is too large by the configuration', async () => {
    const scan = scanner({ maxSize: 10 }).begin(11, never);
    expect((await send(scan, Buffer.from(THREAT.text))).verdict).toEqual({ kind: 'too_large' });
  });

  it('holds up its reader while clamd takes nothing, and ends after the time limit', async () => {
    const scan = scanner({ timeoutMs: 500 }).begin(100 * MiB, never);
    await scan.push(Buffer.from('the first bytes'));
    process.kill(clamd.pid(), 'SIGSTOP');
    try {
      let sent = 0;
      const flood = async () => {
        for (; sent < 100; sent++) await scan.push(Buffer.alloc(MiB));
      };
      await expect(flood()).rejects.toThrow(ScannerLost);
      // Only the bytes in the sockets of both sides can be on the way.
      expect(sent).toBeLessThan(20);
    } finally {
      process.kill(clamd.pid(), 'SIGCONT');
    }
  });

  it('ends when it is given up', async () => {
    const given = new AbortController();
    const scan = scanner().begin(100, given.signal);
    await scan.push(Buffer.from('the first bytes'));
    given.abort(new Error('given up'));
    await expect(scan.end()).rejects.toThrow('given up');
  });

  it('says so when clamd is not there', async () => {
    const nowhere = createClamd({ address: { path: `${clamd.socket}.none` }, timeoutMs: 1000, maxSize: 100 });
    const error = await send(nowhere.begin(1, never), Buffer.from('x')).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(AppError);
    expect(error).toMatchObject({ code: 'unavailable', retryable: true });
  });
});

describe('files', () => {
  let processes: Processes;
  let user: TestUser;

  beforeAll(async () => {
    // An attempt that counted would be the last one.
    const env = { CLAMAV_HOST: clamd.host, JOB_ATTEMPTS: '1' };
    processes = await startProcesses(env);
    user = await registerUser(() => processes.url);
  });

  afterAll(() => processes?.close());

  const contentOf = async (id: string) => {
    const answer = await user.fetch(`/api/files/${id}/content`);
    return answer.ok ? answer.text() : (await answer.json()).code;
  };

  it('are infected when clamd finds a threat', async () => {
    const id = await user.upload(Buffer.from(`one ${THREAT.text}`));
    const file = await user.settled(id);
    expect(file).toMatchObject({
      status: 'infected',
      error: { step: 'scan', code: 'infected', detail: `Found: ${FOUND}` },
    });
    expect(await contentOf(id)).toBe('infected');
  });

  it('are served when it finds none, and say which signatures were used', async () => {
    const id = await user.upload(Buffer.from('harmless'));
    const file = await user.settled(id);
    expect(file.status).toBe('completed');
    expect(file.metadata.scan).toEqual({
      version: expect.stringMatching(/^ClamAV [\d.]+\/101\//),
      at: expect.any(String),
    });
    expect(await contentOf(id)).toBe('harmless');
  });

  it('fail when clamd takes no file of their size', async () => {
    const file = await user.settled(await user.upload(Buffer.alloc(3 * MiB)));
    expect(file).toMatchObject({ status: 'failed', error: { step: 'scan', code: 'too_large_to_scan' } });
    expect(await contentOf(file.id)).toBe('wrong_state');
  });

  it('are served with a warning then if the operator wants it', async () => {
    await processes.stop('worker');
    await processes.start('worker', { CLAMAV_OVERSIZE: 'allow' });
    const file = await user.settled(await user.upload(Buffer.alloc(3 * MiB)));
    expect(file.status).toBe('completed');
    expect(file.warnings).toContainEqual(expect.objectContaining({ step: 'scan', code: 'not_scanned' }));
    await processes.stop('worker');
    await processes.start('worker');
  });

  const health = async () => {
    const { status, dependencies } = await user.get('/health/detailed');
    const [found] = dependencies.filter(({ name }: { name: string }) => name === 'clamav');
    return { status, state: found.state, version: found.version };
  };

  it('wait while clamd is away, without an attempt that counts', async () => {
    expect(await health()).toMatchObject({ status: 'ok', state: 'up', version: await clamd.ask('VERSION') });
    await clamd.kill();
    const id = await user.upload(Buffer.from('waits'));
    await tried(processes, id);
    expect(await contentOf(id)).toBe('not_ready');
    expect(await health()).toMatchObject({ status: 'degraded', state: 'down' });
    await clamd.start('StreamMaxLength 2M');
    const file = await user.settled(id);
    expect(file).toMatchObject({ status: 'completed', attempts: 1 });
    expect(await contentOf(id)).toBe('waits');
  });

  it('wait while clamd hangs', async () => {
    process.kill(clamd.pid(), 'SIGSTOP');
    let id: string;
    try {
      id = await user.upload(Buffer.from('waits too'));
      await tried(processes, id);
      expect(await contentOf(id)).toBe('not_ready');
    } finally {
      process.kill(clamd.pid(), 'SIGCONT');
    }
    expect(await user.settled(id)).toMatchObject({ status: 'completed', attempts: 1 });
  });
});

describe('a clamd that dies of a file', () => {
  /** Plays the daemon as far as it takes to die in the middle of each stream. */
  let daemon: Server;
  let processes: Processes;
  let streams = 0;

  beforeAll(async () => {
    /** Connections that it does not answer until it is back. */
    let lost = 0;
    daemon = createServer((socket: Socket) => {
      socket.on('error', () => {});
      socket.on('data', (bytes) => {
        if (lost > 0) {
          lost--;
          socket.destroy();
        } else if (bytes.includes('zVERSION')) socket.write('ClamAV 1.4.0/7/today\0');
        else {
          streams++;
          lost = 2;
          socket.destroy();
        }
      });
    }).listen(0, '127.0.0.1');
    await once(daemon, 'listening');
    const { port } = daemon.address() as AddressInfo;
    processes = await startProcesses({ CLAMAV_HOST: `127.0.0.1:${port}`, JOB_ATTEMPTS: '1' });
  });

  afterAll(async () => {
    await processes?.close();
    daemon?.close();
  });

  it('fails the file in the end', async () => {
    const user = await registerUser(() => processes.url);
    const id = await user.upload(Buffer.from('deadly'));
    // The job waits 5 s after each outage.
    const file = await until('the file to fail', async () => {
      const now = await user.settled(id, 5).catch(() => undefined);
      if (now) return now;
      // Instead of waiting: as if many outages had gone by.
      await processes.database.query(
        'UPDATE files SET attempts = attempts + 3 WHERE id = $1 AND attempts > 0',
        [id],
      );
      return undefined;
    });
    expect(file).toMatchObject({ status: 'failed', error: { step: 'scan', code: 'scan_failed' } });
    expect(streams).toBeGreaterThan(1);
  });
});
