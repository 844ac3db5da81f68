import { randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Browser, BrowserContext, Page } from 'playwright-core';
import sharp from 'sharp';
import { launchBrowser } from './support/browser.js';
import { layCable } from './support/cable.js';
import { openS3AndRedis } from './support/forms.js';
import {
  choose,
  completed,
  expectToFit,
  fillIn,
  PASSWORD,
  recordFaults,
  recordUploads,
  register,
  type UploadRequest,
} from './support/page.js';
import { startProcesses } from './support/processes.js';
import { startSystem } from './support/system.js';

const MiB = 2 ** 20;
const admin = { email: 'first@example.org', password: PASSWORD };

let system: Awaited<ReturnType<typeof startSystem>>;
let cable: Awaited<ReturnType<typeof layCable>>;
let browser: Browser;
let folder: string;
let context: BrowserContext;
let page: Page;
/** Every request to the tus endpoint, in order. */
let uploads: UploadRequest[];
/** The page's script errors and violations of the content security policy. There must be none. */
let faults: string[];

beforeAll(async () => {
  [system, browser, folder] = await Promise.all([
    startSystem(),
    launchBrowser(),
    mkdtemp(join(tmpdir(), 'landfall-page-')),
  ]);
  cable = await layCable(Number(new URL(system.url).port));
  const answer = await fetch(`${system.url}/api/auth/register`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(admin),
  });
  expect(answer.ok).toBe(true);
});

afterAll(async () => {
  await browser?.close();
  cable?.close();
  await system?.stop();
  if (folder) await rm(folder, { recursive: true, force: true });
});

beforeEach(async () => {
  context = await browser.newContext({ viewport: { width: 1100, height: 900 }, locale: 'en-GB' });
  page = await context.newPage();
  cable.mend();
  cable.carryAtMost(Number.POSITIVE_INFINITY);
  uploads = recordUploads(page);
  faults = recordFaults(page);
});

afterEach(async () => {
  await context.close();
  expect(faults).toEqual([]);
});

test('someone registers, uploads a photograph and sees it completed, with its thumbnail', async () => {
  await register(page, cable.url);
  await expectText('#who', '@example.org');

  await choose(page, folder, 'harbour.jpg', await photograph());
  await completed(page, 'harbour.jpg');
  await thumbnailShown();

  const download = page.waitForEvent('download');
  await page.getByRole('link', { name: 'Download harbour.jpg' }).click();
  expect((await download).suggestedFilename()).toBe('harbour.jpg');
  expect(await (await download).failure()).toBeNull();
});

test.each([
  ['through the server', 'false'],
  // The thumbnails come from another origin, which the page's content security policy has to allow.
  ['from the store itself', 'true'],
])('over S3 and Redis someone does so too, and the thumbnail comes %s', async (_way, redirect) => {
  const form = await openS3AndRedis();
  try {
    const processes = await startProcesses({ ...form.env, S3_REDIRECT: redirect });
    try {
      await register(page, processes.url);
      await choose(page, folder, 'harbour.jpg', Buffer.concat([await photograph(), randomBytes(12 * MiB)]));
      await completed(page, 'harbour.jpg');
      await thumbnailShown();
    } finally {
      await processes.close();
    }
  } finally {
    await form.close();
  }
});

test('an upload goes on where it was when the connection comes back', async () => {
  await register(page, cable.url);
  cable.carryAtMost(8 * MiB);
  await choose(page, folder, 'crossing.bin', randomBytes(24 * MiB));
  await uploadedPercent(30);
  await context.setOffline(true);
  await cutOff();
  const before = uploads.length;

  cable.mend();
  await context.setOffline(false);
  await completed(page, 'crossing.bin');
  expectResumed(uploads.slice(before));
});

test('an upload goes on where it was after a reload', async () => {
  await register(page, cable.url);
  cable.carryAtMost(8 * MiB);
  await choose(page, folder, 'reload.bin', randomBytes(24 * MiB));
  await uploadedPercent(30);
  await keptForReload();
  const before = uploads.length;

  cable.carryAtMost(Number.POSITIVE_INFINITY);
  await page.reload();
  await completed(page, 'reload.bin');
  expectResumed(uploads.slice(before));
});

test('an upload loses no bytes to a refused token or to a server that is away for a moment', async () => {
  await register(page, cable.url);
  const refusals: Record<string, number[]> = { GET: [401], POST: [401], PATCH: [401], HEAD: [401, 503] };
  await page.route(/\/(uploads|api\/files)(\/|\?|$)/, async (route) => {
    const status = refusals[route.request().method()]?.shift();
    if (status === undefined) await route.continue();
    else await route.fulfill({ status, contentType: 'application/problem+json', body: '{}' });
  });
  await choose(page, folder, 'patient.bin', randomBytes(MiB));
  await completed(page, 'patient.bin');
  expect(refusals).toEqual({ GET: [], POST: [], PATCH: [], HEAD: [] });
  // There are two creations, the refused one and one more: no refused HEAD made the client begin anew.
  expect(uploads.filter((request) => request.method === 'POST')).toHaveLength(2);
});

