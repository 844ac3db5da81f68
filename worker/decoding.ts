import { AppError } from '../core/errors.js';
import { recordSteps, type StepResult } from '../core/files/steps.js';
import type { ParserSession } from '../core/media/parsers.js';
import type { TaskName } from '../core/media/tasks.js';
import { type Attempt, DECODE_SECONDS, type PipelineDeps, READ_PERCENT, toResult } from './attempt.js';
import { sourceOf } from './content.js';
import { isBlameless, isRetryable, toProblem } from './failures.js';
import type { KnownFile, Later, Outcome, Step } from './steps/step.js';

/**
 * Runs the steps of a clean file that have not ended, one after the other, and records each.
 * @returns when to look again, if a step waits for an answer
 */
export async function runSteps(deps: PipelineDeps, attempt: Attempt): Promise<Date | undefined> {
  const { file, blob, signal } = attempt;
  const session = deps.parsers.open(sourceOf(deps.storage, blob), signal);
  try {
    const steps = deps.steps.decoding;
    for (const [index, step] of steps.entries()) {
      attempt.step = step.name;
      const begun = file.steps[step.name];
      if (begun && begun.state !== 'waiting') continue;
      const deadline = begun?.until === undefined ? undefined : new Date(begun.until);
      if (deadline && deadline.getTime() > Date.now()) return deadline;
      const isLastToDecode = !steps.slice(index + 1).some((next) => isToDecode(attempt, next));
      const decode = isLastToDecode ? closeAfter(session, step.decodes?.at(-1)) : session.run;
      const result = await runStep(deps, attempt, step, decode, deadline);
      const isWaiting = result.record.state === 'waiting';
      const share = (100 - READ_PERCENT) / steps.length;
      await recordSteps(deps.database, file, [result], {
        step: isWaiting ? step.name : (steps[index + 1]?.name ?? step.name),
        progress: Math.round(READ_PERCENT + share * (isWaiting ? index : index + 1)),
        etaSeconds: isWaiting ? null : index + 1 < steps.length ? DECODE_SECONDS : 0,
      });
      if (result.record.until) return new Date(result.record.until);
    }
    return undefined;
  } finally {
    session.close();
  }
}

/**
 * Runs a step. An optional step that fails for good leaves a warning and does not fail the file.
 * @param missed the deadline until which the step has waited in vain
 */
async function runStep(
  deps: PipelineDeps,
  attempt: Attempt,
  step: Step,
  decode: ParserSession['run'],
  missed: Date | undefined,
): Promise<StepResult> {
  const began = performance.now();
  const elapsed = () => Math.round(performance.now() - began);
  try {
    const outcome = missed ? unanswered(missed) : await outcomeOf(attempt, step, decode);
    if (outcome.outcome !== 'later') return toResult(step.name, outcome, elapsed());
    const until = outcome.deadline.toISOString();
    return { step: step.name, record: { state: 'waiting', ms: elapsed(), until }, facts: {} };
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
  { file, signal, log }: Attempt,
  step: Step,
  decode: ParserSession['run'],
): Promise<Outcome | Later> {
  if (!isFor(step, file)) return { outcome: 'skipped', reason: step.only?.otherwise ?? '' };
  return step.run({ file, decode, signal, log });
}

function isFor({ only }: Step, { detectedType }: KnownFile): boolean {
  return !only || only.accepts(detectedType ?? '');
}

function isToDecode({ file }: Attempt, step: Step): boolean {
  const state = file.steps[step.name]?.state;
  return step.decodes !== undefined && isFor(step, file) && (!state || state === 'waiting');
}

/** Makes the parser free as soon as the last task has ended: what the step does with the result may take long. */
function closeAfter(session: ParserSession, last: TaskName | undefined): ParserSession['run'] {
  return (name) => session.run(name).finally(() => name === last && session.close());
}

function unanswered(deadline: Date): Outcome {
  const detail = `There was no answer until ${deadline.toISOString()}`;
  return { outcome: 'failed', error: new AppError('took_too_long', { detail, retryable: true }) };
}
