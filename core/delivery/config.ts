import { isAbsolute, resolve } from 'node:path';
import { ConfigError } from '../config-error.js';
import type { S3Config } from '../config-groups.js';
import { isAllowedType, MEDIA_RANGE } from '../media/media-types.js';
import { bucketOf, DESTINATION_NAME, type Destination, readDestinations } from './destinations.js';
import { type PathTemplate, parsePath, TemplateError } from './template.js';

/* Where files are delivered: DELIVER_TO, the file DELIVER_DESTINATIONS, and the answers of hooks. */

/** A destination, and the template of the keys or paths in it. */
export interface Target {
  /** As it was written. */
  text: string;
  destination: Destination;
  path: PathTemplate;
}

interface DeliveryRule {
  /** Such as `image/*`, `application/pdf`; undefined: every type that no other rule has. */
  type: string | undefined;
  /** Undefined: such files are not delivered. */
  target: Target | undefined;
}

export interface DeliveryConfig {
  rules: readonly DeliveryRule[];
  destinations: ReadonlyMap<string, Destination>;
}

/** In place of a target: the file is not delivered. */
const NOWHERE = 'none';

/** `image/*=…`; the first character of a target is never part of a media type. */
const BY_TYPE = /^\s*([^\s=:{]+\/[^\s=:{]+)\s*=(.*)$/s;

/** @throws {ConfigError} naming the variable, and what is wrong */
export function readDelivery(
  e: { DELIVER_TO?: string | undefined; DELIVER_DESTINATIONS?: string | undefined },
  env: NodeJS.ProcessEnv,
  own: S3Config | undefined,
): DeliveryConfig | undefined {
  if (!e.DELIVER_TO && !e.DELIVER_DESTINATIONS) return undefined;
  const destinations = e.DELIVER_DESTINATIONS
    ? readDestinations(resolve(e.DELIVER_DESTINATIONS), env, own)
    : new Map<string, Destination>();
  const rules = e.DELIVER_TO?.split(',').map((text) => readRule(text.trim(), destinations, own)) ?? [];
  const types = rules.map(({ type }) => type);
  const twice = types.find((type, index) => types.indexOf(type) !== index);
  if (new Set(types).size < types.length) {
    throw new ConfigError(`DELIVER_TO: ${twice ?? 'every other type'} is named twice`);
  }
  return { rules, destinations };
}

/**
 * The target of files of a type: that of the type itself, or else that of its range, or else that of every type.
 * @returns undefined: they are not delivered
 */
export function targetOfType({ rules }: DeliveryConfig, type: string): Target | undefined {
  const matching = rules.filter((rule) => rule.type && isAllowedType(type, [rule.type]));
  const rule =
    matching.find((one) => !one.type?.endsWith('/*')) ?? matching[0] ?? rules.find((one) => !one.type);
  return rule?.target;
}

/**
 * Reads the target that a hook has chosen: `name:{owner}/{filename}`, or `none`. A hook chooses among the named destinations
 * only, so that it cannot make a worker write elsewhere.
 * @returns undefined: the file is not delivered
 * @throws {TemplateError}
 */
export function readNamedTarget(config: DeliveryConfig | undefined, text: string): Target | undefined {
  if (text === NOWHERE) return undefined;
  const [, name = '', path = ''] = /^([^:/{]*):(.*)$/s.exec(text) ?? [];
  const destination = config?.destinations.get(name);
  if (!destination) {
    throw new TemplateError('it must be none, or begin with the name of a destination and a colon');
  }
  return { text, destination, path: parsePath(path, prefixBytes(destination)) };
}

function readRule(
  text: string,
  destinations: Map<string, Destination>,
  own: S3Config | undefined,
): DeliveryRule {
  const [, range, rest] = BY_TYPE.exec(text) ?? [];
  const isOfType = range !== undefined && !text.startsWith('/');
  const type = isOfType ? range.toLowerCase() : undefined;
  const target = isOfType ? (rest ?? '').trim() : text;
  if (type && !MEDIA_RANGE.test(type)) throw new ConfigError(`DELIVER_TO: ${range} is not a type`);
  try {
    return { type, target: target === NOWHERE ? undefined : readTarget(target, destinations, own) };
  } catch (error) {
    if (!(error instanceof TemplateError)) throw error;
    throw new ConfigError(`DELIVER_TO=${target}: ${error.message}`);
  }
}

/** @throws {TemplateError} */
function readTarget(text: string, destinations: Map<string, Destination>, own: S3Config | undefined): Target {
  const [, bucket, key] = /^s3:\/\/([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])\/(.*)$/s.exec(text) ?? [];
  if (bucket !== undefined && key !== undefined) {
    if (!own) {
      throw new TemplateError(
        's3:// is a bucket in the store of S3_BUCKET, which is not set: name a destination of DELIVER_DESTINATIONS',
      );
    }
    const destination = bucketOf(own, bucket);
    return { text, destination, path: parsePath(key) };
  }
  if (isAbsolute(text)) return folderTarget(text);
  const [, name = ''] = /^([^:/{]*):/.exec(text) ?? [];
  if (DESTINATION_NAME.test(name) && name !== 's3') {
    const target = destinations.has(name) && readNamedTarget({ rules: [], destinations }, text);
    if (target) return target;
    const names = [...destinations.keys()].join(', ') || 'none';
    throw new TemplateError(`there is no destination ${name}; DELIVER_DESTINATIONS has ${names}`);
  }
  throw new TemplateError(
    'must be s3://bucket/key, /folder/path or destination:path, with placeholders such as {id}; or a list such as ' +
      'image/*=s3://…,video/*=…; or none',
  );
}

/** The folder is what stands before the first segment with a placeholder. */
function folderTarget(text: string): Target {
  const segments = text.slice(1).split('/');
  const first = segments.findIndex((segment) => segment.includes('{'));
  if (first < 1)
    throw new TemplateError('it must be a folder, and then segments with placeholders such as {id}');
  const path = parsePath(segments.slice(first).join('/'));
  const folder = `/${segments.slice(0, first).join('/')}`;
  parsePath(folder.slice(1));
  return { text, destination: { kind: 'folder', name: 'folder', folder }, path };
}

function prefixBytes(destination: Destination): number {
  return destination.kind === 's3' ? Buffer.byteLength(destination.s3.prefix) : 0;
}
