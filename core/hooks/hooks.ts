import type { DataSource } from 'typeorm';
import type { Upload } from '../database/entities/upload.js';
import { type DeliveryConfig, readNamedTarget } from '../delivery/config.js';
import { TemplateError } from '../delivery/template.js';
import { AppError } from '../errors.js';
import type { Creation } from '../uploads/create.js';
import { checkHookMetadata } from '../uploads/description.js';
import { type CreationChanges, type HookAnswer, type UploadHooks, UploadRefused } from '../uploads/hooks.js';
import { type HookReply, mergeAnswers } from './answer.js';
import { type AskDeps, ask, report } from './ask.js';
import { countAsking } from './asked.js';
import { createProgressThrottle } from './progress.js';
import { type ClientRequest, type HookType, infoOfCreation, infoOfUpload } from './question.js';

/*
 * The hooks of tusd by HTTP: pre-create, pre-finish and pre-terminate are questions, post-receive is a report of progress.
 * post-create, post-finish and post-terminate come from the event log instead, so that none is lost.
 */

export interface HookDeps extends AskDeps {
  database: DataSource;
  /** Finds or makes the account that a hook names as the owner of an upload; undefined: hooks name no owners. */
  resolveOwner?: ((name: string) => Promise<string>) | undefined;
  /** Hooks choose among its destinations; undefined: files are not delivered. */
  delivery?: DeliveryConfig | undefined;
}

/** The hooks of one request of a client, or of the reconciler. */
interface RequestHooks extends UploadHooks {
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
        deliverTo: reply.deliverTo && requireTarget(deps, reply.deliverTo),
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
      ...(listens('pre-create') && { beforeCreate }),
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
function requireTarget({ log, delivery }: HookDeps, text: string): string {
  try {
    readNamedTarget(delivery, text);
    return text;
  } catch (error) {
    if (!(error instanceof TemplateError)) throw error;
    log.error(
      { err: error, target: text },
      'a hook names no target for deliveries, so the upload is not created',
    );
    const detail = `The hook of this server sends a DeliverTo that cannot be used: ${error.message}`;
    throw new AppError('hook_unusable', { detail, cause: error });
  }
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
