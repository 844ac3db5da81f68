import { z } from 'zod';
import { DERIVATIVE_NAME } from '../database/entities/derivative.js';
import type { StoredBlob } from '../files/blobs.js';
import type { Facts } from '../files/steps.js';

/*
 * What a step of the operator's says about a file, in whichever form it comes: facts, and things that it has made. Programs and
 * services are not believed: sizes, names and texts are checked.
 */

/** Bytes of the facts, as JSON. */
const MAX_FACTS = 64 * 1024;

/** Nested arrays and objects of facts. */
const MAX_DEPTH = 32;

/** How many things one step may make of a file. */
export const MAX_DERIVED = 16;

/** Bytes of all that a service sends in one answer, apart from Base64. */
const MAX_SENT = 8 * 1024 ** 2;

/** A type without parameters, such as `image/webp`. */
export const MEDIA_TYPE = /^[a-z]+\/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}$/;

/** Facts cannot be kept; the message says why, for people. */
export class BadFacts extends Error {
  override name = 'BadFacts';
}

/**
 * Makes facts fit for a jsonb column: PostgreSQL stores neither U+0000 nor halves of surrogate pairs.
 * @throws {BadFacts}
 */
export function readFacts(value: unknown): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new BadFacts('The facts must be a JSON object');
  }
  const facts = clean(value, 0) as Record<string, unknown>;
  if (Buffer.byteLength(JSON.stringify(facts)) > MAX_FACTS) {
    throw new BadFacts(`The facts must have at most ${MAX_FACTS} bytes`);
  }
  return facts;
}

function clean(value: unknown, depth: number): unknown {
  if (typeof value === 'string') return cleanText(value);
  if (typeof value === 'number') return Number.isFinite(value) ? value : null;
  if (typeof value === 'boolean' || value === null) return value;
  if (typeof value !== 'object') return undefined;
  if (depth >= MAX_DEPTH) throw new BadFacts(`The facts are nested deeper than ${MAX_DEPTH} levels`);
  if (Array.isArray(value)) return value.map((item) => clean(item, depth + 1) ?? null);
  return Object.fromEntries(
    Object.entries(value).map(([key, item]) => [cleanText(key), clean(item, depth + 1)]),
  );
}

function cleanText(text: string): string {
  return text.replaceAll('\0', '').toWellFormed();
}

/** A line of text for the owner of a file: one line, no control characters, at most 300 characters. */
export function cleanLine(text: string): string {
  return text
    .toWellFormed()
    .replaceAll(/\p{C}+/gu, ' ')
    .trim()
    .slice(0, 300)
    .toWellFormed();
}

const derived = z.strictObject({
  name: z.string().max(60).regex(DERIVATIVE_NAME, 'must be lower-case letters, digits and single hyphens'),
  contentType: z.string().regex(MEDIA_TYPE, 'must be a media type such as image/webp'),
  base64: z.base64('must be Base64 (RFC 4648, 4)'),
  width: z.int().min(1).max(1_000_000).optional(),
  height: z.int().min(1).max(1_000_000).optional(),
});

/** The answer of a service, at once or later. */
const serviceAnswer = z.strictObject({
  outcome: z
    .enum(['done', 'skipped', 'failed', 'retry'], 'must be done, skipped, failed or retry')
    .default('done'),
  /** Why it was skipped or has failed. */
  reason: z.string().max(10_000).default(''),
  facts: z.record(z.string(), z.unknown()).default({}),
  derived: z.array(derived).max(MAX_DERIVED).default([]),
});

/** Something that a step has made of a file; its bytes are not stored yet. */
export interface Made {
  /** As DERIVATIVE_NAME. */
  name: string;
  contentType: string;
  bytes: Buffer;
  width: number | null;
  height: number | null;
}

export type ServiceAnswer =
  | { outcome: 'done'; facts: Record<string, unknown>; made: Made[] }
  | { outcome: 'skipped'; reason: string }
  | { outcome: 'failed'; reason: string }
  | { outcome: 'retry'; reason: string };

/**
 * Reads the answer of a service about the step `step`.
 * @throws {BadFacts} naming the field that is wrong
 */
export function readServiceAnswer(step: string, value: unknown): ServiceAnswer {
  const parsed = serviceAnswer.safeParse(value);
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    throw new BadFacts(`${issue?.path.join('.') || 'The answer'}: ${issue?.message}`);
  }
  const { outcome, reason, facts, derived: sent } = parsed.data;
  if (outcome !== 'done') return { outcome, reason: cleanLine(reason) };
  const made = sent.map(({ name, base64, width = null, height = null, ...one }) => ({
    ...one,
    name: derivedName(step, name),
    bytes: Buffer.from(base64, 'base64'),
    width,
    height,
  }));
  requireDistinct(made);
  const size = made.reduce((sum, { bytes }) => sum + bytes.length, 0);
  if (size > MAX_SENT) throw new BadFacts(`derived: at most ${MAX_SENT} bytes in all`);
  return { outcome, facts: readFacts(facts), made };
}

/** The name under which a file shows what a step has made: no two steps can have the same. */
export function derivedName(step: string, name: string): string {
  return `${step}-${name}`;
}

/** @throws {BadFacts} when two have the same name */
export function requireDistinct(made: readonly { name: string }[]): void {
  const names = made.map(({ name }) => name);
  const twice = names.find((name, index) => names.indexOf(name) !== index);
  if (twice) throw new BadFacts(`Two derived files are named ${twice}`);
}

/**
 * Stores what a step has made. Its facts stand under its name in the file's metadata.
 * @param write stores bytes durably
 */
export async function keepMade(
  step: string,
  { facts, made }: { facts: Record<string, unknown>; made: readonly Made[] },
  write: (contents: Uint8Array[]) => Promise<StoredBlob[]>,
): Promise<Facts> {
  const blobs = made.length > 0 ? await write(made.map(({ bytes }) => bytes)) : [];
  return {
    metadata: Object.keys(facts).length > 0 ? { [step]: facts } : {},
    derivatives: made.flatMap(({ bytes: _, ...one }, index) => {
      const blob = blobs[index];
      return blob ? [{ ...one, blob }] : [];
    }),
  };
}
