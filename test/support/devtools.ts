import type { CDPSession, Page } from 'playwright-core';

/*
 * What a page sends and over which connections, as Chromium's developer tools know it.
 */

/** Slows the uploads of a page. @param bytes a second; -1 for any number */
export async function limitUploads(devtools: CDPSession, bytes: number): Promise<void> {
  const conditions = { offline: false, latency: 0, downloadThroughput: -1, uploadThroughput: bytes };
  await devtools.send('Network.emulateNetworkConditions', conditions);
}

/** Each request to the tus endpoint that is answered from now on: its method, and the number of its connection. */
export async function recordAnswers(devtools: CDPSession) {
  const answered: { method: string; connection: number }[] = [];
  const methods = new Map<string, string>();
  await devtools.send('Network.enable');
  devtools.on('Network.requestWillBeSent', ({ requestId, request }) => {
    methods.set(requestId, request.method);
  });
  devtools.on('Network.responseReceived', ({ requestId, response }) => {
    if (!new URL(response.url).pathname.startsWith('/uploads')) return;
    answered.push({ method: methods.get(requestId) ?? '', connection: response.connectionId });
  });
  return answered;
}

/**
 * The protocols of all answered requests to the tus endpoint, as the page itself sees them. A request that broke off, for
 * example with a killed server, has none.
 */
export function protocolsSeen(page: Page): Promise<string[]> {
  return page.evaluate(() => {
    const entries = performance.getEntriesByType('resource') as PerformanceResourceTiming[];
    const uploads = entries.filter(({ name }) => new URL(name).pathname.startsWith('/uploads'));
    return [...new Set(uploads.map(({ nextHopProtocol }) => nextHopProtocol).filter(Boolean))];
  });
}
