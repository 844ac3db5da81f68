import type { DataSource } from 'typeorm';
import type { HookConfig } from '../config.js';
import type { Upload } from '../database/entities/upload.js';
import { AppError } from '../errors.js';
import type { Logger } from '../log.js';
import type { Metrics } from '../metrics/metrics.js';
import type { Creation } from '../uploads/create.js';
import { checkHookMetadata } from '../uploads/description.js';
import {
  type CreationChanges,
  type HookAnswer,
  HookSilent,
  type UploadHooks,
  UploadRefused,
} from '../uploads/hooks.js';
import { type HookReply, mergeAnswers, readReply } from './answer.js';
import { countAsking } from './asked.js';
import { type HookClient, HookFailed } from './client.js';
import { createProgressThrottle } from './progress.js';
import {
  type ClientRequest,
  canonicalName,
  type HookType,
  infoOfCreation,
  infoOfUpload,
  questionJson,
  type UploadInfo,
} from './question.js';
import type { HookResults } from './results.js';

/*
 * The hooks of tusd by HTTP: pre-create, pre-finish and pre-terminate are questions, post-receive is a report of progress.
 * post-create, post-finish and post-terminate come from the event log instead, so that none is lost.
 *
 * What a receiver for tusd does not know stands in headers of the request:
 * - Hook-Id: the same for all requests of one question;
 * - Hook-Attempt: 1, then 2, …: the question was asked before, and an answer may have been given;
 * - Hook-Owner: the account that the upload belongs to.
 */

export interface HookDeps {
  database: DataSource;
  client: HookClient;
  results: HookResults;
  metrics: Pick<Metrics, 'hookAsked'>;
  log: Logger;
  config: HookConfig;
  /** Finds or makes the account that a hook names as the owner of an upload; undefined: hooks name no owners. */
  resolveOwner?: ((name: string) => Promise<string>) | undefined;
}

/** The hooks of one request of a client, or of the reconciler. */
export interface RequestHooks extends UploadHooks {
  /** What the hooks of this request want in its answer. */
  readonly answer: HookAnswer;
}

/**
 * Creates the hooks of one request.
 * @param request called when a hook is asked. Undefined: there is no request, because the reconciler acts
 */
export type HooksOf = (request?: () => ClientRequest) => RequestHooks;

/** Characters of a refusal that its client and the owner of the upload see. */
const MAX_REASON = 500;

interface Question {
  type: HookType;
  /** Names the question in the log; the upload may not exist yet. */
  uploadId: string;
  ownerId: string | null;
  info: UploadInfo;
  request: (() => ClientRequest) | undefined;
  /** How often the question was asked, including the next time. */
  count(): Promise<number>;
}

/** Prepares the hooks of this process. The caller closes the client. */
export function createHooks(deps: HookDeps): HooksOf {
  const { config, database, resolveOwner } = deps;
  const throttle = createProgressThrottle(config.progressMs);
  const listens = (type: HookType) => config.events.includes(type);

  return (request) => {
    let answer: HookAnswer = {};
    /** The final uploads that this request has created. */
    const created = new Set<string>();

    async function beforeCreate(creation: Creation): Promise<CreationChanges | undefined> {
      created.add(creation.id);
      let asked = 0;
      const reply = await ask(deps, {
        type: 'pre-create',
        uploadId: creation.id,
        ownerId: creation.ownerId,
        info: infoOfCreation(creation),
        request,
        count: async () => ++asked,
      });
      if (!reply) return undefined;
      if (reply.rejectsUpload) throw toRefusal(reply, 'The hook of this server refuses this upload');
      requirePossible(deps, reply);
      answer = mergeAnswers(answer, reply.answer);
      const isOpen = creation.ownerId === null && resolveOwner && reply.owner;
      return {
        description: reply.metadata && describe(deps, reply.metadata),
        ownerId: isOpen ? await resolveOwner(reply.owner ?? '') : undefined,
      };
    }

    const about = (type: HookType, upload: Upload, partialIds?: string[]) => ({
      type,
      uploadId: upload.id,
      ownerId: upload.ownerId,
      info: infoOfUpload(upload, partialIds),
      request,
    });

    return {
      get answer() {
        return answer;
      },
      ...(listens('pre-create') || resolveOwner ? { beforeCreate } : {}),
      ...(listens('pre-finish') && {
        async beforeFinish({ upload, partialIds }) {
          const count = () => countAsking(database, 'finish_asked', upload.id);
          const reply = await ask(deps, { ...about('pre-finish', upload, partialIds), count });
          if (reply?.rejectsUpload) throw toRefusal(reply, 'The hook of this server refuses this file');
          // A request for a partial upload can finish final uploads too; its answer is not theirs.
          const isOwn = upload.kind !== 'final' || created.has(upload.id);
          if (reply && isOwn) answer = mergeAnswers(answer, reply.answer);
        },
      }),
      ...(listens('pre-terminate') && {
        async beforeEnd({ upload }) {
          const count = () => countAsking(database, 'end_asked', upload.id);
          const reply = await ask(deps, { ...about('pre-terminate', upload), count });
          if (reply?.rejectsTermination)
            throw toRefusal(reply, 'The hook of this server refuses the deletion');
          if (reply) answer = mergeAnswers(answer, reply.answer);
        },
      }),
      ...(listens('post-receive') && {
        onReceived(upload, stop) {
          if (!throttle.begin(upload.id)) return;
          void report(deps, { ...about('post-receive', upload), count: async () => 1 })
            .then((reply) => {
              if (reply?.stopsUpload)
                stop(toRefusal(reply, 'The hook of this server has stopped this upload'));
            })
            .finally(() => throttle.done(upload.id));
        },
      }),
    };
  };
}

