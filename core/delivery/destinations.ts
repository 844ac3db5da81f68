import { readFileSync } from 'node:fs';
import { isAbsolute, resolve } from 'node:path';
import { parse as parseYaml } from 'yaml';
import { z } from 'zod';
import { ConfigError } from '../config-error.js';
import type { S3Config } from '../config-groups.js';
import { parseTemplate, type Template, TemplateError } from './template.js';

/* The file that DELIVER_DESTINATIONS names: places for delivered files, by name. */

/** A bucket, and how objects are stored in it. */
export interface S3Destination {
  kind: 's3';
  name: string;
  /** With the prefix of all keys. */
  s3: S3Config;
  /** The storage class (x-amz-storage-class); undefined: the bucket's. */
  storageClass?: string | undefined;
  tags: [key: string, value: Template][];
  /** Cache-Control and Content-Language. */
  headers: [name: 'CacheControl' | 'ContentLanguage', value: Template][];
  /** Of a Content-Disposition with the name of the file. */
  disposition?: 'inline' | 'attachment' | undefined;
  /** User metadata, by its name without x-amz-meta-. */
  metadata: [name: string, value: Template][];
}

export interface FolderDestination {
  kind: 'folder';
  name: string;
  /** Absolute. */
  folder: string;
}

export type Destination = S3Destination | FolderDestination;

/** The text before the colon of `name:{owner}/{filename}`. */
export const DESTINATION_NAME = /^[a-z][a-z0-9_-]{0,62}$/;

/** S3: at most 10 tags; 2 KB of user metadata. */
const MAX_TAGS = 10;
const MAX_METADATA = 6;

const template = z.string().transform((text, context): Template => {
  try {
    return parseTemplate(text);
  } catch (error) {
    if (!(error instanceof TemplateError)) throw error;
    context.addIssue(error.message);
    return z.NEVER;
  }
});

const httpUrl = z.url({ protocol: /^https?$/, error: 'must be an http or https address' });
const text = z.string().min(1, 'must not be empty');

const HEADER_FIELDS = { 'cache-control': 'CacheControl', 'content-language': 'ContentLanguage' } as const;

const headers = z.record(z.string(), template).transform((values, context) => {
  const found = { headers: [] as S3Destination['headers'], metadata: [] as S3Destination['metadata'] };
  for (const [name, value] of Object.entries(values)) {
    const lower = name.toLowerCase();
    const [, own] = /^x-amz-meta-([a-z0-9-]{1,32})$/.exec(lower) ?? [];
    if (lower === 'cache-control' || lower === 'content-language') {
      found.headers.push([HEADER_FIELDS[lower], value]);
    } else if (own && !own.startsWith('landfall-')) {
      found.metadata.push([own, value]);
    } else {
      context.addIssue(
        `${name}: there are Cache-Control, Content-Language and X-Amz-Meta-…, whose names have at most 32 letters, digits ` +
          'and hyphens and do not begin with landfall-; contentDisposition is a setting of its own',
      );
    }
  }
  if (found.metadata.length > MAX_METADATA) context.addIssue(`has more than ${MAX_METADATA} of X-Amz-Meta-…`);
  return found;
});

const tags = z
  .record(z.string().regex(/^[\w +\-=.:/@]{1,128}$/), template)
  .transform((values) => Object.entries(values))
  .refine((all) => all.length <= MAX_TAGS, `must be at most ${MAX_TAGS}`);

const folderSettings = z.strictObject({
  folder: z.string().refine(isAbsolute, 'must be an absolute path'),
});

const s3Settings = z.strictObject({
  bucket: z.string().regex(/^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$/, 'must be the name of a bucket'),
  endpoint: httpUrl.transform((url) => url.replace(/\/+$/, '')).optional(),
  region: text.optional(),
  accessKeyId: text.optional(),
  secretAccessKey: text.optional(),
  accessKeyIdFrom: text.optional(),
  secretAccessKeyFrom: text.optional(),
  pathStyle: z.boolean().optional(),
  prefix: z
    .string()
    .regex(/^[\w.-]+(\/[\w.-]+)*\/?$/, 'must be letters, digits and . _ -, with / between')
    .refine(
      (prefix) => !prefix.split('/').some((part) => /^\.+$/.test(part)),
      'must not have the parts . and ..',
    )
    .transform((prefix) => prefix.replace(/\/?$/, '/'))
    .default(''),
  encryption: z.enum(['AES256', 'aws:kms'], 'must be AES256 or aws:kms').optional(),
  kmsKeyId: text.optional(),
  storageClass: z
    .string()
    .regex(/^\w{1,64}$/, 'must be letters, digits and _')
    .optional(),
  contentDisposition: z.enum(['inline', 'attachment'], 'must be inline or attachment').optional(),
  headers: headers.default({ headers: [], metadata: [] }),
  tags: tags.default([]),
});

