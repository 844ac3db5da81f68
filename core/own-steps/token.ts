import { createHmac, type KeyObject, timingSafeEqual } from 'node:crypto';
import { deriveKey } from '../seal.js';

/*
 * The token with which an outside service answers a step: it names the question, and is good for the answer to this one only.
 * The worker makes it, the server reads it. It needs no place in the database: a file's row names the question that is open.
 */

/** The question and the step of a file that it is about. */
export interface Question {
  fileId: string;
  step: string;
  /** See recordWaiting(). */
  ask: string;
}

/** @param jwtSecret server and workers have the same */
export function deriveAnswerKey(jwtSecret: string): KeyObject {
  return deriveKey(jwtSecret, 'answer of a step');
}

function sign({ fileId, step, ask }: Question, key: KeyObject): Buffer {
  return createHmac('sha256', key).update(`${fileId}\n${step}\n${ask}`).digest();
}

export function signAnswerToken(question: Question, key: KeyObject): string {
  return `${question.ask}.${sign(question, key).toString('base64url')}`;
}

/** @returns the question that the token answers; undefined: it is not one of this step */
export function readAnswerToken(
  token: string,
  about: Pick<Question, 'fileId' | 'step'>,
  key: KeyObject,
): Question | undefined {
  const [, ask, signature] = /^(\d{1,10}-\d{1,10})\.([\w-]{43})$/.exec(token) ?? [];
  if (!ask || !signature) return undefined;
  const question = { fileId: about.fileId, step: about.step, ask };
  const isSigned = timingSafeEqual(Buffer.from(signature, 'base64url'), sign(question, key));
  return isSigned ? question : undefined;
}
