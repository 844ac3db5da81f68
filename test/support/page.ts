import { randomUUID } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Page } from 'playwright-core';

/*
 * Actions of users on the page, shared by suites.
 */

export const PASSWORD = 'a long enough secret';

/** A request to the tus endpoint. */
export interface UploadRequest {
  method: string;
  offset: number;
}

/** Every request to the tus endpoint from now on, in order. */
export function recordUploads(page: Page): UploadRequest[] {
  const uploads: UploadRequest[] = [];
  page.on('request', (request) => {
    if (!new URL(request.url()).pathname.startsWith('/uploads')) return;
    uploads.push({ method: request.method(), offset: Number(request.headers()['upload-offset']) });
  });
  return uploads;
}

/** Collects the page's script errors and violations of the content security policy. There must be none. */
export function recordFaults(page: Page): string[] {
  const faults: string[] = [];
  page.on('pageerror', (error) => faults.push(error.message));
  page.on('console', (message) => {
    if (/content security policy/i.test(message.text())) faults.push(message.text());
  });
  return faults;
}

/** Makes an account, and returns its address. */
export async function register(page: Page, url: string): Promise<string> {
  await page.goto(url);
  await page.getByRole('button', { name: 'Create an account' }).click();
  const email = `${randomUUID()}@example.org`;
  await fillIn(page, email, PASSWORD);
  await page.getByRole('button', { name: 'Create account' }).click();
  await page.getByRole('button', { name: 'Sign out' }).waitFor();
  return email;
}

/** Signs in on a page that shows the form. */
export async function signIn(page: Page, email: string, password = PASSWORD): Promise<void> {
  await fillIn(page, email, password);
  await page.getByRole('button', { name: 'Sign in' }).click();
  await page.getByRole('button', { name: 'Sign out' }).waitFor();
}

export async function fillIn(page: Page, email: string, password: string): Promise<void> {
  const form = page.locator('#sign-in');
  await form.getByLabel('E-mail').fill(email);
  await form.getByLabel('Password').fill(password);
}

/** Chooses a file for upload. @param folder where it may lie meanwhile */
export function choose(page: Page, folder: string, name: string, content: Buffer): Promise<void> {
  return chooseAll(page, folder, [[name, content]]);
}

/** Chooses files for upload, all at once. @param folder where they may lie meanwhile */
export async function chooseAll(
  page: Page,
  folder: string,
  files: [name: string, content: Buffer][],
): Promise<void> {
  for (const [name, content] of files) await writeFile(join(folder, name), content);
  // They are sent at once.
  await page.locator('input[type=file][multiple]').setInputFiles(files.map(([name]) => join(folder, name)));
}

export async function completed(page: Page, name: string): Promise<void> {
  await page.locator('.file[data-status="completed"]').filter({ hasText: name }).waitFor();
}

/** Nothing lies beyond the right edge. */
export async function expectToFit(page: Page): Promise<void> {
  const [needed, given] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
  expect(needed).toBeLessThanOrEqual(given ?? 0);
}
