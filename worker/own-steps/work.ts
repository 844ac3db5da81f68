import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { File } from '../../core/database/entities/file.js';
import { AppError } from '../../core/errors.js';
import { isAllowedType } from '../../core/media/media-types.js';
import type { Parsers } from '../../core/media/parsers.js';
import { BadFacts, type Made } from '../../core/own-steps/answer.js';
import type { DerivativeStore } from '../content.js';
import type { StepContext, TypeFilter } from '../steps/step.js';
import type { CommandStep, ModuleStep } from './definition.js';
import { readOutput } from './output.js';
import { type Ended, lastLine, type Program, runProgram } from './program.js';

/* What the steps of the operator's have in common. */

export interface OwnStepDeps {
  parsers: Pick<Parsers, 'run'>;
  derivatives: DerivativeStore;
  /** PATH of programs. */
  searchPath: string;
  /** Reads a file with the facts of the steps before. */
  readFile(id: string): Promise<File>;
}

export function onlyFor(types: string[] | undefined): { only?: TypeFilter } {
  if (!types) return {};
  const accepts = (type: string) => isAllowedType(type, types);
  return { only: { accepts, otherwise: `only for ${types.join(', ')}` } };
}

/** Paths for a program: the copy of the content, where it may write what is kept, and where it may write all else. */
export interface Paths {
  input: string;
  output: string;
  temporary: string;
}

/** Runs a program on a copy of the content, in a folder that ends with it. @returns also what it has made */
export async function runOnCopy(
  { name, timeoutSeconds, memory, outputBytes, contentTypes }: CommandStep | ModuleStep,
  { parsers, derivatives, searchPath }: OwnStepDeps,
  { useFolder, signal, log }: StepContext,
  programOf: (paths: Paths) => Pick<Program, 'command' | 'environment' | 'network' | 'dialogue'>,
): Promise<{ ended: Ended; made: Made[] }> {
  // A file that waits for room on the disk must not be processed at each try.
  await derivatives.requireRoom();
  return useFolder(async ({ path, content }) => {
    const paths = { input: content, output: join(path, 'output'), temporary: join(path, 'temporary') };
    await Promise.all([mkdir(paths.output), mkdir(paths.temporary)]);
    const program = programOf(paths);
    const base = { PATH: searchPath, LANG: 'C.UTF-8', HOME: paths.temporary, TMPDIR: paths.temporary };
    const ended = await runProgram(
      {
        ...program,
        environment: { ...base, ...program.environment },
        folder: path,
        limits: { timeoutSeconds, memory, outputBytes },
      },
      signal,
    );
    if (ended.stderr) log.debug({ step: name, stderr: ended.stderr }, 'output of a step');
    if (ended.killedBy) {
      const why = lastLine(ended.stderr);
      const detail = `The program was killed by ${ended.killedBy}${why ? ` (${why})` : ''}`;
      throw new AppError('step_failed', { detail, retryable: true });
    }
    const isDone = ended.code === 0;
    const made = isDone ? await readOutput(paths.output, { step: name, contentTypes, parsers, signal }) : [];
    return { ended, made };
  });
}

/** Facts and files that cannot be kept fail their step, and would do so again. */
export async function orFailed<T>(work: Promise<T>): Promise<T> {
  return work.catch((error: unknown) => {
    throw error instanceof BadFacts ? new AppError('step_failed', { detail: error.message }) : error;
  });
}
