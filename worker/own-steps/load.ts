import { constants } from 'node:fs';
import { access, readdir, readFile } from 'node:fs/promises';
import { delimiter, dirname, join, resolve } from 'node:path';
import { type Config, SECRETS } from '../../core/config.js';
import { ConfigError } from '../../core/config-error.js';
import type { Logger } from '../../core/log.js';
import { readWebhookSecret } from '../../core/webhooks/secrets.js';
import type { Step } from '../steps/step.js';
import { createCommandStep } from './command.js';
import { moduleStep } from './definition.js';
import { createModuleStep, describeModule } from './module.js';
import { canForbidNetwork } from './program.js';
import { createServiceStep, type ServiceDeps } from './service.js';
import { type FileStep, type Placed, parseStepsFile } from './steps-file.js';
import type { OwnStepDeps } from './work.js';

/* The steps of the operator's, from STEPS_FILE and STEPS_DIR, as steps like ours. */

/** Names of our facts, and words with which names of our derived files begin. */
const RESERVED =
  /^(archive|audio|blurhash|colou?r|content|cover|document|embedded|exif|file|gps|icc|ifd[01]|ihdr|image|interop|iptc|jfif|optimi[sz]ed?|page|pdf|placeholder|poster|preview|processing|raw|scan|text|thumbhash|thumbnails?|upload|variants?|video|waveform|xmp)$/;

export interface LoadDeps extends Omit<OwnStepDeps & ServiceDeps, 'searchPath'> {
  config: Pick<Config, 'stepsFile' | 'stepsDir' | 'publicUrl'>;
  /** The worker's, of which a step gets what it names. */
  env: NodeJS.ProcessEnv;
  /** Names of our steps. */
  taken: readonly string[];
  log: Logger;
}

/**
 * Loads the operator's steps: those of STEPS_FILE in their order, then those of STEPS_DIR in the order of their file names.
 * @throws {ConfigError} naming the file, the step and the field that is wrong
 */
export async function loadOwnSteps(deps: LoadDeps): Promise<Step[]> {
  const { config, log } = deps;
  const placed = [
    ...(config.stepsFile ? await loadFile(config.stepsFile, deps) : []),
    ...(config.stepsDir ? await loadFolder(config.stepsDir, deps) : []),
  ];
  checkNames(placed, deps.taken);
  if (placed.length > 0) log.info({ steps: placed.map(({ step }) => step.name) }, 'own steps');
  return placed.map(({ step }) => step);
}

async function loadFile(path: string, deps: LoadDeps): Promise<Placed<Step>[]> {
  const text = await readFile(path, 'utf8').catch((cause: unknown) => {
    throw new ConfigError(`STEPS_FILE=${path}: cannot be read`, { cause });
  });
  const steps = parseStepsFile(text, path);
  const isOpen = steps.some(({ step }) => step.kind === 'command' && !step.network);
  if (isOpen && !canForbidNetwork()) {
    deps.log.warn(
      'this machine cannot run programs without a network: the commands of STEPS_FILE may use it',
    );
  }
  return Promise.all(
    steps.map(async ({ step, place }) => ({
      step: await toStep({ step, place }, dirname(path), deps),
      place,
    })),
  );
}

async function toStep({ step, place }: Placed<FileStep>, folder: string, deps: LoadDeps): Promise<Step> {
  const { env, config } = deps;
  if (step.kind === 'command') {
    const { kind: _, ...definition } = step;
    const [program = ''] = step.command;
    const command = [
      await findProgram(program.replaceAll('{folder}', folder), folder, env.PATH ?? '', place),
      ...step.command.slice(1),
    ];
    const passed = pick(env, step.passVariables, `${place}, passVariables`);
    return createCommandStep(
      { ...definition, command },
      { passed, folder },
      { ...deps, searchPath: env.PATH ?? '' },
    );
  }
  const server = step.server ?? config.publicUrl;
  if (!server) {
    throw new ConfigError(
      `${place}: the service needs an address of Landfall, to fetch the content and to answer: set PUBLIC_URL, or the field server`,
    );
  }
  const { [step.secretVariable]: text = '' } = pick(env, [step.secretVariable], `${place}, secretVariable`);
  const secret = readWebhookSecret(text);
  if (!secret) {
    throw new ConfigError(
      `${place}: the variable ${step.secretVariable} must be whsec_ and 24 to 64 random bytes in Base64`,
    );
  }
  return createServiceStep(step, { server, secret }, deps);
}

