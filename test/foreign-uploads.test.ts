import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Browser, Page } from 'playwright-core';
import { launchBrowser } from './support/browser.js';
import { idOf, registerUser, type TestUser } from './support/client.js';
import { type Processes, startProcesses } from './support/processes.js';

/* Pages of other origins upload by tus-js-client in a real browser, which sends a preflight for each kind of request. */

let processes: Processes;
let user: TestUser;
let browser: Browser;
/** The server of the other origin. */
let site: Server;
let page: Page;

beforeAll(async () => {
  processes = await startProcesses();
  user = await registerUser(() => processes.url);
  site = createServer((_req, res) => {
    res.setHeader('Content-Type', 'text/html').end('<!doctype html><title>A page</title>');
  });
  await new Promise<void>((resolve) => site.listen(0, '127.0.0.1', resolve));
  browser = await launchBrowser(['--host-resolver-rules=MAP *.example 127.0.0.1']);
  page = await browser.newPage();
  await page.goto(`http://app.example:${(site.address() as AddressInfo).port}`);
  await page.addScriptTag({ path: 'node_modules/tus-js-client/dist/tus.js' });
});

afterAll(async () => {
  await browser?.close();
  site?.close();
  await processes?.close();
});

/** Uploads `text` by a script of the page. @returns the address of the upload */
function upload(endpoint: string, text: string, options: object): Promise<string> {
  return page.evaluate(
    ([endpoint, text, options]) =>
      new Promise<string>((resolve, reject) => {
        const { tus } = globalThis as unknown as { tus: typeof import('tus-js-client') };
        const upload = new tus.Upload(new Blob([text]), {
          ...options,
          endpoint,
          retryDelays: null,
          onSuccess: () => resolve(upload.url ?? ''),
          onError: reject,
        });
        upload.start();
      }),
    [`${processes.url}${endpoint}`, text, options] as const,
  );
}

test.each([
  ['/uploads', 'tus-v1', { uploadDataDuringCreation: true, addRequestId: true }],
  ['/uploads', 'tus-v1', { overridePatchMethod: true, chunkSize: 4 }],
  ['/uploads', 'tus-v1', { parallelUploads: 2 }],
  ['/uploads', 'ietf-draft-03', { chunkSize: 4 }],
  ['/uploads', 'ietf-draft-05', { uploadDataDuringCreation: true, chunkSize: 4 }],
  ['/api/files', 'ietf-draft-03', { chunkSize: 4 }],
  ['/api/files', 'ietf-draft-05', { uploadDataDuringCreation: true, chunkSize: 4 }],
])('to %s by %s with %j', async (endpoint, protocol, options) => {
  const address = await upload(endpoint, 'hello world', {
    ...options,
    protocol,
    headers: { Authorization: `Bearer ${user.token}` },
    metadata: { filename: 'from a page.txt' },
  });
  expect(await user.settled(idOf(address))).toMatchObject({
    status: 'completed',
    filename: 'from a page.txt',
    size: 11,
  });
});
