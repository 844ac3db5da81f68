import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import sharp from 'sharp';
import { timeline } from './support/aftermath.js';
import { type FileJson, registerUser, type TestUser } from './support/client.js';
import { makeJpeg, makePng } from './support/fixtures.js';
import { type Processes, startProcesses } from './support/processes.js';
import { until } from './support/until.js';

/*
 * Steps of the operator's that run a program: commands of STEPS_FILE and modules of STEPS_DIR, by a real worker. The examples are
 * in own-step-examples.test.ts, services in own-step-services.test.ts.
 */

interface Derived {
  name: string;
  contentType: string;
  size: number;
  width: number | null;
  height: number | null;
  link: string | null;
}

let folder: string;
let processes: Processes;
let user: TestUser;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'landfall-steps-'));
  await chmod(folder, 0o755);
  processes = await startProcesses({ JOB_ATTEMPTS: '3' }, ['server']);
  user = await registerUser(() => processes.url);
});

afterEach(async () => {
  await processes?.close();
  await rm(folder, { recursive: true, force: true });
});

/** Starts a worker with these steps of STEPS_FILE. JSON is YAML too. */
async function startWith(steps: object[], env: Record<string, string> = {}): Promise<void> {
  const file = join(folder, 'steps.yaml');
  await writeFile(file, JSON.stringify({ steps }));
  await processes.start('worker', { STEPS_FILE: file, ...env });
}

/** Starts a worker with modules of STEPS_DIR, by their file names. */
async function startWithModules(
  modules: Record<string, string>,
  env: Record<string, string> = {},
): Promise<void> {
  const dir = join(folder, 'modules');
  await mkdir(dir, { recursive: true });
  for (const [name, text] of Object.entries(modules)) await writeFile(join(dir, name), text);
  await processes.start('worker', { STEPS_DIR: dir, ...env });
}

const script = (name: string, code: string, more: object = {}) => ({
  name,
  command: ['node', '-e', code, '{input}', '{output}'],
  ...more,
});

async function process(content: Buffer, filename: string): Promise<FileJson & { derived: Derived[] }> {
  const id = await user.upload(content, { filename });
  return (await user.settled(id)) as FileJson & { derived: Derived[] };
}

const problemOf = ({ warnings }: FileJson, step: string) => warnings.find((one) => one.step === step);

async function bytesAt(link: string | null | undefined): Promise<Buffer> {
  const answer = await fetch(`${processes.url}${link}`);
  expect(answer.status).toBe(200);
  return Buffer.from(await answer.arrayBuffer());
}

/** Whether a program with this word among its arguments runs on this machine. */
function runs(word: string): boolean {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .some((name) => {
      try {
        return readFileSync(`/proc/${name}/cmdline`, 'utf8').split('\0').includes(word);
      } catch {
        return false;
      }
    });
}