/** @returns the path of a program. @throws {ConfigError} when there is none */
async function findProgram(
  program: string,
  folder: string,
  searchPath: string,
  place: string,
): Promise<string> {
  const isPath = program.includes('/');
  const candidates = isPath
    ? [resolve(folder, program)]
    : searchPath
        .split(delimiter)
        .filter(Boolean)
        .map((one) => join(one, program));
  for (const path of candidates) {
    const canRun = await access(path, constants.X_OK).then(
      () => true,
      () => false,
    );
    // A program may behave according to the name by which it was called.
    if (canRun) return isPath ? path : program;
  }
  const where = isPath ? 'is no program that this worker may run' : 'is not on the PATH of this worker';
  throw new ConfigError(`${place}, command: ${program} ${where}`);
}

async function loadFolder(folder: string, deps: LoadDeps): Promise<Placed<Step>[]> {
  const names = await readdir(folder).catch((cause: unknown) => {
    throw new ConfigError(`STEPS_DIR=${folder}: cannot be read`, { cause });
  });
  const modules = names.filter((name) => /\.m?js$/.test(name)).sort();
  const steps: Placed<Step>[] = [];
  // One after the other: a module may load much.
  for (const name of modules) {
    const path = join(folder, name);
    const place = `STEPS_DIR=${folder}, ${name}`;
    steps.push({ step: await loadModule(path, place, deps), place });
  }
  return steps;
}

async function loadModule(path: string, place: string, deps: LoadDeps): Promise<Step> {
  const searchPath = deps.env.PATH ?? '';
  const described = await describeModule(path, searchPath).catch((error: unknown) => {
    throw new ConfigError(`${place}: ${error instanceof Error ? error.message : error}`);
  });
  const parsed = moduleStep.safeParse(described);
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    const field = issue?.code === 'unrecognized_keys' ? issue.keys[0] : issue?.path.join('.');
    const what = issue?.code === 'unrecognized_keys' ? 'is no field of a step' : issue?.message;
    throw new ConfigError(`${place}, ${field}: ${what}`);
  }
  const passed = pick(deps.env, parsed.data.passVariables, `${place}, passVariables`);
  return createModuleStep(parsed.data, { path, passed }, { ...deps, searchPath });
}

/** Variables that a step gets. @throws {ConfigError} when one is missing, or a secret of Landfall */
function pick(env: NodeJS.ProcessEnv, names: readonly string[], place: string): Record<string, string> {
  const entries = names.map((name) => {
    if (SECRETS.has(name))
      throw new ConfigError(`${place}: ${name} is a secret of Landfall, which no step gets`);
    const value = env[name];
    if (!value) throw new ConfigError(`${place}: the variable ${name} is not set`);
    return [name, value] as const;
  });
  return Object.fromEntries(entries);
}

/** The name of a step is part of the names of its derived files, and the key of its facts. @throws {ConfigError} */
function checkNames(placed: readonly Placed<Step>[], taken: readonly string[]): void {
  for (const [index, { step, place }] of placed.entries()) {
    const { name } = step;
    if (taken.includes(name) || RESERVED.test(name)) {
      throw new ConfigError(`${place}: the name ${name} is one of Landfall's own: choose another one`);
    }
    const other = placed.find(
      (one, at) => at !== index && (one.step.name === name || one.step.name.startsWith(`${name}-`)),
    );
    if (!other) continue;
    const why =
      other.step.name === name
        ? `has the name ${name} too`
        : `begins its name ${other.step.name} with ${name}`;
    throw new ConfigError(`${place}: another step (${other.place}) ${why}: rename one of them`);
  }
}
