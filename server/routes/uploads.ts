import type { DataSource } from 'typeorm';
import { v7 as uuidv7 } from 'uuid';
import { z } from 'zod';
import type { Upload } from '../../core/database/entities/upload.js';
import type { Estimates } from '../../core/files/estimates.js';
import { findFile, getFile } from '../../core/files/queries.js';
import { imageSettings } from '../../core/media/image-settings.js';
import { checkMetadata, toMetadata } from '../../core/uploads/description.js';
import {
  beginDirectUpload,
  completeDirectUpload,
  type DirectDeps,
  MAX_ADDRESSES,
  type SignedParts,
  signMoreParts,
} from '../../core/uploads/direct.js';
import { getUpload, listUnfinishedUploads } from '../../core/uploads/queries.js';
import { completedFile, signedParts, upload as uploadAnswer, uploadPage } from '../answers/uploads.js';
import { uploadAccessOf } from '../auth/can.js';
import type { Keys } from '../auth/keys.js';
import { type HookedDeps, hooked, setHookHeaders } from '../uploads/hooked.js';
import { EMPTY } from './answers.js';
import { byId, idCursor, pageLimit } from './fields.js';
import { sentFileToJson } from './file-json.js';
import { type AnyRoute, pageOf, route, signedInActor, userOf } from './route.js';

interface UploadDeps extends DirectDeps, HookedDeps {
  estimates: Estimates;
  keys: Keys;
}

const page = z.object({
  cursor: idCursor,
  limit: pageLimit,
});

/** With an id: further URLs for that upload. Without: a new upload. */
const presignBody = z
  .object({
    id: z.uuid().optional(),
    parts: z.array(z.int().min(1)).min(1).max(MAX_ADDRESSES).optional(),
    size: z.int().min(1, 'must be at least 1: an empty file goes to /uploads or /api/files').optional(),
    filename: z.string().optional(),
    type: z.string().optional(),
    sha256: z.string().optional(),
    settings: imageSettings.optional(),
  })
  .refine(({ id, size }) => id !== undefined || size !== undefined, {
    path: ['size'],
    error: 'is required for a new upload',
  });

/** The caller's unfinished uploads, and uploads whose bytes go straight to S3. */
export function uploadRoutes(deps: UploadDeps): AnyRoute[] {
  const { database } = deps;

  /**
   * Notes a foreign id in the event log. Core checks the owner too, but first reports a store that is not S3.
   */
  async function requireOwn({ own }: { own(upload: Upload): Upload }, id: string): Promise<void> {
    if (deps.storage.direct) own(await getUpload(database, id));
  }

  return [
    route({
      method: 'get',
      path: '/api/uploads',
      access: 'upload',
      limit: 'status',
      summary: 'My unfinished uploads, newest first',
      query: page,
      answers: { 200: uploadPage, 304: EMPTY },
      async handle(call) {
        const { cursor, limit } = call.query;
        const found = await listUnfinishedUploads(database, uploadAccessOf(userOf(call)), cursor, limit + 1);
        const { items, nextCursor } = pageOf(found, limit, ({ id }) => id);
        return { items: items.map((upload) => toJson(upload)), nextCursor };
      },
    }),
    route({
      method: 'get',
      path: '/api/uploads/:id',
      access: 'upload',
      limit: 'status',
      summary: 'One of my uploads, and the status of its file',
      params: byId,
      answers: { 200: uploadAnswer },
      async handle(call) {
        const upload = call.own(await getUpload(database, call.params.id));
        return toJson(upload, await outcomeOf(database, upload));
      },
    }),
    route({
      method: 'post',
      path: '/api/uploads/presign',
      access: 'upload',
      keyed: true,
      // A request for further URLs continues an admitted upload. It signs up to 100 URLs, so no client that
      // sends parts needs more requests than this limit allows.
      limit: {
        either: ['uploads', 'processing'],
        choose: (req) => (req.body?.id === undefined ? 'uploads' : 'processing'),
      },
      summary: 'Begin an upload straight to S3, or get further addresses for its parts',
      body: presignBody,
      answers: { 200: signedParts },
      problems: [
        'not_found',
        'gone',
        'wrong_state',
        'incomplete',
        'refused',
        'not_direct',
        'quota_exceeded',
        'type_not_allowed',
        'locked',
        'hook_unusable',
      ],
      async handle(call) {
        const { id, parts, size = 0, settings, ...described } = call.body;
        const principal = userOf(call);
        if (id !== undefined) {
          await requireOwn(call, id);
          return signedJson(await signMoreParts(deps, id, parts));
        }
        const description = checkMetadata(
          toMetadata({ ...described, settings: settings && JSON.stringify(settings) }),
        );
        const { userId: ownerId, uploadToken: token } = principal;
        const begun = { id: uuidv7(), ownerId, length: size, token, actor: signedInActor(call) };
        const bound = hooked(deps, call.req);
        const signed = await beginDirectUpload(bound.deps, { ...begun, ...description });
        setHookHeaders(call.res, bound.answer());
        return signedJson(signed);
      },
    }),
    route({
      method: 'post',
      path: '/api/uploads/complete',
      access: 'upload',
      keyed: true,
      summary: 'Complete an upload whose parts are all in S3',
      body: byId,
      answers: { 201: completedFile },
      problems: [
        'not_found',
        'gone',
        'wrong_state',
        'incomplete',
        'not_direct',
        'size_mismatch',
        'locked',
        'refused',
      ],
      async handle(call) {
        await requireOwn(call, call.body.id);
        const principal = userOf(call);
        const access = uploadAccessOf(principal);
        const bound = hooked(deps, call.req);
        const id = await completeDirectUpload(bound.deps, access, call.body.id, signedInActor(call));
        setHookHeaders(call.res, bound.answer());
        const file = await getFile(database, id);
        const etaSeconds = await deps.estimates.secondsLeft(file);
        return { ...(await sentFileToJson(deps, file, principal)), etaSeconds };
      },
    }),
  ];
}

/** All that a guest learns about a file: its status, and why it failed. Null: there is no file. */
async function outcomeOf(database: DataSource, { id, status }: Upload) {
  const file = status === 'finished' ? await findFile(database, id) : undefined;
  return file ? { status: file.status, error: file.error } : null;
}

function signedJson(signed: SignedParts): z.output<typeof signedParts> {
  const { upload, partSize, partCount, parts } = signed;
  return { id: upload.id, partSize, partCount, parts, expiresAt: upload.expiresAt };
}

type Outcome = Awaited<ReturnType<typeof outcomeOf>>;

/** @param file an unfinished upload has none */
function toJson(upload: Upload, file: Outcome = null): z.output<typeof uploadAnswer> {
  return {
    id: upload.id,
    kind: upload.kind,
    status: upload.status,
    offset: upload.offset,
    length: upload.length,
    metadata: upload.metadata,
    direct: upload.direct,
    error: upload.error,
    file,
    createdAt: upload.createdAt,
    expiresAt: upload.status === 'uploading' && upload.kind !== 'final' ? upload.expiresAt : null,
  };
}
