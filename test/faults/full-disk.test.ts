import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { rm, statfs, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expectCompletedOnce } from '../support/aftermath.js';
import { registerUser, type TestUser } from '../support/client.js';
import { makeJpeg } from '../support/fixtures.js';
import { MIB } from '../support/piecewise-upload.js';
import { expectProblem, post } from '../support/plain-client.js';
import { type Processes, startProcesses } from '../support/processes.js';
import { until } from '../support/until.js';

/* The disk of the files fills up. It is a small disk of its own, which only root can mount. */

/*
 * A shortage ends when a sixteenth of the reserve is free besides it. This sixteenth must be more than the bytes of one
 * upload that wait to be written (4 MiB), or the shortage could end and begin again by itself.
 */
const DISK = 160 * MIB;
const RESERVE = 96 * MIB;

const folder = mkdtempSync(join(tmpdir(), 'landfall-disk-'));
const mounted = mount();
const ballast = join(folder, 'ballast');

let processes: Processes;
let user: TestUser;

beforeAll(async () => {
  if (!mounted) return;
  const env = { DATA_DIR: folder, DISK_RESERVE: String(RESERVE), LOG_LEVEL: 'warn' };
  processes = await startProcesses(env, ['server']);
  user = await registerUser(() => processes.url);
});
afterAll(async () => {
  await processes?.close();
  if (mounted) execFileSync('umount', [folder]);
  rmSync(folder, { recursive: true, force: true });
});

function mount(): boolean {
  if (process.getuid?.() !== 0) return false;
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${DISK}`, 'tmpfs', folder], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}

const freeBytes = async () => {
  const { bavail, bsize } = await statfs(folder);
  return bavail * bsize;
};

/** Another program writes until so many bytes are free. */
const fillUpTo = async (free: number) => writeFile(ballast, Buffer.alloc((await freeBytes()) - free));

const warnings = () => processes.logOf('server').match(/"reserveBytes"/g)?.length ?? 0;

(mounted ? test : test.skip)(
  'uploads stop at the reserve, all else goes on, and they do when there is room',
  async () => {
    const picture = await makeJpeg({ width: 800, height: 600 });
    const pictureId = await user.upload(picture, { filename: 'picture.jpg' });
    const waiting = await user.create(6);
    const plain = Buffer.from('plain');
    const kept = await user.upload(plain, { filename: 'plain.txt' });
    const isShort = async () => {
      const ready = await fetch(`${processes.url}/health/ready`);
      return (await ready.json()).warnings !== undefined;
    };
    // Before the upload begins, the server must have measured the space that another program leaves it.
    await fillUpTo(RESERVE / 2);
    await until('the server to notice', isShort);
    await rm(ballast);
    await fillUpTo(RESERVE + 10 * MIB);
    await until('the server to notice that there is room', async () => !(await isShort()));

    const content = randomBytes(30 * MIB);
    const statuses: number[] = [];
    let offset = 0;
    const sending = user.tusUpload(content, {
      retryDelays: Array(1000).fill(100),
      onAfterResponse: (_, response) => {
        statuses.push(response.getStatus());
        offset = Math.max(offset, Number(response.getHeader('Upload-Offset') ?? 0));
      },
    });
    sending.catch(() => {});
    await until('the disk to be full', () => statuses.includes(507) && offset > 0);
    expect(await freeBytes()).toBeGreaterThan(RESERVE / 2);

    // New uploads are refused.
    expect((await user.tus('POST', '/uploads', { 'Upload-Length': '6' })).status).toBe(507);
    expect((await user.tus('PATCH', waiting, { 'Upload-Offset': '0' }, 'abcdef')).status).toBe(507);
    await expectProblem(await post(user, 'abc'), 507, 'storage_full');
    const ready = await fetch(`${processes.url}/health/ready`);
    expect([ready.status, await ready.json()]).toEqual([200, { status: 'ok', warnings: ['storage_full'] }]);
    expect(warnings()).toBe(3);

    // Existing files are still processed, thumbnails included, read and deleted.
    await processes.start('worker');
    await expectCompletedOnce(processes, user, pictureId, picture);
    const answer = await user.fetch(`/api/files/${pictureId}/content`);
    expect(picture.equals(Buffer.from(await answer.arrayBuffer()))).toBe(true);
    await user.settled(kept);
    expect((await user.fetch(`/api/files/${kept}?permanent=1`, { method: 'DELETE' })).status).toBe(204);
    expect((await user.tus('DELETE', waiting)).status).toBe(204);

    await rm(ballast);
    await expectCompletedOnce(processes, user, await sending, content);
    expect((await (await fetch(`${processes.url}/health/ready`)).json()).warnings).toBeUndefined();
    expect(warnings()).toBe(4);
  },
);
