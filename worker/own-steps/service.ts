import type { KeyObject } from 'node:crypto';
import { AppError } from '../../core/errors.js';
import { cleanLine, keepMade, readServiceAnswer, type ServiceAnswer } from '../../core/own-steps/answer.js';
import { signAnswerToken } from '../../core/own-steps/token.js';
import { signPath } from '../../core/signed-path.js';
import { signedHeaders } from '../../core/webhooks/message.js';
import type { Later, Outcome, Step, StepContext } from '../steps/step.js';
import type { ServiceStep } from './definition.js';
import { type OwnStepDeps, onlyFor, orFailed } from './work.js';

/*
 * A step that is a call of a service: it gets the facts of the file, an address of the content and an address for its answer. It
 * may answer at once, or accept the question (202) and answer later. The file waits for the answer without a slot of the worker.
 */

/** Bytes of an answer: the largest derived files in Base64, and the facts. */
const MAX_ANSWER = 12 * 1024 ** 2;

/** A service that has died after it was asked is asked again when this time is over. */
const AFTER_CALL_MS = 10_000;

/** Statuses that say that the same call may succeed later. */
const RETRIED = [408, 425, 429];

export interface ServiceDeps extends Pick<OwnStepDeps, 'derivatives' | 'readFile'> {
  /** Sign the addresses that the service gets. */
  linkKey: KeyObject;
  answerKey: KeyObject;
}

/** @param server where the service reaches Landfall. @param secret signs the question (Standard Webhooks) */
export function createServiceStep(
  definition: ServiceStep,
  { server, secret }: { server: string; secret: Buffer },
  deps: ServiceDeps,
): Step {
  const { name, optional, types, timeoutSeconds, answerWithinSeconds } = definition;

  async function questionOf(fileId: string, ask: string, deadline: Date): Promise<object> {
    const { filename, size, declaredType, detectedType, sha256, metadata } = await deps.readFile(fileId);
    const path = `/api/files/${fileId}`;
    const token = signAnswerToken({ fileId, step: name, ask }, deps.answerKey);
    return {
      step: name,
      file: { id: fileId, filename, size, declaredType, detectedType, sha256, metadata },
      content: server + signPath(`${path}/content`, Math.ceil(deadline.getTime() / 1000), deps.linkKey),
      callback: `${server}${path}/steps/${name}?token=${token}`,
      deadline: deadline.toISOString(),
    };
  }

  async function run({ file, signal, expectAnswer }: StepContext): Promise<Outcome | Later> {
    await deps.derivatives.requireRoom();
    const deadline = new Date(Date.now() + answerWithinSeconds * 1000);
    // If this worker dies during the call, nobody knows whether the service has been asked.
    const ask = await expectAnswer(new Date(Date.now() + timeoutSeconds * 1000 + AFTER_CALL_MS));
    const body = JSON.stringify(await questionOf(file.id, ask, deadline));
    // Without a full stop, which separates the parts of what is signed.
    const headers = signedHeaders(`${file.id}_${name}_${ask}`, body, [secret]);
    const answer = await call(definition, { body, headers }, signal);
    if (answer === 'later') {
      await expectAnswer(deadline);
      return { outcome: 'later' };
    }
    return toOutcome(answer);
  }

  async function toOutcome(answer: ServiceAnswer): Promise<Outcome> {
    if (answer.outcome === 'done')
      return { outcome: 'done', facts: await keepMade(name, answer, deps.derivatives.write) };
    const { outcome, reason } = answer;
    if (outcome === 'skipped') return { outcome, reason };
    const detail = reason || 'The service has failed';
    return {
      outcome: 'failed',
      error: new AppError('step_failed', { detail, retryable: outcome === 'retry' }),
    };
  }

  return { name, optional, ...onlyFor(types), run: (context) => orFailed(run(context)) };
}

/**
 * Calls the service once.
 * @throws {AppError} step_failed, which is retryable if the service is away; the signal's reason; {BadFacts}
 */
async function call(
  { name, url, timeoutSeconds }: ServiceStep,
  message: { body: string; headers: Record<string, string> },
  signal: AbortSignal,
): Promise<ServiceAnswer | 'later'> {
  const limit = AbortSignal.any([signal, AbortSignal.timeout(timeoutSeconds * 1000)]);
  try {
    // The operator has chosen the address, so it may be private. It may not send us elsewhere.
    const answer = await fetch(url, { method: 'POST', ...message, redirect: 'manual', signal: limit });
    const { status } = answer;
    const isTaken = status >= 200 && status < 300;
    if (!isTaken || status === 202 || status === 204) {
      await answer.body?.cancel();
      if (status === 202) return 'later';
      if (status === 204) return { outcome: 'done', facts: {}, made: [] };
      throw refusal(`The service answered ${status}`, status >= 500 || RETRIED.includes(status));
    }
    return readServiceAnswer(name, parse(await readText(answer)));
  } catch (error) {
    signal.throwIfAborted();
    if (limit.aborted) throw refusal(`The service gave no answer within ${timeoutSeconds} s`, true, error);
    if (error instanceof TypeError) throw refusal('The service cannot be reached', true, error);
    throw error;
  }
}

async function readText(answer: Response): Promise<string> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of answer.body ?? []) {
    size += chunk.byteLength;
    if (size > MAX_ANSWER) throw refusal(`The service answered more than ${MAX_ANSWER} bytes`, false);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString();
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw refusal('The service answered something that is no JSON', false, cause);
  }
}

function refusal(detail: string, retryable: boolean, cause?: unknown): AppError {
  return new AppError('step_failed', { detail: cleanLine(detail), retryable, cause });
}
