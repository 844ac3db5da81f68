import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { AppError } from '../../core/errors.js';
import type { Logger } from '../../core/log.js';
import { BadFacts, cleanLine, keepMade, type Made, readFacts } from '../../core/own-steps/answer.js';
import type { Outcome, Step, StepContext } from '../steps/step.js';
import type { ModuleStep } from './definition.js';
import type { ModuleFile, ModuleMessage, ModuleTask } from './module-protocol.js';
import { lastLine, type Program, runProgram } from './program.js';
import { type OwnStepDeps, onlyFor, orFailed, type Paths, runOnCopy } from './work.js';

/* A step that is a module in STEPS_DIR. Each run has a process of its own; see module-process.ts. */

const SCRIPT = fileURLToPath(new URL('./module-process.js', import.meta.url));

const MIB = 1024 ** 2;

/** For loading a module on a busy machine. */
const DESCRIBE = { timeoutSeconds: 120, memory: 1024 * MIB, outputBytes: 64 * MIB };

/**
 * Reads what a module says about its step.
 * @param searchPath PATH of its process
 * @throws {Error} when the module cannot be loaded; the message is for the operator
 */
export async function describeModule(path: string, searchPath: string): Promise<unknown> {
  const heard = listen();
  const folder = await mkdtemp(join(tmpdir(), 'landfall-step-'));
  try {
    const { stderr, code, killedBy } = await runProgram(
      {
        command: [process.execPath, SCRIPT, path],
        environment: { PATH: searchPath },
        folder,
        limits: DESCRIBE,
        network: true,
        dialogue: { first: { do: 'describe' } satisfies ModuleTask, onMessage: heard.onMessage },
      },
      new AbortController().signal,
    );
    const last = heard.last();
    if (last && 'described' in last) return last.described;
    throw new Error(
      last && 'error' in last ? last.error : stderr.trim() || `it ended with ${code ?? killedBy}`,
    );
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** @param passed variables of the worker's environment that the module gets */
export function createModuleStep(
  definition: ModuleStep,
  { path, passed }: { path: string; passed: Record<string, string> },
  deps: OwnStepDeps,
): Step {
  const { name, optional, types, memory } = definition;

  async function run(context: StepContext): Promise<Outcome> {
    const { log, progress } = context;
    const file = toModuleFile(await deps.readFile(context.file.id));
    const heard = listen({ name, log, progress });
    const dialogueOf = (paths: Paths): NonNullable<Program['dialogue']> => ({
      first: { do: 'run', file, ...paths } satisfies ModuleTask,
      onMessage: heard.onMessage,
    });
    const { ended, made } = await runOnCopy(definition, deps, context, (paths) => ({
      command: [process.execPath, `--max-old-space-size=${Math.ceil(memory / MIB)}`, SCRIPT, path],
      environment: passed,
      network: true,
      dialogue: dialogueOf(paths),
    }));
    const last = heard.last();
    if (last && 'result' in last) return toOutcome(last.result, made);
    if (last && 'error' in last) {
      throw new AppError('step_failed', { detail: firstLine(last.error), retryable: last.retry });
    }
    const detail = lastLine(ended.stderr) || `The module ended with ${ended.code}`;
    throw new AppError('step_failed', { detail });
  }

  async function toOutcome(result: unknown, made: Made[]): Promise<Outcome> {
    const { facts = {}, skipped } = readResult(result);
    if (skipped !== undefined) return { outcome: 'skipped', reason: cleanLine(skipped) };
    return {
      outcome: 'done',
      facts: await keepMade(name, { facts: readFacts(facts), made }, deps.derivatives.write),
    };
  }

  return { name, optional, ...onlyFor(types), run: (context) => orFailed(run(context)) };
}

/** The first line of an error says what happened. */
function firstLine(message: string): string {
  return lastLine(message.trim().split('\n')[0] ?? '') || 'The module has failed';
}

function readResult(result: unknown): { facts?: unknown; skipped?: string } {
  const { facts, skipped, ...more } = (result ?? {}) as Record<string, unknown>;
  const [unknown] = Object.keys(more);
  if (unknown !== undefined)
    throw new BadFacts(`The module returned ${cleanLine(unknown)}: only facts and skipped are known`);
  if (skipped === undefined || typeof skipped === 'string')
    return { facts, ...(skipped === undefined ? {} : { skipped }) };
  throw new BadFacts('The module returned a value for skipped that is no text');
}

/** Hears the messages of the process. The last one counts that is an answer. */
function listen(to?: { name: string; log: Logger; progress: StepContext['progress'] }) {
  let answer: ModuleMessage | undefined;
  return {
    onMessage(message: unknown): void {
      const said = message as ModuleMessage;
      if ('progress' in said) to?.progress(said.progress);
      else if ('log' in said) to?.log.info({ step: to.name, text: said.log }, 'a step says');
      else answer = said;
    },
    last: () => answer,
  };
}

function toModuleFile(file: Awaited<ReturnType<OwnStepDeps['readFile']>>): ModuleFile {
  const { id, filename, size, declaredType, detectedType, sha256, metadata } = file;
  return { id, filename, size, declaredType, detectedType, sha256, metadata };
}