function works(...command: [string, ...string[]]): boolean {
  try {
    execFileSync(command[0], command.slice(1), { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}

describe('a command', () => {
  test('gives facts by its output, and derived files by its folder', async () => {
    const picture = (await makePng({ width: 30, height: 20 })).toString('base64');
    await startWith([
      script(
        'inspect',
        `const fs = require('fs'), [, input, output] = process.argv;
         fs.writeFileSync(output + '/small-picture.bin', Buffer.from('${picture}', 'base64'));
         fs.writeFileSync(output + '/notes.txt', 'some notes');
         fs.writeFileSync(output + '/captions.vtt', 'WEBVTT');
         fs.writeFileSync(input, 'the copy may be changed');
         console.log(JSON.stringify({ size: fs.statSync(input).size, id: process.env.LANDFALL_ID, odd: 'a\\0b\\ud800' }));`,
        { contentTypes: { captions: 'text/vtt' } },
      ),
    ]);
    const content = Buffer.from('the content of a text');
    const file = await process(content, '-rf; $(x).txt');
    expect(file).toMatchObject({ status: 'completed', warnings: [], steps: { inspect: { state: 'done' } } });
    expect(file.metadata.inspect).toEqual({ size: 23, id: file.id, odd: 'ab\ufffd' });
    expect(file.derived).toEqual([
      expect.objectContaining({ name: 'inspect-captions', contentType: 'text/vtt', width: null }),
      expect.objectContaining({ name: 'inspect-notes', contentType: 'text/plain', size: 10 }),
      expect.objectContaining({
        name: 'inspect-small-picture',
        contentType: 'image/png',
        width: 30,
        height: 20,
      }),
    ]);
    expect((await bytesAt(file.derived[1]?.link)).toString()).toBe('some notes');
    expect((await bytesAt(file.links.content)).equals(content)).toBe(true);
    const { items } = await user.get(`/api/files/${file.id}/events`);
    expect(items.map(({ data }: { data: { step?: string } }) => data.step)).toContain('inspect');
    expect(readdirSync(join(processes.dataDir, 'work'))).toEqual([]);
  });

  test('runs for its types only', async () => {
    await startWith([
      script('pictures', 'console.log(JSON.stringify({ seen: true }))', { types: ['image/*'] }),
      script('all', 'console.log(JSON.stringify({ seen: true }))'),
    ]);
    const text = await process(Buffer.from('a text'), 'a.txt');
    expect(text.steps.pictures).toMatchObject({ state: 'skipped', reason: 'only for image/*' });
    expect(text.metadata).toMatchObject({ all: { seen: true } });
    const image = await process(await makeJpeg({ width: 40, height: 30 }), 'a.jpg');
    expect(image.metadata).toMatchObject({ pictures: { seen: true }, all: { seen: true } });
  });

  test('that misbehaves fails by itself: the file is completed, and later steps run', async () => {
    const hold = 'setInterval(() => {}, 1000);';
    await startWith([
      // A process that it has started heeds no signal either.
      {
        name: 'hangs',
        command: ['sh', '-c', "trap '' TERM; sleep 86397 & while :; do sleep 86397; done"],
        timeoutSeconds: 1,
      },
      script('eats', `const kept = Buffer.alloc(300 * 2 ** 20, 1); ${hold}`, { memory: '256MiB' }),
      script(
        'floods',
        `let n = 0; setInterval(() => require('fs').writeFileSync(process.argv[2] + '/' + n++, Buffer.alloc(2 ** 20)), 20);`,
        { outputBytes: '3MiB' },
      ),
      script('babbles', `process.stdout.write(require('crypto').randomBytes(400_000));`),
      script('stammers', `console.log('{"half":');`),
      script('lists', `console.log('[1, 2]');`),
      script('swells', `console.log(JSON.stringify({ much: 'x'.repeat(100_000) }));`),
      script('misnames', `require('fs').writeFileSync(process.argv[2] + '/Not Allowed.txt', 'x');`),
      script(
        'doubles',
        `for (const end of ['a', 'b']) require('fs').writeFileSync(process.argv[2] + '/x.' + end, 'x');`,
      ),
      script('links', `require('fs').symlinkSync('/etc/passwd', process.argv[2] + '/secret');`),
      script('nests', `require('fs').mkdirSync(process.argv[2] + '/folder');`),
      script(
        'fails',
        `console.error('first\\ncannot open ' + process.argv[1] + ' of /etc/x: no\\n'); process.exit(3);`,
      ),
      script('dies', `process.kill(process.pid, 'SIGSEGV'); ${hold}`),
      script('ends', `console.log(JSON.stringify({ still: 'here' }));`),
    ]);
    const file = await process(Buffer.from('a text'), 'a.txt');
    const told = (step: string) => [
      file.steps[step]?.state,
      problemOf(file, step)?.code,
      problemOf(file, step)?.detail,
    ];
    expect(file).toMatchObject({ status: 'completed', metadata: { ends: { still: 'here' } }, derived: [] });
    expect(told('hangs')).toEqual(['failed', 'took_too_long', 'More than 1 s']);
    expect(told('eats')).toEqual(['failed', 'too_much_memory', 'More than 256 MiB']);
    expect(told('floods')).toEqual(['failed', 'step_failed', 'The program wrote more than 3145728 bytes']);
    expect(told('babbles')).toEqual(['done', undefined, undefined]);
    expect(told('stammers')).toEqual(['failed', 'step_failed', expect.stringContaining('JSON')]);
    expect(told('lists')).toEqual(['done', undefined, undefined]);
    expect(told('swells')).toEqual(['failed', 'step_failed', expect.stringContaining('65536 bytes')]);
    expect(told('misnames')).toEqual(['failed', 'step_failed', expect.stringContaining('Not Allowed.txt')]);
    expect(told('doubles')).toEqual(['failed', 'step_failed', expect.stringContaining('doubles-x')]);
    expect(told('links')).toEqual(['failed', 'step_failed', 'secret is no regular file']);
    expect(told('nests')).toEqual(['failed', 'step_failed', 'folder is no regular file']);
    expect(told('fails')).toEqual(['failed', 'step_failed', 'cannot open … of …: no']);
    expect(told('dies')).toEqual(['failed', 'step_failed', 'The program was killed by SIGSEGV']);
    expect(Object.keys(file.metadata).filter((key) => !['ends', 'text'].includes(key))).toEqual([]);
    await until('nothing to be left of the program that hung', () => !runs('86397'));
  });

  test('gets no secret of ours, and the variables that it names', async () => {
    await startWith(
      [
        script('tells', 'console.log(JSON.stringify(process.env))', {
          environment: { GIVEN: 'a value' },
          passVariables: ['PASSED'],
        }),
      ],
      { PASSED: 'another value', UNNAMED: 'a third value' },
    );
    const file = await process(Buffer.from('a text'), 'a name.txt');
    const work = expect.stringContaining(join(processes.dataDir, 'work'));
    expect(file.metadata.tells).toEqual({
      PATH: expect.any(String),
      LANG: 'C.UTF-8',
      HOME: work,
      TMPDIR: work,
      GIVEN: 'a value',
      PASSED: 'another value',
      LANDFALL_ID: file.id,
      LANDFALL_FILENAME: 'a name.txt',
      LANDFALL_TYPE: 'text/plain',
      LANDFALL_SIZE: '6',
      // The shell of Debian sets it.
      ...(file.metadata.tells.PWD ? { PWD: work } : {}),
    });
  });

  test('has the network only if it says so, where the machine can forbid it', async () => {
    const ask = `fetch('${processes.url}/health/live').then(() => true, () => false)
      .then((reached) => console.log(JSON.stringify({ reached })));`;
    await startWith([script('offline', ask), script('online', ask, { network: true })]);
    const isRoot = globalThis.process.getuid?.() === 0;
    const canForbid = isRoot
      ? works('unshare', '--net', '--', 'true')
      : works('unshare', '--user', '--map-current-user', '--net', '--', 'true');
    const { metadata } = await process(Buffer.from('a text'), 'a.txt');
    expect(metadata).toMatchObject({ offline: { reached: !canForbid }, online: { reached: true } });
  });

  test('that asks for another attempt (75) gets one; steps that are done are not repeated', async () => {
    const flag = join(folder, 'flag');
    const log = join(folder, 'log');
    await startWith([
      script('once', `require('fs').appendFileSync('${log}', 'x'); console.log('{"done": true}');`),
      script(
        'later',
        `const fs = require('fs');
         if (fs.existsSync('${flag}')) console.log('{"attempt": 2}');
         else { fs.writeFileSync('${flag}', ''); console.error('not now'); process.exit(75); }`,
        { optional: false },
      ),
    ]);
    const file = await process(Buffer.from('a text'), 'a.txt');
    expect(file).toMatchObject({
      status: 'completed',
      attempts: 2,
      metadata: { later: { attempt: 2 }, once: {} },
    });
    expect(await readFile(log, 'utf8')).toBe('x');
  });

  test('that is required fails the file, at once or after its last attempt', async () => {
    await startWith([
      script('always', `console.error('not now'); process.exit(75);`, {
        optional: false,
        types: ['text/plain'],
      }),
      script('never', `console.error('no'); process.exit(1);`, { optional: false, types: ['image/png'] }),
    ]);
    expect(await process(Buffer.from('a text'), 'a.txt')).toMatchObject({
      status: 'failed',
      attempts: 3,
      error: { step: 'always', code: 'step_failed', detail: 'not now' },
    });
    expect(await process(await makePng({ width: 3, height: 2 }), 'a.png')).toMatchObject({
      status: 'failed',
      attempts: 1,
      error: { step: 'never', code: 'step_failed', detail: 'no' },
    });
  });

  test('is stopped when its file is canceled', async () => {
    const flag = join(folder, 'flag');
    await startWith([
      script('waits', `require('fs').writeFileSync('${flag}', ''); setInterval(() => {}, 1e6, '86395');`),
    ]);
    const id = await user.upload(Buffer.from('a text'), { filename: 'a.txt' });
    await until('the program to run', () => existsSync(flag));
    const isRunning = () =>
      runs(`require('fs').writeFileSync('${flag}', ''); setInterval(() => {}, 1e6, '86395');`);
    expect(isRunning()).toBe(true);
    expect((await user.fetch(`/api/files/${id}/cancel`, { method: 'POST' })).status).toBe(200);
    await until('the program to end', () => !isRunning());
  });

  test('whose worker is killed runs again by the next one, and the file is completed once', async () => {
    const flag = join(folder, 'flag');
    const go = join(folder, 'go');
    const code = `const fs = require('fs'), [, , output] = process.argv;
      fs.appendFileSync('${flag}', 'x');
      setInterval(() => {
        if (!fs.existsSync('${go}')) return;
        fs.writeFileSync(output + '/made.txt', 'made');
        console.log('{"made": true}');
        process.exit(0);
      }, 20);`;
    await startWith([script('works', code)]);
    const id = await user.upload(Buffer.from('a text that is processed twice'), { filename: 'a.txt' });
    await until('the program to run', () => existsSync(flag) && readFileSync(flag, 'utf8') === 'x');
    await processes.kill('worker');
    // The kernel ends the program with the worker, where the machine has the tool.
    if (works('setpriv', '--pdeathsig', 'KILL', '--', 'true')) {
      await until('the program to end with its worker', () => !runs(code));
    }
    await writeFile(go, '');
    await processes.start('worker', { STEPS_FILE: join(folder, 'steps.yaml') });
    const file = await user.settled(id);
    expect((await timeline(processes, id)).slice(-2)).toEqual(['works', 'file.completed']);
    expect(file).toMatchObject({
      metadata: { works: { made: true } },
      derived: [{ name: 'works-made', size: 4 }],
    });
    expect(await readFile(flag, 'utf8')).toBe('xx');
  });
});

describe('a module', () => {
  test('gets the file and tools, shows its progress, and gives facts and files', async () => {
    const go = join(folder, 'go');
    await startWithModules({
      'a.mjs': `import { existsSync, readFileSync, writeFileSync } from 'node:fs';
        export default {
          name: 'measure', types: ['image/*'], memory: '256MiB', contentTypes: { data: 'application/json' },
          async run(file, tools) {
            while (!existsSync('${go}')) {
              tools.progress(0.9);
              await new Promise((resolve) => setTimeout(resolve, 50));
            }
            tools.log('measured');
            writeFileSync(tools.output + '/data.json', JSON.stringify({ bytes: readFileSync(tools.input).length }));
            return { facts: { file, isOver: tools.signal.aborted } };
          },
        };`,
      'notes.txt': 'not a module',
    });
    const content = await makeJpeg({ width: 40, height: 30 });
    const id = await user.upload(content, { filename: 'a.jpg' });
    // It is the last step, which begins above 90 percent, and nine tenths of it are done.
    await until('the progress', async () => (await user.get(`/api/files/${id}`)).progress >= 98);
    await writeFile(go, '');
    const file = (await user.settled(id)) as FileJson & { derived: Derived[] };
    expect(file).toMatchObject({
      status: 'completed',
      steps: { measure: { state: 'done' } },
      derived: [{ name: 'measure-data', contentType: 'application/json' }],
    });
    expect(file.metadata.measure).toEqual({
      isOver: false,
      file: {
        id,
        filename: 'a.jpg',
        size: content.length,
        declaredType: null,
        detectedType: 'image/jpeg',
        sha256: file.sha256,
        metadata: expect.objectContaining({ image: expect.objectContaining({ width: 40 }) }),
      },
    });
    expect(JSON.parse(String(await bytesAt(file.derived[0]?.link)))).toEqual({ bytes: content.length });
  });

  test('that misbehaves fails by itself', async () => {
    const module = (name: string, run: string, more = '') =>
      `export default { name: '${name}', ${more} async run(file, tools) { ${run} } };`;
    await startWithModules({
      '1.mjs': module('crashes', 'process.abort();'),
      '2.mjs': module('spins', 'for (;;);', 'timeoutSeconds: 1,'),
      '3.mjs': module(
        'eats',
        'globalThis.kept = Buffer.alloc(300 * 2 ** 20, 1); await new Promise((r) => setTimeout(r, 1e8));',
        "memory: '256MiB',",
      ),
      '4.mjs': module('throws', `throw new Error('no picture in ' + tools.input + '\\n    at line 7');`),
      '5.mjs': module('exits', 'process.exit(0);'),
      '6.mjs': module('circles', 'const a = {}; a.a = a; return { facts: a };'),
      '7.mjs': module('returns', 'return { fact: 1 };'),
      '8.mjs': module('skips', `return { skipped: 'nothing to do' };`),
      '9.mjs': module('tells', 'return { facts: { env: Object.keys(process.env).sort() } };'),
    });
    const file = await process(Buffer.from('a text'), 'a.txt');
    const told = (step: string) => [problemOf(file, step)?.code, problemOf(file, step)?.detail];
    expect(file.status).toBe('completed');
    expect(told('crashes')).toEqual(['step_failed', expect.stringContaining('SIGABRT')]);
    expect(told('spins')).toEqual(['took_too_long', 'More than 1 s']);
    expect(told('eats')).toEqual(['too_much_memory', 'More than 256 MiB']);
    expect(told('throws')).toEqual(['step_failed', 'no picture in …']);
    expect(told('exits')).toEqual(['step_failed', 'The module ended with 0']);
    expect(told('circles')).toEqual(['step_failed', expect.stringContaining('circular')]);
    expect(told('returns')).toEqual(['step_failed', expect.stringContaining('fact')]);
    expect(file.steps.skips).toMatchObject({ state: 'skipped', reason: 'nothing to do' });
    expect(file.metadata.tells.env).toEqual(expect.arrayContaining(['HOME', 'LANG', 'PATH', 'TMPDIR']));
    for (const name of ['JWT_SECRET', 'DATABASE_URL']) expect(file.metadata.tells.env).not.toContain(name);
  });

  test('that asks for another attempt gets one', async () => {
    const flag = join(folder, 'flag');
    await startWithModules({
      'a.mjs': `import { existsSync, writeFileSync } from 'node:fs';
        export default {
          name: 'hesitates', optional: false,
          run() {
            if (existsSync('${flag}')) return { facts: { at: 'second' } };
            writeFileSync('${flag}', '');
            throw Object.assign(new Error('not now'), { retryable: true });
          },
        };`,
    });
    const file = await process(Buffer.from('a text'), 'a.txt');
    expect(file).toMatchObject({
      status: 'completed',
      attempts: 2,
      metadata: { hesitates: { at: 'second' } },
    });
  });
});

test('an image that a step makes is as good as one of ours', async () => {
  await startWithModules({
    'a.mjs': `import sharp from '${resolve('node_modules/sharp/dist/index.mjs')}';
      export default {
        name: 'grey', types: ['image/*'],
        async run(file, tools) {
          await sharp(tools.input).toColourspace('b-w').png().toFile(tools.output + '/picture.png');
        },
      };`,
  });
  const file = await process(await makeJpeg({ width: 40, height: 30 }), 'a.jpg');
  expect(file.derived).toMatchObject([
    { name: 'grey-picture', contentType: 'image/png', width: 40, height: 30 },
  ]);
  const { channels } = await sharp(await bytesAt(file.derived[0]?.link)).metadata();
  expect(channels).toBe(1);
});
