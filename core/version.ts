import { readFileSync } from 'node:fs';

/** The version of this program. The sources are one folder below package.json, the built files two. */
export function readVersion(): string {
  for (const path of ['../package.json', '../../package.json']) {
    try {
      return JSON.parse(readFileSync(new URL(path, import.meta.url), 'utf8')).version;
    } catch {
      // The next one.
    }
  }
  return 'unknown';
}
