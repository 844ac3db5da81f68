import { AppError } from '../../core/errors.js';
import { BadFacts, keepMade, readFacts } from '../../core/own-steps/answer.js';
import type { Step, StepContext } from '../steps/step.js';
import type { CommandStep } from './definition.js';
import { type Ended, lastLine } from './program.js';
import { type OwnStepDeps, onlyFor, orFailed, type Paths, runOnCopy } from './work.js';

/* A step that is a command. No shell comes between: each argument reaches the program as it stands in the file. */

/** "temporary failure, indicating something that is not really an error" (sysexits.h) */
const EX_TEMPFAIL = 75;

/**
 * @param passed variables of the worker's environment that the program gets
 * @param folder of STEPS_FILE, for programs and data that lie beside it
 */
export function createCommandStep(
  definition: CommandStep,
  { passed, folder }: { passed: Record<string, string>; folder: string },
  deps: OwnStepDeps,
): Step {
  const { name, optional, types, command, environment, network } = definition;

  async function run(context: StepContext) {
    const { ended, made } = await runOnCopy(definition, deps, context, (paths) => ({
      command: fill(command, { ...paths, id: context.file.id, folder }),
      environment: { ...passed, ...environment, ...about(context) },
      network,
    }));
    if (ended.code !== 0) throw failureOf(ended);
    return {
      outcome: 'done',
      facts: await keepMade(name, { facts: factsIn(ended.stdout), made }, deps.derivatives.write),
    } as const;
  }

  return { name, optional, ...onlyFor(types), run: (context) => orFailed(run(context)) };
}

/** What the program is told about the file. The name of a file is not safe as an argument: it may look like an option. */
function about({ file }: StepContext): Record<string, string> {
  return {
    LANDFALL_ID: file.id,
    LANDFALL_FILENAME: file.filename,
    LANDFALL_TYPE: file.detectedType ?? '',
    LANDFALL_SIZE: String(file.size),
  };
}

function fill(
  command: readonly string[],
  words: Pick<Paths, 'input' | 'output'> & { id: string; folder: string },
): string[] {
  return command.map((argument) =>
    argument.replaceAll(/\{(input|output|id|folder)\}/g, (_, word: keyof typeof words) => words[word]),
  );
}

function failureOf({ code, stderr }: Ended): AppError {
  const detail = lastLine(stderr) || `The program ended with ${code}`;
  return new AppError('step_failed', { detail, retryable: code === EX_TEMPFAIL });
}

/** Facts begin with a brace. All else is what programs say to people, and does not matter. @throws {BadFacts} */
function factsIn({ text, isAll }: Ended['stdout']): Record<string, unknown> {
  if (!text.trimStart().startsWith('{')) return {};
  if (!isAll) throw new BadFacts('The program wrote too much to stdout for facts');
  try {
    return readFacts(JSON.parse(text));
  } catch (error) {
    throw error instanceof BadFacts
      ? error
      : new BadFacts('The program wrote JSON to stdout that is not valid');
  }
}
