import type { DataSource } from 'typeorm';
import { z } from 'zod';
import { ApiKey, SCOPES } from '../../core/database/entities/api-key.js';
import { apiKey, apiKeyPage, newApiKey } from '../answers/tokens.js';
import { createApiKey, listApiKeys, revokeApiKey } from '../auth/api-keys.js';
import { getOwned } from '../auth/owned.js';
import { EMPTY } from './answers.js';
import { byId, futureTime, label } from './fields.js';
import { type AnyRoute, route, signedInActor, userOf } from './route.js';

/** API keys, which let programs act for their owner. A key cannot create keys. */
export function keyRoutes({ database }: { database: DataSource }): AnyRoute[] {
  return [
    route({
      method: 'get',
      path: '/api/keys',
      access: 'account',
      limit: 'status',
      summary: 'My API keys, without their secrets',
      answers: { 200: apiKeyPage, 304: EMPTY },
      async handle(call) {
        const keys = await listApiKeys(database, userOf(call).userId);
        return { items: keys.map(toJson), nextCursor: null };
      },
    }),
    route({
      method: 'post',
      path: '/api/keys',
      access: 'account',
      keyed: true,
      limit: 'processing',
      summary: 'Create an API key; it is shown here and never again',
      body: z.object({
        name: label,
        scopes: z.array(z.enum(SCOPES)).min(1, 'must name at least one scope').max(SCOPES.length),
        expiresAt: futureTime.optional(),
      }),
      answers: { 201: newApiKey },
      problems: ['wrong_state'],
      async handle(call) {
        const { apiKey: created, key } = await createApiKey(database, call.body, signedInActor(call));
        call.res.setHeader('Cache-Control', 'no-store');
        return { ...toJson(created), key };
      },
    }),
    route({
      method: 'delete',
      path: '/api/keys/:id',
      access: 'account',
      limit: 'processing',
      summary: 'Revoke an API key',
      params: byId,
      answers: { 204: EMPTY },
      async handle(call) {
        const { id } = call.own(await getOwned(database, ApiKey, call.params.id));
        await revokeApiKey(database, id, signedInActor(call));
      },
    }),
  ];
}

function toJson(key: ApiKey): z.output<typeof apiKey> {
  const { id, name, prefix, scopes, createdAt, lastUsedAt, expiresAt } = key;
  return { id, name, prefix, scopes, createdAt, lastUsedAt, expiresAt };
}
