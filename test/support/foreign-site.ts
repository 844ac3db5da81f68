import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Browser } from 'playwright-core';
import { launchBrowser } from './browser.js';

/** A browser for which all names below `.example` are this machine, and a server with the page of another site. */
export interface ForeignSite {
  browser: Browser;
  /** The origin of the other site's page. */
  origin: string;
  close(): Promise<void>;
}

export async function openForeignSite(): Promise<ForeignSite> {
  const site = createServer((_req, res) => {
    res.setHeader('Content-Type', 'text/html').end('<!doctype html><title>A page</title>');
  });
  await new Promise<void>((resolve) => site.listen(0, '127.0.0.1', resolve));
  const browser = await launchBrowser(['--host-resolver-rules=MAP *.example 127.0.0.1']);
  return {
    browser,
    origin: `http://evil.example:${(site.address() as AddressInfo).port}`,
    async close() {
      await browser.close();
      site.close();
    },
  };
}
