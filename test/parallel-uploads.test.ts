import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { resolve } from 'node:path';
import type { Browser } from 'playwright-core';
import * as tus from 'tus-js-client';
import { expectCompletedOnce } from './support/aftermath.js';
import { expectBooksRight, usageOf } from './support/books.js';
import { launchBrowser } from './support/browser.js';
import { idOf, registerUser, type TestUser } from './support/client.js';
import { type Processes, startProcesses } from './support/processes.js';

/* Clients that no one here wrote send the parts of a file over four connections, and go on after kills. */

const MIB = 1024 ** 2;
/** Together longer than a server takes to start on a busy machine. */
const RETRY_DELAYS = [0, 200, 500, 1000, 2000, 4000, 8000, 16_000, 16_000, 16_000];

let processes: Processes;
let user: TestUser;
let browser: Browser | undefined;
let pages: Server | undefined;

beforeAll(async () => {
  processes = await startProcesses();
});
beforeEach(async () => {
  user = await registerUser(() => processes.url);
});
afterAll(async () => {
  await browser?.close();
  pages?.close();
  await processes?.close();
});

/** Kills the server and starts it again. Returns a function that does so once, when enough bytes were sent. */
function killAfter(bytes: number): {
  progress: (sent: number) => void;
  done: () => Promise<void> | undefined;
} {
  let restarted: Promise<void> | undefined;
  return {
    progress(sent) {
      if (sent > bytes) restarted ??= processes.kill('server').then(() => processes.start('server'));
    },
    done: () => restarted,
  };
}

/** Nothing was sent twice: each partial upload was created once, and all that is left is the file. */
async function expectFour(id: string, content: Buffer): Promise<void> {
  await expectCompletedOnce(processes, user, id, content);
  const { rows } = await processes.database.query(
    `SELECT length FROM uploads WHERE owner_id = $1 AND kind = 'partial'`,
    [user.id],
  );
  expect(rows).toHaveLength(4);
  expect(await usageOf(user)).toEqual({ bytes: content.length, files: 1 });
  await expectBooksRight(processes.database);
}

test('tus-js-client goes on after the server was killed', async () => {
  const content = randomBytes(24 * MIB);
  const kill = killAfter(6 * MIB);
  const id = await user.tusUpload(content, {
    parallelUploads: 4,
    chunkSize: MIB,
    retryDelays: RETRY_DELAYS,
    onProgress: kill.progress,
  });
  expect(kill.done()).toBeDefined();
  await kill.done();
  await expectFour(id, content);
});

/** Remembers uploads as a browser's storage does. */
function rememberUploads(): tus.UrlStorage {
  const uploads = new Map<string, tus.PreviousUpload>();
  return {
    findAllUploads: async () => [...uploads.values()],
    findUploadsByFingerprint: async () => [...uploads.values()],
    async removeUpload(key) {
      uploads.delete(key);
    },
    async addUpload(fingerprint, upload) {
      uploads.set(fingerprint, { ...upload, urlStorageKey: fingerprint });
      return fingerprint;
    },
  };
}

test('tus-js-client goes on after it was itself ended', async () => {
  const content = randomBytes(24 * MIB);
  const options: tus.UploadOptions = {
    endpoint: `${processes.url}/uploads`,
    headers: { Authorization: `Bearer ${user.token}` },
    parallelUploads: 4,
    chunkSize: MIB,
    urlStorage: rememberUploads(),
    fingerprint: async () => 'the file',
  };
  await new Promise<void>((done, reject) => {
    const first = new tus.Upload(content, {
      ...options,
      onError: reject,
      onProgress: (sent) => {
        if (sent > 8 * MIB) void first.abort().then(done);
      },
    });
    first.start();
  });
  const url = await new Promise<string | null>((done, reject) => {
    const second = new tus.Upload(content, {
      ...options,
      onError: reject,
      onSuccess: () => done(second.url),
    });
    void second.findPreviousUploads().then(([previous]) => {
      if (!previous) return reject(new Error('no upload was remembered'));
      second.resumeFromPreviousUpload(previous);
      second.start();
    });
  });
  await expectFour(idOf(url ?? ''), content);
});

/** Serves a page with Uppy, which is not of the server's origin. @returns its address */
async function servePage(): Promise<string> {
  const bundle = await readFile(resolve('node_modules/uppy/dist/uppy.min.mjs'));
  pages = createServer((req, res) => {
    const isPage = req.url === '/';
    res.setHeader('Content-Type', isPage ? 'text/html' : 'text/javascript');
    res.end(isPage ? '<!doctype html><title>Uppy</title>' : bundle);
  });
  pages.listen(0, 'localhost');
  await once(pages, 'listening');
  return `http://localhost:${(pages.address() as AddressInfo).port}/`;
}

test('Uppy in a browser, on a page of another origin, goes on after the server was killed', async () => {
  browser = await launchBrowser();
  const page = await browser.newPage();
  const kill = killAfter(6 * MIB);
  await page.exposeFunction('noteProgress', kill.progress);
  await page.goto(await servePage());
  const result = await page.evaluate(upload, {
    endpoint: `${processes.url}/uploads`,
    token: user.token,
    size: 24 * MIB,
    retryDelays: RETRY_DELAYS,
  });
  expect(kill.done()).toBeDefined();
  await kill.done();
  await expectFour(idOf(result.url), Buffer.alloc(24 * MIB, 'landfall'));
});

/** Runs in the browser. */
async function upload(options: { endpoint: string; token: string; size: number; retryDelays: number[] }) {
  const { endpoint, token, size, retryDelays } = options;
  const address = '/uppy.mjs';
  const { Uppy, Tus } = await import(address);
  const { noteProgress } = globalThis as unknown as { noteProgress(sent: number): void };
  const uppy = new Uppy().use(Tus, {
    endpoint,
    headers: { Authorization: `Bearer ${token}` },
    parallelUploads: 4,
    chunkSize: 2 ** 20,
    retryDelays,
  });
  uppy.on('upload-progress', (_: unknown, progress: { bytesUploaded: number }) => {
    noteProgress(progress.bytesUploaded);
  });
  const pattern = 'landfall';
  uppy.addFile({ name: 'large.bin', data: new Blob([pattern.repeat(size / pattern.length)]) });
  const { successful, failed } = await uppy.upload();
  if (failed.length > 0) throw new Error(failed[0].error);
  return { url: successful[0].uploadURL as string };
}
