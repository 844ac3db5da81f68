import { type Browser, chromium } from 'playwright-core';

/** What the browser is started without. The list replaces Playwright's own. */
const DISABLED_FEATURES = [
  // Requests that Chromium makes for itself.
  'NetworkTimeServiceQuerying',
  'OptimizationHints',
  'PreconnectToSearch',
  // Chromium loads two pages for its address bar into each window, in half a second of CPU.
  'WebUIOmniboxPopup',
  'WebUIOmniboxAimPopup',
];

/** A headless Chromium, the one that the launcher has found. @param more arguments of its command line */
export async function launchBrowser(more: string[] = []): Promise<Browser> {
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM_PATH ?? '',
    // Its default is short where other suites start theirs at the same time.
    timeout: 90_000,
    args: [
      // Chromium's sandbox refuses root.
      ...(process.getuid?.() === 0 ? ['--no-sandbox'] : []),
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
      `--disable-features=${DISABLED_FEATURES.join()}`,
      ...more,
    ],
  });
  // A busy machine may need longer than Playwright's default.
  browser.on('context', (context) => context.setDefaultTimeout(90_000));
  return browser;
}