test('a file is deleted at once, and can be brought back', async () => {
  await register(page, cable.url);
  await choose(page, folder, 'short-lived.txt', Buffer.from('gone soon'));
  await completed(page, 'short-lived.txt');

  await page.getByRole('button', { name: 'Delete short-lived.txt' }).click();
  await page.getByText('Nothing here yet').waitFor();
  await page.getByRole('button', { name: 'Undo' }).click();
  await completed(page, 'short-lived.txt');

  await page.getByRole('button', { name: 'Delete short-lived.txt' }).click();
  await page.getByText('Nothing here yet').waitFor();
  await page.reload();
  await page.getByText('Nothing here yet').waitFor();
});

test('a wrong password is refused in words, and signing out ends the session', async () => {
  await page.goto(cable.url);
  await fillIn(page, admin.email, 'not the right one');
  await page.getByRole('button', { name: 'Sign in' }).click();
  await expectText('#sign-in-error', 'wrong');

  await fillIn(page, admin.email, admin.password);
  await page.getByRole('button', { name: 'Sign in' }).click();
  await page.getByRole('button', { name: 'Sign out' }).click();
  await page.getByRole('heading', { name: 'Sign in' }).waitFor();
  await page.reload();
  await page.getByRole('heading', { name: 'Sign in' }).waitFor();
});

test('an administrator opens the queue by one click, others are not offered it', async () => {
  await register(page, cable.url);
  expect(await page.getByRole('link', { name: 'Queue' }).isVisible()).toBe(false);
  await page.getByRole('button', { name: 'Sign out' }).click();

  await page.getByRole('heading', { name: 'Sign in' }).waitFor();
  await fillIn(page, admin.email, admin.password);
  await page.getByRole('button', { name: 'Sign in' }).click();
  const opened = context.waitForEvent('page');
  await page.getByRole('link', { name: 'Queue' }).click();
  const board = await opened;
  await board.getByRole('link', { name: 'processing' }).first().waitFor();
  expect(new URL(board.url()).pathname).toMatch(/^\/admin\/queues/);
});

test('the page fits a phone in the dark', async () => {
  await page.setViewportSize({ width: 360, height: 740 });
  await page.emulateMedia({ colorScheme: 'dark' });
  await page.goto(cable.url);
  await page.getByRole('heading', { name: 'Sign in' }).waitFor();
  await expectToFit(page);

  await register(page, cable.url);
  await choose(page, folder, `${'a-name-without-any-room-to-breathe-'.repeat(4)}.txt`, Buffer.from('narrow'));
  await page.locator('.file').waitFor();
  await expectToFit(page);
  await page.locator('.file[data-status="completed"]').waitFor();
  await expectToFit(page);
  const ground = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const channels = ground.match(/\d+/g)?.map(Number) ?? [];
  expect(Math.max(...channels.slice(0, 3))).toBeLessThan(64);
});

/** The server kept what it had: no new upload was created, and every byte sent again lies behind the first. */
function expectResumed(requests: typeof uploads): void {
  expect(requests.map((request) => request.method)).not.toContain('POST');
  const offsets = requests.filter((request) => request.method === 'PATCH').map((request) => request.offset);
  expect(offsets.length).toBeGreaterThan(0);
  expect(Math.min(...offsets)).toBeGreaterThan(0);
}

async function thumbnailShown(): Promise<void> {
  await page.waitForFunction(() => {
    const image = document.querySelector<HTMLImageElement>('.file .thumb img');
    return image !== null && image.naturalWidth > 0;
  });
}

/** Waits until the page has sent this much. */
async function uploadedPercent(least: number): Promise<void> {
  await page.waitForFunction((percent) => {
    const bar = document.querySelector('.file[data-upload] [role=progressbar]');
    return Number(bar?.getAttribute('aria-valuenow')) >= percent;
  }, least);
}

/** Waits until the browser holds a copy of the file and of the state of its upload. */
async function keptForReload(): Promise<void> {
  await page.waitForFunction(async () => {
    const read = <T>(request: IDBRequest<T>) =>
      new Promise<T>((resolve, reject) => {
        request.onsuccess = () => resolve(request.result);
        request.onerror = () => reject(request.error);
      });
    const database = await read(indexedDB.open('uppy-blobs'));
    const stores = database.transaction(['files', 'metadata']);
    const [blobs, states] = await Promise.all([
      read(stores.objectStore('files').count()),
      read<{ metadata: string }[]>(stores.objectStore('metadata').getAll()),
    ]);
    database.close();
    return blobs > 0 && states.some((state) => state.metadata.includes('"uploadUrl"'));
  });
}

/** Cuts the page off in the middle of an upload, and waits until the upload has felt it. */
async function cutOff(): Promise<void> {
  const failed = page.waitForEvent('requestfailed', (request) => request.method() === 'PATCH');
  cable.cut();
  await failed;
  cable.carryAtMost(Number.POSITIVE_INFINITY);
}

async function expectText(selector: string, text: string): Promise<void> {
  await page.locator(selector).filter({ hasText: text }).waitFor();
}

/** A JPEG as a camera writes it, with EXIF. */
function photograph(): Promise<Buffer> {
  return sharp({ create: { width: 1200, height: 800, channels: 3, background: '#3a7ca5' } })
    .withExif({ IFD0: { Make: 'Landfall', Model: 'Lighthouse' } })
    .jpeg()
    .toBuffer();
}
