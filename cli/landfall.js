#!/usr/bin/env node
// The command `landfall`. It runs the built program, and says what to do where there is none.
import { existsSync } from 'node:fs';

const program = new URL('../dist/cli/main.js', import.meta.url);
if (existsSync(program)) {
  await import(program.href);
} else {
  console.error('landfall: not built yet. Run "npm ci && npm run build" in its folder.');
  process.exitCode = 1;
}
