import type { DataSource } from 'typeorm';
import { z } from 'zod';
import { UploadToken } from '../../core/database/entities/upload-token.js';
import { MEDIA_RANGE } from '../../core/media/media-types.js';
import { newUploadToken, uploadToken as tokenAnswer, uploadTokenPage } from '../answers/tokens.js';
import type { Keys } from '../auth/keys.js';
import { getOwned } from '../auth/owned.js';
import { createUploadToken, listUploadTokens, revokeUploadToken } from '../auth/upload-tokens.js';
import { EMPTY } from './answers.js';
import { byId, futureTime, label } from './fields.js';
import { type AnyRoute, route, signedInActor, userOf } from './route.js';

interface UploadTokenDeps {
  database: DataSource;
  keys: Keys;
}

const DEFAULT_HOURS = 24;

const MAX_DAYS = 366;

/** Such as `image/*` or `application/pdf`. */
const mediaType = z
  .string()
  .toLowerCase()
  .regex(MEDIA_RANGE, 'must be a media type such as image/* or image/png');

/** Tokens that let somebody without an account send one file into the caller's account. */
export function uploadTokenRoutes({ database, keys }: UploadTokenDeps): AnyRoute[] {
  return [
    route({
      method: 'get',
      path: '/api/upload-tokens',
      access: 'manage',
      limit: 'status',
      summary: 'My upload tokens, and the upload that each one began',
      answers: { 200: uploadTokenPage, 304: EMPTY },
      async handle(call) {
        const tokens = await listUploadTokens(database, userOf(call).userId);
        return { items: tokens.map(toJson), nextCursor: null };
      },
    }),
    route({
      method: 'post',
      path: '/api/upload-tokens',
      access: 'manage',
      keyed: true,
      limit: 'processing',
      summary: 'Create a token that may begin one upload; it is shown here and never again',
      body: z.object({
        label: label.optional(),
        maxSize: z.int().min(0, 'must be a number of bytes').optional(),
        types: z.array(mediaType).min(1, 'must name at least one type').max(50).optional(),
        expiresAt: futureTime
          .refine(
            (time) => time.getTime() <= Date.now() + MAX_DAYS * 86_400_000,
            `must be within ${MAX_DAYS} days`,
          )
          .optional(),
      }),
      answers: { 201: newUploadToken },
      problems: ['wrong_state'],
      async handle(call) {
        const expiresAt = call.body.expiresAt ?? new Date(Date.now() + DEFAULT_HOURS * 3_600_000);
        const made = { ...call.body, expiresAt };
        const { uploadToken, token } = await createUploadToken(
          database,
          keys.uploadToken,
          made,
          signedInActor(call),
        );
        call.res.setHeader('Cache-Control', 'no-store');
        return { ...toJson({ ...uploadToken, uploadId: null }), token };
      },
    }),
    route({
      method: 'delete',
      path: '/api/upload-tokens/:id',
      access: 'manage',
      limit: 'processing',
      summary: 'Revoke an upload token',
      params: byId,
      answers: { 204: EMPTY },
      async handle(call) {
        const { id } = call.own(await getOwned(database, UploadToken, call.params.id));
        await revokeUploadToken(database, id, signedInActor(call));
      },
    }),
  ];
}

function toJson(token: UploadToken & { uploadId: string | null }): z.output<typeof tokenAnswer> {
  const { id, label, maxSize, types, createdAt, expiresAt, usedAt, uploadId } = token;
  return { id, label, maxSize, types, createdAt, expiresAt, usedAt, uploadId };
}
