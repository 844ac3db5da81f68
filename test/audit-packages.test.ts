import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const ADVISORIES = '/-/npm/v1/security/advisories/bulk';

let folder: string;
let registry: Server;
let url: string;
/** The registry's answer to the question for advisories: a status and a body. */
let answer: [status: number, body: unknown];
let asked: number;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'landfall-audit-'));
  registry = createServer((req, res) => {
    req.resume();
    const isAsked = req.method === 'POST' && req.url === ADVISORIES;
    if (isAsked) asked++;
    const [status, body] = isAsked ? answer : [404, {}];
    res.writeHead(status, { 'Content-Type': 'application/json' }).end(JSON.stringify(body));
  });
  await new Promise<void>((resolve) => registry.listen(0, '127.0.0.1', resolve));
  url = `http://127.0.0.1:${(registry.address() as AddressInfo).port}/`;
});

beforeEach(() => {
  asked = 0;
});

afterAll(async () => {
  registry?.close();
  if (folder) await rm(folder, { recursive: true, force: true });
});

async function audit(at = url): Promise<{ code: number | null; output: string }> {
  const { PATH = '', HOME = '' } = process.env;
  // npm caches the registry's answers.
  const env = {
    PATH,
    HOME,
    npm_config_registry: at,
    npm_config_cache: await mkdtemp(join(folder, 'cache-')),
  };
  const child = spawn(process.execPath, ['.ci/audit-packages.js'], { env });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk) => {
      output += chunk;
    });
  }
  const [code] = await once(child, 'close');
  return { code, output };
}

const advisory = (severity: string) => ({
  id: 1,
  url: 'https://example.org/advisory',
  title: 'Something bad',
  severity,
  vulnerable_versions: '*',
  cwe: [],
  cvss: { score: 9, vectorString: null },
});

test('a package of ours with a known vulnerability fails the check, by name', async () => {
  answer = [200, { express: [advisory('high')] }];
  const { code, output } = await audit();
  expect(code).toBe(1);
  expect(output).toContain('high: express: Something bad (https://example.org/advisory)');
  expect(asked).toBeGreaterThan(0);
});

test.each([
  ['nothing is known', {}],
  ['only little things are known', { express: [advisory('low')] }],
  ['something else has a vulnerability', { 'a-package-that-is-not-ours': [advisory('critical')] }],
])('it passes where %s', async (_what, body) => {
  answer = [200, body];
  const { code, output } = await audit();
  expect(output).toContain('No known vulnerability');
  expect(code).toBe(0);
  expect(asked).toBeGreaterThan(0);
});

test('without a registry the check says that it checked nothing, and does not fail', async () => {
  answer = [405, {}];
  const closed = 'http://127.0.0.1:1/';
  for (const at of [url, closed]) {
    const { code, output } = await audit(at);
    expect(output).toContain('NOT CHECKED');
    expect(output).not.toContain('No known vulnerability');
    expect(code).toBe(0);
  }
});

test('the check fails when the registry answers nonsense', async () => {
  answer = [200, 'nonsense'];
  expect((await audit()).code).toBe(1);
});
