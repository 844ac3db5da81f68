import { randomBytes } from 'node:crypto';
import { setTimeout as pause } from 'node:timers/promises';
import type { Browser, BrowserContext, Page } from 'playwright-core';
import { launchBrowser } from './support/browser.js';
import { type TestUser, useAccount } from './support/client.js';
import { completed, PASSWORD, recordFaults, register } from './support/page.js';
import { type Processes, startProcesses } from './support/processes.js';
import { logIn, send } from './support/sign-in.js';
import { until } from './support/until.js';

/* Live events in a real browser: in the page, and with an EventSource. */

/** Longer than the page waits between two requests where no events arrive. */
const LONGER_THAN_IDLE_MS = 12_000;

let processes: Processes;
let browser: Browser;
let context: BrowserContext;
let page: Page;
let faults: string[];
/** How often the page has asked for its list of files. */
let lists: number;

beforeAll(async () => {
  [processes, browser] = await Promise.all([
    startProcesses({}, ['server', 'server-2', 'worker']),
    launchBrowser(),
  ]);
});
afterAll(async () => {
  await browser?.close();
  await processes?.close();
});
beforeEach(async () => {
  context = await browser.newContext();
  page = await context.newPage();
  faults = recordFaults(page);
  lists = 0;
  page.on('request', (request) => {
    if (new URL(request.url()).pathname === '/api/files') lists++;
  });
});
afterEach(async () => {
  await context.close();
  expect(faults).toEqual([]);
});

/** Opens the page with a new account. @returns the same user elsewhere */
async function openPage(): Promise<TestUser> {
  const email = await register(page, processes.url);
  const { user, accessToken } = await logIn(processes.url, email, PASSWORD);
  return useAccount(user, accessToken, () => processes.url);
}

/** The answer to the page's next request for live events. */
const streamOpened = () => page.waitForResponse((answer) => new URL(answer.url()).pathname === '/api/events');

test('the page shows what happens elsewhere, and asks only when something has happened', async () => {
  const begun = streamOpened();
  const user = await openPage();
  expect((await begun).status()).toBe(200);
  const id = await user.upload(randomBytes(1000), { filename: 'from elsewhere.bin' });
  await completed(page, 'from elsewhere.bin');

  // It still reads the list after the last events, and then no more.
  await until('the page to be quiet for longer than that', async () => {
    const before = lists;
    await pause(LONGER_THAN_IDLE_MS);
    return lists === before;
  });
  const renamed = await send(user, 'PATCH', `/api/files/${id}`, { filename: 'another name.bin' });
  expect(renamed.status).toBe(200);
  await completed(page, 'another name.bin');
  await user.fetch(`/api/files/${id}`, { method: 'DELETE' });
  await page.getByText('Nothing here yet').waitFor();
});

test('where no events arrive the page asks from time to time, and listens again when they do', async () => {
  let refused = 0;
  await page.route('**/api/events', (route) => {
    refused++;
    return route.abort();
  });
  const user = await openPage();
  await until('the page to try', () => refused > 0);
  await user.upload(randomBytes(1000), { filename: 'asked for.bin' });
  await completed(page, 'asked for.bin');

  const begun = streamOpened();
  await page.unroute('**/api/events');
  expect((await begun).status()).toBe(200);
});

test('a page that is hidden holds no stream', async () => {
  const begun = streamOpened();
  await openPage();
  const answer = await begun;
  const over = page.waitForEvent('requestfailed', (request) => request === answer.request());
  await page.evaluate(() => {
    Object.defineProperty(document, 'hidden', { value: true, configurable: true });
    document.dispatchEvent(new Event('visibilitychange'));
  });
  await over;
  const again = streamOpened();
  await page.evaluate(() => {
    Object.defineProperty(document, 'hidden', { value: false, configurable: true });
    document.dispatchEvent(new Event('visibilitychange'));
  });
  expect((await again).status()).toBe(200);
});

test('an EventSource with a signed link goes on by itself where it was after its server was restarted', async () => {
  const user = await openPage();
  const second = user.at(() => processes.urlOf('server-2'));
  const { url } = await (await user.fetch('/api/events/link', { method: 'POST' })).json();
  await page.evaluate((address) => {
    const heard: string[] = [];
    const source = new EventSource(address);
    source.onmessage = (message) => heard.push(message.lastEventId + message.data);
    Object.assign(window, { heard, source });
    return new Promise((resolve) => source.addEventListener('open', resolve));
  }, `${url}&type=upload.created`);
  const ids = () => page.evaluate(() => (window as unknown as { heard: string[] }).heard);
  const first = await user.create(1);
  await until('the first event', async () => (await ids()).length === 1);

  expect(await processes.stop('server')).toBe(0);
  const meanwhile = await second.create(2);
  await processes.start('server');
  const last = await user.create(3);
  await until('all events', async () => (await ids()).length >= 3);
  const subjects = (await ids()).map((text) => {
    const { seq, subjectId } = JSON.parse(text.slice(text.indexOf('{')));
    expect(text.startsWith(`${seq}{`)).toBe(true);
    return `/uploads/${subjectId}`;
  });
  expect(subjects).toEqual([first, meanwhile, last]);
});
