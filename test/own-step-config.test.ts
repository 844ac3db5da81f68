import { spawn } from 'node:child_process';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseStepsFile } from '../worker/own-steps/steps-file.js';
import { createDatabase, type TestDatabase } from './support/database.js';

/* What is said about steps that are not configured well: it names the file, the line, the step and the field. */

const SECRET = `whsec_${Buffer.alloc(32, 7).toString('base64')}`;

const GOOD = `steps:
  - name: first
    command: [true]
  - name: second
    types: [IMAGE/*, text/plain]
    optional: false
    command: [sh, -c, "x {input}", "{output}/{id}", "{folder}"]
    memory: 1GiB
    outputBytes: 1000
    environment: { LANG: C }
  - name: third
    url: https://a.example/x
    secretVariable: A_SECRET
    server: https://b.example/
`;

describe('STEPS_FILE', () => {
  test('gives steps in their order, with defaults', () => {
    const steps = parseStepsFile(GOOD.replace('[true]', '["true"]'), 'steps.yaml');
    expect(steps).toMatchObject([
      {
        place: 'STEPS_FILE=steps.yaml, line 2, step first',
        step: {
          kind: 'command',
          optional: true,
          command: ['true'],
          timeoutSeconds: 300,
          memory: 512 * 1024 ** 2,
          outputBytes: 64 * 1024 ** 2,
          network: false,
        },
      },
      {
        step: {
          kind: 'command',
          optional: false,
          types: ['image/*', 'text/plain'],
          memory: 1024 ** 3,
          outputBytes: 1000,
        },
      },
      {
        step: { kind: 'service', server: 'https://b.example', timeoutSeconds: 30, answerWithinSeconds: 3600 },
      },
    ]);
    expect(parseStepsFile('steps: []', 'x')).toEqual([]);
  });

  const step = (fields: string) => `steps:\n  - name: a\n${fields.replaceAll(/^/gm, '    ')}\n`;
  test.each([
    ['', 1, /steps/],
    ['steps: 1', 1, /steps/],
    ['steps:\n  - a', 2, /steps\.0/],
    ['stages: []', 1, /stages|steps/],
    ['steps: [', 1, /./],
    ['steps:\n  - name: a\n    name: b', 3, /unique/],
    ['steps:\n  - command: ["true"]', 2, /step number 1: name/],
    ['steps:\n  - name: Bad Name\n    command: ["true"]', 2, /step Bad Name: name: must be lower-case/],
    [step('types: [a]'), 2, /step a: must have either command or url/],
    [step('command: ["true"]\nurl: http://a/'), 2, /step a: must have either command or url/],
    [step('command: "ls -l"'), 3, /step a: command: must be a list/],
    [step('command: []'), 3, /step a: command: must name a program/],
    [step('command: [a,\n  1]'), 4, /step a: command\.1: must be a text/],
    [step('command: [a,\n  "{file}"]'), 4, /step a: command\.1: must have no other words in braces/],
    [step('command: [a]\ntypes: [image]'), 4, /step a: types\.0: must be a type/],
    [step('command: [a]\ntypes: []'), 4, /step a: types: must name a type/],
    [step('command: [a]\n\nmemory: 1GB'), 5, /step a: memory: must be a number of bytes/],
    [step('command: [a]\nmemory: 1'), 4, /step a: memory: must be from 32MiB/],
    [step('command: [a]\noutputBytes: 1GiB'), 4, /step a: outputBytes: must be from 1 to 256MiB/],
    [step('command: [a]\ntimeoutSeconds: 0'), 4, /step a: timeoutSeconds/],
    [step('command: [a]\noptional: "no"'), 4, /step a: optional: must be true or false/],
    [step('command: [a]\nenvironment:\n  A: 1'), 5, /step a: environment\.A: must be a text/],
    [
      step('command: [a]\ncontentTypes:\n  captions: "text/vtt; x"'),
      5,
      /step a: contentTypes\.captions: must be a media/,
    ],
    [step('command: [a]\nsecretVariable: A'), 4, /step a: secretVariable: is no field/],
    [step('url: ftp://a/\nsecretVariable: A'), 3, /step a: url: must be an http/],
    [step('url: http://a/'), 2, /step a: secretVariable/],
    [step('url: http://a/\nsecretVariable: A\nmemory: 1GiB'), 5, /step a: memory: is no field/],
  ])('%j is refused', (text, line, message) => {
    const refusal = () => parseStepsFile(text, 'steps.yaml');
    expect(refusal).toThrow(message);
    expect(refusal).toThrow(`STEPS_FILE=steps.yaml, line ${line}: `);
  });
});

