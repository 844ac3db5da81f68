import { AppError } from '../core/errors.js';
import { endedSteps, isWaiting, recordSteps, recordWaiting, type StepResult } from '../core/files/steps.js';
import type { ParserSession } from '../core/media/parsers.js';
import type { TaskName } from '../core/media/tasks.js';
import { traced } from '../core/tracing/tracer.js';
import { type Attempt, decodeSeconds, type PipelineDeps, READ_PERCENT, toResult } from './attempt.js';
import { endsOf, sourceOf } from './content.js';
import { isBlameless, isRetryable, toProblem } from './failures.js';
import type { KnownFile, Later, Outcome, Step, StepContext } from './steps/step.js';

/**
 * Runs the steps of a clean file that have not ended, one after the other, and records each.
 * @returns when to look again, if a step waits for an answer
 */
export async function runSteps(deps: PipelineDeps, attempt: Attempt): Promise<Date | undefined> {
  const { file, blob, signal } = attempt;
  const session = deps.parsers.open(sourceOf(deps.storage, blob), signal);
  try {
    const steps = deps.steps.decoding;
    const began = performance.now();
    for (const [index, step] of steps.entries()) {
      attempt.step = step.name;
      const begun = file.steps[step.name];
      if (begun && !isWaiting(begun)) continue;
      const deadline = begun && new Date(begun.until);
      if (deadline && deadline.getTime() > Date.now()) return deadline;
      // It may take long, and may wait for a parser itself.
      if (isFor(step, file) && tasksOf(step, file).length === 0) session.close();
      const isLastToDecode = !steps.slice(index + 1).some((next) => isToDecode(attempt, next));
      const decode = isLastToDecode ? closeAfter(session, tasksOf(step, file).at(-1)) : session.run;
      const result = await traced(deps.tracer, `step ${step.name}`, {}, () =>
        runStep(deps, attempt, step, decode, deadline),
      );
      if (result instanceof Date) return result;
      const share = (100 - READ_PERCENT) / steps.length;
      await recordSteps(deps.database, file, [result], {
        step: steps[index + 1]?.name ?? step.name,
        progress: Math.round(READ_PERCENT + share * (index + 1)),
        etaSeconds: index + 1 < steps.length ? await decodeSeconds(deps, file, performance.now() - began) : 0,
      });
    }
    return undefined;
  } finally {
    session.close();
  }
}

/**
 * Runs a step. An optional step that fails for good leaves a warning and does not fail the file.
 * @param missed the deadline until which the step has waited in vain
 * @returns a deadline if the step waits for an answer
 */
async function runStep(
  deps: PipelineDeps,
  attempt: Attempt,
  step: Step,
  decode: ParserSession['run'],
  missed: Date | undefined,
): Promise<StepResult | Date> {
  const began = performance.now();
  const elapsed = () => Math.round(performance.now() - began);
  let expected: Date | undefined;
  const expectAnswer = async (deadline: Date) => {
    await recordWaiting(deps.database, attempt.file, step.name, deadline);
    expected = deadline;
  };
  const decodeEnds: ParserSession['run'] = (name, ...options) =>
    deps.parsers.run(name, endsOf(deps.storage, attempt.blob), attempt.signal, ...options);
  try {
    const outcome = missed
      ? unanswered(missed)
      : await outcomeOf(deps, attempt, step, { decode, decodeEnds, expectAnswer });
    if (outcome.outcome !== 'later') return toResult(step.name, outcome, elapsed());
    if (!expected) throw new Error(`the step ${step.name} did not call expectAnswer()`);
    return expected;
  } catch (error) {
    const isFinal = !isRetryable(error) || attempt.lastAttempt;
    if (!step.optional || !isFinal || (await isBlameless(deps, attempt, error))) throw error;
    attempt.log.info({ err: error, step: step.name }, 'optional step failed');
    const problem = toProblem(step.name, error);
    return {
      step: step.name,
      record: { state: 'failed', ms: elapsed(), reason: problem.detail },
      facts: { warnings: [problem] },
    };
  }
}

async function outcomeOf(
  { workFolders }: PipelineDeps,
  { file, blob, signal, log }: Attempt,
  step: Step,
  tools: Pick<StepContext, 'decode' | 'decodeEnds' | 'expectAnswer'>,
): Promise<Outcome | Later> {
  if (!isFor(step, file)) return { outcome: 'skipped', reason: step.only?.otherwise ?? '' };
  return step.run({ file, signal, log, useFolder: (run) => workFolders.use(blob, signal, run), ...tools });
}

function isFor({ only }: Step, { detectedType }: KnownFile): boolean {
  return !only || only.accepts(detectedType ?? '');
}

function isToDecode({ file }: Attempt, step: Step): boolean {
  const hasEnded = step.name in endedSteps(file);
  return tasksOf(step, file).length > 0 && isFor(step, file) && !hasEnded;
}

function tasksOf({ decodes = [] }: Step, { detectedType }: KnownFile): readonly TaskName[] {
  return typeof decodes === 'function' ? decodes(detectedType ?? '') : decodes;
}

/** Makes the parser free as soon as the last task has ended: what the step does with the result may take long. */
function closeAfter(session: ParserSession, last: TaskName | undefined): ParserSession['run'] {
  return (name, ...options) => session.run(name, ...options).finally(() => name === last && session.close());
}

function unanswered(deadline: Date): Outcome {
  const detail = `There was no answer until ${deadline.toISOString()}`;
  return { outcome: 'failed', error: new AppError('took_too_long', { detail, retryable: true }) };
}
