import { addAbortSignal } from 'node:stream';
import { type StepResult, showProgress } from '../core/files/steps.js';
import { type Attempt, decodeSeconds, type PipelineDeps, READ_PERCENT, toResult } from './attempt.js';
import { openContent } from './content.js';
import { recordReading } from './duplicates.js';
import type { StreamStep } from './steps/step.js';

const PROGRESS_EVERY_MS = 200;

/**
 * Reads the object once for all open stream steps, and records them.
 * @returns the result of a step that found a threat, not yet recorded
 */
export async function readThrough(deps: PipelineDeps, attempt: Attempt): Promise<StepResult | undefined> {
  const { file, signal } = attempt;
  const open = deps.steps.reading.filter((step) => !file.steps[step.name]);
  if (open.length === 0) return undefined;
  attempt.step = open[0]?.name ?? '';
  const ended = new AbortController();
  try {
    return await read(deps, attempt, open, AbortSignal.any([signal, ended.signal]));
  } finally {
    ended.abort();
  }
}

async function read(
  deps: PipelineDeps,
  attempt: Attempt,
  open: readonly StreamStep[],
  signal: AbortSignal,
): Promise<StepResult | undefined> {
  const { file, blob } = attempt;
  const lap = createLap();
  const watched = open.map((step) => ({
    step,
    observer: step.begin(file, signal),
    ms: 0,
    // A read that breaks off belongs to none of the steps: the span of the job has the error.
    span: deps.tracer?.begin(`step ${step.name}`),
  }));
  const show = createProgress(deps, attempt);
  const first = attempt.step;
  let bytes = 0;
  for await (const chunk of addAbortSignal(attempt.signal, await openContent(deps.storage, blob))) {
    // The first step is charged for the time spent waiting for bytes.
    if (watched[0]) watched[0].ms += lap();
    for (const one of watched) {
      // A step that fails is recorded under its name.
      attempt.step = one.step.name;
      const busy = one.observer.push(chunk);
      if (busy) await busy;
      one.ms += lap();
    }
    attempt.step = first;
    bytes += chunk.length;
    await show(bytes);
  }

  const results: StepResult[] = [];
  for (const { step, observer, ms, span } of watched) {
    attempt.step = step.name;
    const outcome = await observer.end();
    span?.end({ attributes: { 'landfall.outcome': outcome.outcome } });
    results.push(toResult(step.name, outcome, Math.round(ms + lap())));
  }
  for (const { facts } of results) {
    if (facts.detectedType !== undefined) file.detectedType = facts.detectedType;
  }
  // A step that found a threat is recorded with the verdict: a step recorded as done never runs again.
  const infected = results.find(({ facts }) => facts.threat !== undefined);
  await recordReading(
    deps,
    attempt,
    results.filter((result) => result !== infected),
    {
      step: deps.steps.decoding[0]?.name ?? attempt.step,
      progress: READ_PERCENT,
      etaSeconds: await decodeSeconds(deps, file),
    },
  );
  return infected;
}

/** @returns a function that shows in the file's row how many bytes were read, now and then */
function createProgress(deps: PipelineDeps, { file, step }: Attempt): (read: number) => Promise<void> {
  const began = performance.now();
  let shown = began;
  return async (read) => {
    const now = performance.now();
    if (now - shown < PROGRESS_EVERY_MS) return;
    shown = now;
    const rest = ((now - began) * (file.size - read)) / read;
    await showProgress(deps.database, file, {
      step,
      progress: Math.floor((READ_PERCENT * read) / file.size),
      etaSeconds: Math.ceil(rest / 1000) + (await decodeSeconds(deps, file)),
    });
  };
}

/** @returns a function that tells the milliseconds since its last call */
function createLap(): () => number {
  let last = performance.now();
  return () => {
    const now = performance.now();
    const ms = now - last;
    last = now;
    return ms;
  };
}