describe('a worker', () => {
  let database: TestDatabase;
  let folder: string;

  beforeAll(async () => {
    database = await createDatabase();
    folder = await mkdtemp(join(tmpdir(), 'landfall-config-'));
  });

  afterAll(async () => {
    await database?.drop();
    await rm(folder, { recursive: true, force: true });
  });

  /** Starts a worker that must not start, and returns what it says. */
  async function refusalOf(env: Record<string, string>): Promise<string> {
    const worker = spawn(process.execPath, [resolve('dist/worker/main.js')], {
      cwd: folder,
      env: {
        PATH: process.env.PATH ?? '',
        DATABASE_URL: database.url,
        DATA_DIR: folder,
        DATA_DIR_SHARED: 'true',
        JWT_SECRET: 'only-for-tests-only-for-tests-only',
        LOG_LEVEL: 'silent',
        ...env,
      },
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    let said = '';
    worker.stderr.setEncoding('utf8').on('data', (chunk) => {
      said += chunk;
    });
    const code = await new Promise((done) => worker.once('close', done));
    expect([code, said.split('\n').length]).toEqual([1, 2]);
    return said;
  }

  const ask = 'name: ask, url: "http://a.example/", secretVariable: ASK_SECRET';
  const server = 'server: "http://landfall.example"';

  test.each<[string, Record<string, string>, RegExp]>([
    ['name: verify, command: ["true"]', {}, /line 2, step verify: the name verify is one of Landfall's own/],
    ['name: image, command: ["true"]', {}, /the name image is one of Landfall's own/],
    [
      'name: a, command: [no-such-program]',
      {},
      /line 2, step a, command: no-such-program is not on the PATH/,
    ],
    ['name: a, command: ["./none.sh"]', {}, /step a, command: .*none\.sh is no program/],
    ['name: a, command: ["true"], passVariables: [NONE]', {}, /passVariables: the variable NONE is not set/],
    ['name: a, command: ["true"], passVariables: [JWT_SECRET]', {}, /JWT_SECRET is a secret of Landfall/],
    [
      'name: a, command: ["true"]}\n  - {name: a, command: ["true"]',
      {},
      /line 2, step a: another step .*line 3.* has the name a too/,
    ],
    [
      'name: a, command: ["true"]}\n  - {name: a-b, command: ["true"]',
      {},
      /line 2, step a: another step .*begins its name a-b/,
    ],
    [ask, { ASK_SECRET: SECRET }, /step ask: .*set PUBLIC_URL, or the field server/],
    [`${ask}, ${server}`, {}, /secretVariable: the variable ASK_SECRET is not set/],
    [`${ask}, ${server}`, { ASK_SECRET: 'a short one' }, /ASK_SECRET must be whsec_/],
  ])('does not start with {%s}', async (step, env, message) => {
    const file = join(folder, 'steps.yaml');
    await writeFile(file, `steps:\n  - {${step}}\n`);
    expect(await refusalOf({ STEPS_FILE: file, ...env })).toMatch(message);
  });

  test.each([
    ['export const run = 1;', /a\.mjs: the module must export a step/],
    ['export default { name: "a" };', /a\.mjs: the module must export a step/],
    ['export default { run() {} };', /a\.mjs, name: /],
    ['export default { name: "a", memory: "much", run() {} };', /a\.mjs, memory: must be a number of bytes/],
    ['export default { name: "a", command: [], run() {} };', /a\.mjs, command: is no field of a step/],
    ['export default { name: "a", run() {', /a\.mjs: /],
    ['import "no-such-package";', /a\.mjs: .*no-such-package/],
    ['process.exit(3);', /a\.mjs: it ended with 3/],
  ])('does not start with the module %j', async (text, message) => {
    const dir = join(folder, 'modules');
    await mkdir(dir, { recursive: true });
    await writeFile(join(dir, 'a.mjs'), text);
    expect(await refusalOf({ STEPS_DIR: dir })).toMatch(message);
  });

  test('does not start without the file or the folder', async () => {
    expect(await refusalOf({ STEPS_FILE: join(folder, 'none.yaml') })).toMatch(
      /STEPS_FILE=.*none\.yaml: cannot be read/,
    );
    expect(await refusalOf({ STEPS_DIR: join(folder, 'none') })).toMatch(/STEPS_DIR=.*none: cannot be read/);
  });
});
