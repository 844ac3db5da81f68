import type { HookConfig } from '../config-groups.js';
import type { Logger } from '../log.js';
import type { Metrics } from '../metrics/metrics.js';
import { HookSilent } from '../uploads/hooks.js';
import { type HookReply, readReply } from './answer.js';
import { type HookClient, HookFailed } from './client.js';
import {
  type ClientRequest,
  canonicalName,
  type HookType,
  questionJson,
  type UploadInfo,
} from './question.js';
import type { HookOutcome, HookResults } from './results.js';

/*
 * One question to the receiver, and what its silence means.
 *
 * What a receiver for tusd does not know stands in headers of the request:
 * - Hook-Id: the same for all requests of one question;
 * - Hook-Attempt: 1, then 2, …: the question was asked before, and an answer may have been given;
 * - Hook-Owner: the account that the upload belongs to.
 */

export interface AskDeps {
  client: HookClient;
  results: HookResults;
  metrics?: Pick<Metrics, 'hookAsked'> | undefined;
  log: Logger;
  config: HookConfig;
}

export interface Question {
  type: HookType;
  /** Names the question in the log; the upload may not exist yet. */
  uploadId: string;
  ownerId: string | null;
  info: UploadInfo;
  request: (() => ClientRequest) | undefined;
  /** How often the question was asked, including the next time. */
  count(): Promise<number>;
}

/**
 * Asks the receiver.
 * @returns undefined if it gave no answer, and the configuration takes that for a yes
 * @throws {HookSilent}; and the errors of `count`
 */
export async function ask(deps: AskDeps, question: Question): Promise<HookReply | undefined> {
  try {
    return await send(deps, question, deps.config.attempts);
  } catch (error) {
    if (!(error instanceof HookFailed)) throw error;
    const { type, uploadId } = question;
    deps.log.error({ err: error, hook: type, uploadId }, 'a hook gave no answer');
    // Without an owner there can be no upload.
    if (deps.config.absent === 'allow' && question.ownerId !== null) return undefined;
    throw new HookSilent(error);
  }
}

/** Reports progress, once. Never rejects. */
export async function report(deps: AskDeps, question: Question): Promise<HookReply | undefined> {
  try {
    return await send(deps, question, 1);
  } catch (error) {
    deps.log.warn({ err: error, hook: question.type, uploadId: question.uploadId }, 'a hook was not told');
    return undefined;
  }
}

/** @throws {HookFailed}; and the errors of `count` */
async function send(
  { client, config, results, metrics }: AskDeps,
  { type, uploadId, ownerId, info, request, count }: Question,
  attempts: number,
): Promise<HookReply> {
  const started = performance.now();
  const note = (outcome: HookOutcome, error?: string) => {
    const ms = performance.now() - started;
    results.note(type, outcome, ms, error);
    metrics?.hookAsked(type, outcome, ms / 1000);
  };
  try {
    const asking = request?.();
    const json = await client.ask(questionJson(type, info, asking), attempts, async () => ({
      ...forwarded(config.forwardHeaders, asking),
      'Hook-Id': `${type}:${uploadId}`,
      'Hook-Attempt': String(await count()),
      ...(ownerId ? { 'Hook-Owner': ownerId } : {}),
    }));
    const reply = read(json);
    note(reply.rejectsUpload || reply.rejectsTermination || reply.stopsUpload ? 'refused' : 'answered');
    return reply;
  } catch (error) {
    if (error instanceof HookFailed) note('failed', error.message);
    throw error;
  }
}

/** @throws {HookFailed} */
function read(json: string): HookReply {
  try {
    return readReply(json);
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new HookFailed(`the answer of the hook cannot be read: ${why}`, false, error);
  }
}

/** The headers of the client's request that go with the question too, under the names that the configuration has. */
function forwarded(names: readonly string[], request?: ClientRequest): Record<string, string[]> {
  const found = names.map((name) => [name, request?.headers[canonicalName(name)]] as const);
  return Object.fromEntries(found.filter((entry): entry is [string, string[]] => entry[1] !== undefined));
}