type S3Settings = z.output<typeof s3Settings>;

/**
 * Reads the file of destinations (YAML or JSON).
 * @param env holds the keys that the file names by their variables
 * @param own the store of this server; undefined: a folder
 * @throws {ConfigError} naming the variable, the destination and the field; never with a key
 */
export function readDestinations(
  file: string,
  env: NodeJS.ProcessEnv,
  own: S3Config | undefined,
): Map<string, Destination> {
  const all = parseFile(file);
  const found = Object.entries(all).map(([name, settings]): [string, Destination] => {
    const fail = (why: string) => new ConfigError(`DELIVER_DESTINATIONS=${file}: ${name}: ${why}`);
    if (!DESTINATION_NAME.test(name)) throw fail('a name must be lower-case letters, digits, _ and -');
    const isFolder = typeof settings === 'object' && settings !== null && 'folder' in settings;
    const parsed = isFolder ? folderSettings.safeParse(settings) : s3Settings.safeParse(settings);
    if (!parsed.success) {
      const [issue] = parsed.error.issues;
      throw fail(`${issue?.path.join('.') || 'the destination'}: ${issue?.message}`);
    }
    if ('folder' in parsed.data) return [name, { kind: 'folder', name, folder: resolve(parsed.data.folder) }];
    return [name, toS3(name, parsed.data, env, own, fail)];
  });
  return new Map(found);
}

/** A bucket in the store of this server, without settings of its own. */
export function bucketOf(own: S3Config, bucket: string): S3Destination {
  const s3 = { ...own, bucket, prefix: '' };
  return { kind: 's3', name: `s3://${bucket}`, s3, tags: [], headers: [], metadata: [] };
}

function parseFile(file: string): Record<string, unknown> {
  const fail = (why: string) => new ConfigError(`DELIVER_DESTINATIONS=${file}: ${why}`);
  let value: unknown;
  try {
    // JSON is YAML too.
    value = parseYaml(readFileSync(file, 'utf8'));
  } catch (error) {
    const { code, message, linePos } = error as {
      code?: string;
      message: string;
      linePos?: { line: number }[];
    };
    // The message of a syntax error would quote the line, which may hold a key.
    throw fail(
      linePos ? `line ${linePos[0]?.line} is no YAML (${code})` : `cannot be read (${code ?? message})`,
    );
  }
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return { ...value };
  throw fail('must be an object with a name for each destination');
}

function toS3(
  name: string,
  settings: S3Settings,
  env: NodeJS.ProcessEnv,
  own: S3Config | undefined,
  fail: (why: string) => ConfigError,
): S3Destination {
  // Without an address of its own it is a bucket in the store of this server.
  const base = settings.endpoint ? undefined : own;
  const { encryption, kmsKeyId } = settings;
  if (kmsKeyId && encryption !== 'aws:kms') throw fail('kmsKeyId needs encryption: aws:kms');
  return {
    kind: 's3',
    name,
    s3: {
      bucket: settings.bucket,
      endpoint: settings.endpoint ?? base?.endpoint,
      region: settings.region ?? base?.region ?? 'us-east-1',
      credentials: readKeys(settings, env, fail) ?? base?.credentials,
      forcePathStyle: settings.pathStyle ?? base?.forcePathStyle ?? settings.endpoint !== undefined,
      prefix: settings.prefix,
      publicEndpoint: undefined,
      redirect: false,
      sse: encryption,
      kmsKeyId,
      checksums: 'when_required',
    },
    storageClass: settings.storageClass,
    tags: settings.tags,
    headers: settings.headers.headers,
    disposition: settings.contentDisposition,
    metadata: settings.headers.metadata,
  };
}

/** @returns undefined: none are named */
function readKeys(
  settings: S3Settings,
  env: NodeJS.ProcessEnv,
  fail: (why: string) => ConfigError,
): S3Config['credentials'] {
  const read = (field: 'accessKeyId' | 'secretAccessKey') => {
    const variable = settings[`${field}From`];
    if (variable === undefined) return settings[field];
    if (settings[field] !== undefined) throw fail(`${field} and ${field}From: set one of them`);
    const value = env[variable];
    if (!value) throw fail(`${field}From: the variable ${variable} is not set`);
    return value;
  };
  const accessKeyId = read('accessKeyId');
  const secretAccessKey = read('secretAccessKey');
  if (accessKeyId && secretAccessKey) return { accessKeyId, secretAccessKey };
  if (!accessKeyId && !secretAccessKey) return undefined;
  throw fail('accessKeyId and secretAccessKey go together: set both or neither');
}