/**
 * Asks the receiver.
 * @returns undefined if it gave no answer, and the configuration takes that for a yes
 * @throws {HookSilent}; and the errors of `count`
 */
async function ask(deps: HookDeps, question: Question): Promise<HookReply | undefined> {
  try {
    return await send(deps, question, deps.config.attempts);
  } catch (error) {
    if (!(error instanceof HookFailed)) throw error;
    const { type, uploadId } = question;
    deps.log.error({ err: error, hook: type, uploadId }, 'a hook gave no answer');
    if (deps.config.absent === 'allow') return undefined;
    throw new HookSilent(error);
  }
}

/** Reports progress, once. Never rejects. */
async function report(deps: HookDeps, question: Question): Promise<HookReply | undefined> {
  try {
    return await send(deps, question, 1);
  } catch (error) {
    deps.log.warn({ err: error, hook: question.type, uploadId: question.uploadId }, 'a hook was not told');
    return undefined;
  }
}

/** @throws {HookFailed}; and the errors of `count` */
async function send(
  { client, config, results, metrics }: HookDeps,
  { type, uploadId, ownerId, info, request, count }: Question,
  attempts: number,
): Promise<HookReply> {
  const started = performance.now();
  const note = (outcome: Parameters<HookResults['note']>[1], error?: string) => {
    const ms = performance.now() - started;
    results.note(type, outcome, ms, error);
    metrics.hookAsked(type, outcome, ms);
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

/** A refusal with the answer that the hook has chosen. Its body is also the reason that the owner reads. */
function toRefusal({ answer }: HookReply, otherwise: string): UploadRefused {
  const reason = answer.body
    ?.slice(0, MAX_REASON)
    .toWellFormed()
    .replace(/\p{C}+/gu, ' ')
    .trim();
  return new UploadRefused(reason || otherwise, answer);
}

/** Ids and keys are chosen by this server. @throws {AppError} hook_unusable */
function requirePossible({ log }: HookDeps, { namesId, namesStorage }: HookReply): void {
  if (!namesId && !namesStorage) return;
  const field = namesId ? 'ChangeFileInfo.ID' : 'ChangeFileInfo.Storage';
  log.error(
    { field },
    'a hook wants to choose an id or a place in the store, which this server chooses itself, so the upload is not created: ' +
      'leave the field out, and put an id of your own into ChangeFileInfo.MetaData',
  );
  throw new AppError('hook_unusable', {
    detail: `The hook of this server sends ${field}, which is not possible here`,
  });
}

/** @throws {AppError} hook_unusable */
function describe({ log }: HookDeps, metadata: Record<string, string>): CreationChanges['description'] {
  try {
    return checkHookMetadata(metadata);
  } catch (error) {
    if (!(error instanceof AppError)) throw error;
    log.error({ err: error }, 'a hook sends metadata that cannot be kept, so the upload is not created');
    const detail = `The hook of this server sends metadata that cannot be kept: ${error.message}`;
    throw new AppError('hook_unusable', { detail, cause: error });
  }
}
