import type { Request } from 'express';
import type { DataSource } from 'typeorm';
import { z } from 'zod';
import { AppError } from '../../core/errors.js';
import { storeBlobs } from '../../core/files/blobs.js';
import { findFile } from '../../core/files/queries.js';
import { answerStep, answerStepFailed, isWaiting } from '../../core/files/steps.js';
import { BadFacts, keepMade, readServiceAnswer, type ServiceAnswer } from '../../core/own-steps/answer.js';
import { type Question, readAnswerToken } from '../../core/own-steps/token.js';
import type { ProcessingQueue } from '../../core/queue/queue.js';
import type { Storage } from '../../core/storage/storage.js';
import type { Keys } from '../auth/keys.js';
import { readJson } from '../http/json-body.js';
import { EMPTY } from './answers.js';
import { byId } from './fields.js';
import { type AnyRoute, route } from './route.js';

interface StepAnswerDeps {
  database: DataSource;
  storage: Storage;
  queue: ProcessingQueue;
  keys: Keys;
}

/** The facts, and the largest derived files in Base64. */
const LIMITS = { maxBytes: 12 * 1024 ** 2, maxMs: 120_000 };

/** Outside services answer steps here; see worker/own-steps/service.ts. */
export function stepAnswerRoutes(deps: StepAnswerDeps): AnyRoute[] {
  return [
    route({
      method: 'post',
      path: '/api/files/:id/steps/:step',
      access: 'public',
      summary:
        'The answer of a service that a step has asked, at the address that came with the question: once, until the deadline',
      params: byId.extend({ step: z.string().max(60) }),
      query: z.object({ token: z.string().optional() }),
      accepts: ['application/json'],
      answers: { 204: EMPTY },
      problems: ['unsupported_media_type', 'too_large', 'request_timeout', 'wrong_state', 'storage_full'],
      async handle({ params, query, req }) {
        const about = { fileId: params.id, step: params.step };
        const question = readAnswerToken(query.token ?? '', about, deps.keys.stepAnswer);
        if (!question)
          throw new AppError('not_found', { detail: 'This is not the address of an open question' });
        // Before the body, which may be large.
        const since = await sinceWhen(deps.database, question);
        const answer = await readAnswer(req, params.step);
        await record(deps, { ...question, ms: Date.now() - since }, answer);
      },
    }),
  ];
}

/** @returns when the question was asked. @throws {AppError} wrong_state when it is not open any more */
async function sinceWhen(database: DataSource, { fileId, step, ask }: Question): Promise<number> {
  const file = await findFile(database, fileId);
  const waiting = file?.steps[step];
  const isOpen =
    file?.status === 'processing' && isWaiting(waiting) && waiting.ask === ask && !waiting.failure;
  if (!isOpen) throw notOpen();
  return waiting.since === undefined ? Date.now() : Date.parse(waiting.since);
}

async function readAnswer(req: Request, step: string): Promise<ServiceAnswer> {
  const body = await readJson(req, LIMITS);
  try {
    return readServiceAnswer(step, body ?? {});
  } catch (error) {
    throw error instanceof BadFacts ? new AppError('invalid_request', { detail: error.message }) : error;
  }
}

/** A question, and the milliseconds that its answer took. */
type Asked = Question & { ms: number };

/** @throws {AppError} wrong_state when the question is not open any more */
async function record(deps: StepAnswerDeps, question: Asked, answer: ServiceAnswer): Promise<void> {
  const { database, queue } = deps;
  const run =
    answer.outcome === 'failed' || answer.outcome === 'retry'
      ? await answerStepFailed(database, question, {
          detail: answer.reason || 'The service has failed',
          retry: answer.outcome === 'retry',
        })
      : await recordResult(deps, question, answer);
  if (!run) throw notOpen();
  // The answer is recorded. If the queue is away, the job goes on at the deadline.
  await queue.wake(run).catch(() => {});
}

async function recordResult(
  { database, storage }: StepAnswerDeps,
  { step, fileId, ask, ms }: Asked,
  answer: Extract<ServiceAnswer, { outcome: 'done' | 'skipped' }>,
) {
  if (answer.outcome === 'skipped') {
    const record = { state: 'skipped', ms, reason: answer.reason } as const;
    return answerStep(database, fileId, { step, record, facts: {} }, ask);
  }
  const facts = await keepMade(step, answer, async (contents) => {
    await storage.room?.requireForDerived();
    return storeBlobs({ database, storage }, contents);
  });
  return answerStep(database, fileId, { step, record: { state: 'done', ms }, facts }, ask);
}

function notOpen(): AppError {
  return new AppError('wrong_state', {
    detail:
      'The file does not wait for this answer: it has come already, or too late, or the processing has ended',
  });
}
