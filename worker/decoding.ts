import type { File, WaitingStep } from '../core/database/entities/file.js';
import { AppError } from '../core/errors.js';
import {
  endedSteps,
  isWaiting,
  recordSteps,
  recordWaiting,
  type StepResult,
  showProgress,
} from '../core/files/steps.js';
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
    const share = (100 - READ_PERCENT) / steps.length;
    const began = performance.now();
    /** Most steps are skipped for most files. They are recorded together, before the next one that is not. */
    const skipped: StepResult[] = [];
    for (const [index, step] of steps.entries()) {
      attempt.step = step.name;
      const begun = file.steps[step.name];
      if (begun && !isWaiting(begun)) continue;
      const deadline = begun && new Date(begun.until);
      if (deadline && !begun.failure && deadline.getTime() > Date.now()) return deadline;
      const isToRun = whySkipped(step, file) === undefined;
      // It may take long, and may wait for a parser itself.
      if (isToRun && tasksOf(step, file).length === 0) session.close();
      const isLastToDecode = !steps.slice(index + 1).some((next) => isToDecode(attempt, next));
      const decode = isLastToDecode ? closeAfter(session, tasksOf(step, file).at(-1)) : session.run;
      const from = READ_PERCENT + share * index;
      if (isToRun && skipped.length > 0) {
        const etaSeconds = await decodeSeconds(deps, file, performance.now() - began);
        await recordSteps(deps.database, file, skipped.splice(0), {
          step: step.name,
          progress: Math.round(from),
          etaSeconds,
        });
      }
      const shown = createProgress(deps, attempt, { from, share, began });
      const result = await traced(deps.tracer, `step ${step.name}`, {}, () =>
        runStep(deps, attempt, step, { decode, progress: shown.progress }, begun),
      ).finally(shown.end);
      if (result instanceof Date) return result;
      withdraw(step, file, result);
      if (result.record.state === 'skipped') {
        skipped.push(result);
        continue;
      }
      await recordSteps(deps.database, file, [result], {
        step: steps[index + 1]?.name ?? step.name,
        progress: Math.round(from + share),
        etaSeconds: index + 1 < steps.length ? await decodeSeconds(deps, file, performance.now() - began) : 0,
      });
    }
    if (skipped.length > 0) {
      await recordSteps(deps.database, file, skipped, { step: attempt.step, progress: 100, etaSeconds: 0 });
    }
    return undefined;
  } finally {
    session.close();
  }
}

const PROGRESS_EVERY_MS = 1_000;

/**
 * Shows in the file's row how much of a step is done, now and then.
 * @param part of the whole processing that the step stands for: percent where it begins, and percent of it
 */
function createProgress(
  deps: PipelineDeps,
  { file, step }: Attempt,
  { from, share, began }: { from: number; share: number; began: number },
): { progress: StepContext['progress']; end: () => Promise<void> } {
  let shownAt = performance.now();
  let showing: Promise<void> | undefined;
  async function show(done: number): Promise<void> {
    const etaSeconds = await decodeSeconds(deps, file, performance.now() - began);
    await showProgress(deps.database, file, { step, progress: Math.floor(from + share * done), etaSeconds });
  }
  return {
    progress(done) {
      const now = performance.now();
      if (showing || now - shownAt < PROGRESS_EVERY_MS || !(done >= 0 && done <= 1)) return;
      shownAt = now;
      // Whether the attempt is over shows when the step is recorded.
      showing = show(done)
        .catch(() => {})
        .finally(() => {
          showing = undefined;
        });
    },
    end: async () => showing,
  };
}

/**
 * Runs a step. An optional step that fails for good leaves a warning and does not fail the file.
 * @param begun the step has waited for an answer: in vain, or the service has failed
 * @returns a deadline if the step waits for an answer
 */
async function runStep(
  deps: PipelineDeps,
  attempt: Attempt,
  step: Step,
  tools: Pick<StepContext, 'decode' | 'progress'>,
  begun: WaitingStep | undefined,
): Promise<StepResult | Date> {
  const began = performance.now();
  const elapsed = () => Math.round(performance.now() - began);
  let expected: Date | undefined;
  const expectAnswer = async (deadline: Date) => {
    const { ask, isAnswered } = await recordWaiting(deps.database, attempt.file, step.name, deadline);
    // The queue cannot wake up the job of an answer that came before the job waits.
    expected = isAnswered ? new Date() : deadline;
    return ask;
  };
  try {
    const outcome = begun
      ? unanswered(begun)
      : await outcomeOf(deps, attempt, step, { ...tools, expectAnswer });
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
  { workFolders, parsers, storage }: PipelineDeps,
  { file, blob, signal, log }: Attempt,
  step: Step,
  tools: Pick<StepContext, 'decode' | 'expectAnswer' | 'progress'>,
): Promise<Outcome | Later> {
  const reason = whySkipped(step, file);
  if (reason !== undefined) return { outcome: 'skipped', reason };
  return step.run({
    file,
    signal,
    log,
    useFolder: (run) => workFolders.use(blob, signal, run),
    decodeEnds: (name, ...options) => parsers.run(name, endsOf(storage, blob), signal, ...options),
    ...tools,
  });
}

function whySkipped({ only, skips }: Step, file: KnownFile): string | undefined {
  return only && !only.accepts(file.detectedType ?? '') ? only.otherwise : skips?.(file);
}

function isToDecode({ file }: Attempt, step: Step): boolean {
  const hasEnded = step.name in endedSteps(file);
  return tasksOf(step, file).length > 0 && whySkipped(step, file) === undefined && !hasEnded;
}

function tasksOf({ decodes = [] }: Step, { detectedType }: KnownFile): readonly TaskName[] {
  return typeof decodes === 'function' ? decodes(detectedType ?? '') : decodes;
}

/** Takes away what an earlier run has made and this run has not. */
function withdraw({ makes }: Step, { run }: File, { facts }: StepResult): void {
  if (!makes || run === 1) return;
  facts.withdrawn = makes.filter((name) => !facts.derivatives?.some((made) => made.name === name));
}

/** Makes the parser free as soon as the last task has ended: what the step does with the result may take long. */
function closeAfter(session: ParserSession, last: TaskName | undefined): ParserSession['run'] {
  return (name, ...options) => session.run(name, ...options).finally(() => name === last && session.close());
}

function unanswered({ until, failure }: WaitingStep): Outcome {
  if (failure) {
    const { detail, retry } = failure;
    return { outcome: 'failed', error: new AppError('step_failed', { detail, retryable: retry }) };
  }
  const detail = `There was no answer until ${until}`;
  return { outcome: 'failed', error: new AppError('took_too_long', { detail, retryable: true }) };
}
