import { z } from 'zod';
import { bytes, id, pageOf, timestamp } from './shapes.js';

/** An API key, without its secret. */
export const apiKey = z
  .object({
    id,
    name: z.string(),
    prefix: z.string().describe('The public part of the key'),
    scopes: z.array(z.enum(['upload', 'read', 'manage'])),
    createdAt: timestamp,
    lastUsedAt: timestamp.nullable(),
    expiresAt: timestamp.nullable(),
  })
  .meta({ id: 'ApiKey' });

export const apiKeyPage = pageOf(apiKey);

export const newApiKey = apiKey.extend({ key: z.string().describe('It is shown here and never again') });

/** An upload token, without the token itself. */
export const uploadToken = z
  .object({
    id,
    label: z.string().nullable(),
    maxSize: bytes.nullable(),
    types: z.array(z.string()).nullable().describe('Media types such as image/*; null: any'),
    createdAt: timestamp,
    expiresAt: timestamp,
    usedAt: timestamp.nullable(),
    uploadId: id.nullable().describe('The upload that the token began'),
  })
  .meta({ id: 'UploadToken' });

export const uploadTokenPage = pageOf(uploadToken);

export const newUploadToken = uploadToken.extend({
  token: z.string().describe('It is shown here and never again'),
});

export type ApiKeyJson = z.input<typeof apiKey>;

export type ApiKeyPageJson = z.input<typeof apiKeyPage>;

export type NewApiKeyJson = z.input<typeof newApiKey>;

export type UploadTokenJson = z.input<typeof uploadToken>;

export type UploadTokenPageJson = z.input<typeof uploadTokenPage>;

export type NewUploadTokenJson = z.input<typeof newUploadToken>;
