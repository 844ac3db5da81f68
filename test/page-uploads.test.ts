import { randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Browser, BrowserContext, Page } from 'playwright-core';
import { launchBrowser } from './support/browser.js';
import { layCable } from './support/cable.js';
import {
  choose,
  chooseAll,
  completed,
  recordFaults,
  recordUploads,
  register,
  type UploadRequest,
} from './support/page.js';
import { type Processes, startProcesses } from './support/processes.js';
import { until } from './support/until.js';

/* The list of uploads in a real browser: how files come in, what is refused, and what people see while a connection is away. */

const MiB = 2 ** 20;

let processes: Processes;
let cable: Awaited<ReturnType<typeof layCable>>;
let browser: Browser;
let folder: string;
let context: BrowserContext;
let page: Page;
let uploads: UploadRequest[];
let faults: string[];

beforeAll(async () => {
  [processes, browser, folder] = await Promise.all([
    startProcesses({ MAX_UPLOAD_SIZE: '40MiB', MAX_UPLOAD_SIZE_BY_TYPE: 'text/plain=1KiB' }),
    launchBrowser(),
    mkdtemp(join(tmpdir(), 'landfall-page-')),
  ]);
  cable = await layCable(Number(new URL(processes.url).port));
});

afterAll(async () => {
  await browser?.close();
  cable?.close();
  await processes?.close();
  if (folder) await rm(folder, { recursive: true, force: true });
});

beforeEach(async () => {
  cable.mend();
  cable.carryAtMost(Number.POSITIVE_INFINITY);
  context = await browser.newContext({ locale: 'en-GB' });
  page = await context.newPage();
  uploads = recordUploads(page);
  faults = recordFaults(page);
  await register(page, cable.url);
});

afterEach(async () => {
  await context.close();
  expect(faults).toEqual([]);
});

const uploading = (name: string, state?: string) =>
  page.locator(state ? `.file[data-upload="${state}"]` : '.file[data-upload]').filter({ hasText: name });

const button = (name: string) => page.getByRole('button', { name });

/** Lets each connection carry only some bytes. @returns a function that waits until one has come to a standstill */
function holdBack(): () => Promise<unknown> {
  const before = cable.held();
  cable.carryAtMost(4 * MiB);
  return () => until('the upload to stand still', () => cable.held() > before);
}

/** Lets go of files over the page, as a drop from the desktop does. */
async function dropOn(selector: string, name: string, text: string): Promise<void> {
  const data = await page.evaluateHandle(
    ([filename, content]) => {
      const transfer = new DataTransfer();
      transfer.items.add(new File([content ?? ''], filename ?? ''));
      return transfer;
    },
    [name, text],
  );
  for (const type of ['dragover', 'drop']) await page.dispatchEvent(selector, type, { dataTransfer: data });
}

test('a file that is dropped anywhere on the page is uploaded', async () => {
  await dropOn('header', 'dropped.bin', 'on the header');
  await completed(page, 'dropped.bin');
  await dropOn('#files-title', 'beside.bin', 'beside the box');
  await completed(page, 'beside.bin');
  expect(new URL(page.url()).pathname).toBe('/');
});

test('a file that the server does not take is refused at once, and says why until it is dismissed', async () => {
  await chooseAll(page, folder, [
    ['large.txt', randomBytes(2048)],
    ['small.bin', randomBytes(2048)],
  ]);
  await completed(page, 'small.bin');
  await uploading('large.txt', 'refused')
    .filter({ hasText: 'Files of this type (text/plain) may have up to 1 KiB.' })
    .waitFor();
  expect(uploads.filter(({ method }) => method === 'POST')).toHaveLength(1);
  expect(await button('Retry large.txt').count()).toBe(0);
  await button('Dismiss large.txt').click();
  await uploading('large.txt').waitFor({ state: 'detached' });
});

test('neither refused nor finished files come back after a reload', async () => {
  await chooseAll(page, folder, [
    ['large.txt', randomBytes(2048)],
    ['small.bin', randomBytes(2048)],
  ]);
  await completed(page, 'small.bin');
  await uploading('large.txt', 'refused').waitFor();
  const before = uploads.length;
  await page.reload();
  await completed(page, 'small.bin');
  expect(await page.locator('.file').count()).toBe(1);
  expect(uploads.length).toBe(before);
});

test('without a network the page says so, and goes on by itself', async () => {
  const standsStill = holdBack();
  await choose(page, folder, 'crossing.bin', randomBytes(16 * MiB));
  await standsStill();
  await context.setOffline(true);
  await page.getByText('Offline. Uploads continue automatically.').waitFor();
  await uploading('Waiting for the connection').waitFor();
  cable.cut();
  cable.mend();
  cable.carryAtMost(Number.POSITIVE_INFINITY);
  await context.setOffline(false);
  await completed(page, 'crossing.bin');
  await page.getByText('Offline.').waitFor({ state: 'detached' });
});

test('a server that is away is named, with the next try; one click tries at once, and the upload goes on', async () => {
  const standsStill = holdBack();
  await choose(page, folder, 'patient.bin', randomBytes(16 * MiB));
  await standsStill();
  cable.cut();
  const banner = page.getByText('Cannot reach the server.');
  await banner.filter({ hasText: /Next try in \d+ s/ }).waitFor();
  cable.mend();
  cable.carryAtMost(Number.POSITIVE_INFINITY);
  await button('Retry now').click();
  await completed(page, 'patient.bin');
  expect(uploads.filter(({ method }) => method === 'POST')).toHaveLength(1);
  await banner.waitFor({ state: 'detached' });
});

test('one upload is paused, resumed and canceled without the others', async () => {
  cable.carryAtMost(4 * MiB);
  await chooseAll(page, folder, [
    ['stays.bin', randomBytes(12 * MiB)],
    ['goes.bin', randomBytes(12 * MiB)],
  ]);
  await page.getByText('2 uploads').waitFor();
  await button('Pause stays.bin').click();
  await uploading('stays.bin', 'paused').waitFor();
  await button('Cancel goes.bin').click();
  await uploading('goes.bin').waitFor({ state: 'detached' });
  cable.cut();
  cable.mend();
  cable.carryAtMost(Number.POSITIVE_INFINITY);
  await button('Resume stays.bin').click();
  await completed(page, 'stays.bin');
  expect(await page.locator('.file').count()).toBe(1);
});

test('all uploads are paused and resumed at once', async () => {
  cable.carryAtMost(2 * MiB);
  const names = ['one.bin', 'two.bin', 'three.bin', 'four.bin'];
  await chooseAll(
    page,
    folder,
    names.map((name) => [name, randomBytes(6 * MiB)]),
  );
  await button('Pause all').click();
  await until('all to be paused', async () => (await uploading('.bin', 'paused').count()) === names.length);
  cable.cut();
  cable.mend();
  cable.carryAtMost(Number.POSITIVE_INFINITY);
  await button('Resume all').click();
  for (const name of names) await completed(page, name);
});

test('signing out in one tab signs the others out', async () => {
  const other = await context.newPage();
  await other.goto(cable.url);
  await other.getByRole('button', { name: 'Sign out' }).click();
  await page.getByRole('heading', { name: 'Sign in' }).waitFor();
});
