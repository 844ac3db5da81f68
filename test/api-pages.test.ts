import type { Browser, Page } from 'playwright-core';
import { launchBrowser } from './support/browser.js';
import { expectToFit } from './support/page.js';
import { type Processes, startProcesses } from './support/processes.js';
import { until } from './support/until.js';

/*
 * The two pages that show the description of the interface: Swagger UI and ReDoc.
 */

let processes: Processes;
let browser: Browser;

beforeAll(async () => {
  [processes, browser] = await Promise.all([startProcesses({}, ['server']), launchBrowser()]);
});

afterAll(async () => {
  await browser?.close();
  await processes?.close();
});

const SIZES = { desktop: { width: 1280, height: 900 }, phone: { width: 375, height: 740 } };

/** The pages, and what marks an operation on each. */
const PAGES = { '/docs': '.opblock', '/redoc': '[data-section-id*="/paths/"]' };

/** The summaries of all operations of the document that the server publishes. */
async function readSummaries(): Promise<string[]> {
  const { paths } = await (await fetch(`${processes.url}/openapi.json`)).json();
  return Object.values<object>(paths).flatMap((operations) =>
    Object.values(operations).map(({ summary }) => summary),
  );
}

/** Collects everything that the browser complains about, and all requests to other servers. There must be none. */
function recordTrouble(page: Page): string[] {
  const trouble: string[] = [];
  page.on('pageerror', (error) => trouble.push(error.message));
  page.on('console', (message) => {
    if (['error', 'warning'].includes(message.type())) trouble.push(message.text());
  });
  page.on('request', (request) => {
    const { protocol, origin } = new URL(request.url());
    // Content that the page has itself.
    if (['data:', 'blob:'].includes(protocol)) return;
    if (origin !== processes.url) trouble.push(request.url());
  });
  return trouble;
}

const cases = Object.entries(PAGES).flatMap(([path, operation]) =>
  Object.entries(SIZES).map(([size, viewport]) => ({ path, operation, size, viewport })),
);

test.each(cases)('$path shows every operation on a $size', async ({ path, operation, viewport }) => {
  const page = await browser.newPage({ viewport });
  const trouble = recordTrouble(page);
  await page.goto(`${processes.url}${path}`);
  const summaries = await readSummaries();
  const shown = await until('all operations', async () => {
    const texts = await page.locator(operation).allInnerTexts();
    return texts.length >= summaries.length && texts;
  });
  expect(shown).toHaveLength(summaries.length);
  for (const summary of summaries) {
    expect(shown).toContainEqual(expect.stringContaining(summary));
  }
  await expectToFit(page);
  expect(trouble).toEqual([]);
  await page.close();
});

test('/docs calls an operation', async () => {
  const page = await browser.newPage();
  const trouble = recordTrouble(page);
  await page.goto(`${processes.url}/docs`);
  const operation = page.locator('.opblock').filter({ hasText: '/api/uploads/info' });
  await operation.locator('.opblock-summary-control').click();
  await operation.getByRole('button', { name: 'Try it out' }).click();
  const [answer] = await Promise.all([
    page.waitForResponse(`${processes.url}/api/uploads/info`),
    operation.getByRole('button', { name: 'Execute' }).click(),
  ]);
  expect(answer.status()).toBe(200);
  await operation.locator('.live-responses-table').getByText('"extensions"').first().waitFor();
  expect(trouble).toEqual([]);
  await page.close();
});

test('ReDoc finds operations', async () => {
  const page = await browser.newPage();
  const trouble = recordTrouble(page);
  await page.goto(`${processes.url}/redoc`);
  // A worker that the page makes of a blob looks for them.
  await page.getByRole('textbox', { name: 'Search' }).fill('thumbnail');
  await page.locator('[role=search] li').first().waitFor();
  expect(trouble).toEqual([]);
  await page.close();
});

test('only ReDoc may add style elements, and neither page runs inline scripts', async () => {
  const [page, swagger, redoc] = await Promise.all(
    ['/', '/docs', '/redoc'].map(async (path) => {
      const { headers } = await fetch(`${processes.url}${path}`);
      return (headers.get('Content-Security-Policy') ?? '').split(';');
    }),
  );
  expect(page).toContain("script-src 'self'");
  expect(swagger).toEqual(page);
  const relaxed = page?.map((one) => (one === "style-src 'self'" ? `${one} 'unsafe-inline'` : one));
  expect(redoc).toEqual(relaxed);
  expect(redoc).not.toEqual(page);
});
