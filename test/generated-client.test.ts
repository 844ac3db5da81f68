import { execFile } from 'node:child_process';
import { copyFile, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { type Processes, startProcesses } from './support/processes.js';

/*
 * Types that a generator of others makes from /openapi.json are those of the answers: a program is compiled with them
 * and run.
 */

const run = promisify(execFile);
const runScript = (script: string, ...args: string[]) =>
  run(process.execPath, [resolve('node_modules', script), ...args]);

let processes: Processes;
let folder: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'landfall-generated-'));
  processes = await startProcesses({}, ['server']);
});

afterAll(async () => {
  await processes?.close();
  if (folder) await rm(folder, { recursive: true, force: true });
});

const CONFIG = {
  compilerOptions: {
    target: 'es2023',
    module: 'nodenext',
    lib: ['es2023', 'dom'],
    types: ['node'],
    strict: true,
    skipLibCheck: true,
  },
  files: ['program.ts'],
};

test('a program with a generated client compiles, and the server answers as its types say', async () => {
  const api = join(folder, 'api.d.ts');
  await runScript('openapi-typescript/bin/cli.js', `${processes.url}/openapi.json`, '--output', api);
  await Promise.all([
    writeFile(join(folder, 'tsconfig.json'), JSON.stringify(CONFIG)),
    writeFile(join(folder, 'package.json'), '{ "type": "module" }'),
    copyFile('test/generated-client/program.ts', join(folder, 'program.ts')),
    symlink(resolve('node_modules'), join(folder, 'node_modules')),
  ]);
  // The compiler writes its errors to stdout.
  const compiled = runScript('typescript/bin/tsc', '-p', folder);
  expect(await compiled.catch(({ stdout }) => ({ stdout }))).toMatchObject({ stdout: '' });
  const { stdout } = await run(process.execPath, [join(folder, 'program.js'), processes.url]);
  const { id, ...told } = JSON.parse(stdout);
  expect(told).toEqual({
    role: 'admin',
    scopes: ['read'],
    found: [{ id, filename: 'a.txt', size: 6 }],
    nextCursor: null,
    renamed: 'b.txt',
    refused: 'forbidden',
    deleted: 204,
    missing: 'not_found',
  });
});
