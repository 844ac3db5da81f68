import { z } from 'zod';
import { DERIVATIVE_NAME } from '../../core/database/entities/derivative.js';
import { MEDIA_RANGE } from '../../core/media/media-types.js';
import { MEDIA_TYPE } from '../../core/own-steps/answer.js';
import { bytes } from '../../core/variables.js';

/* What the operator says about a step: in STEPS_FILE, or as exports of a module in STEPS_DIR. */

const MIB = 1024 ** 2;

/** All that a step writes is read into memory before it is stored. */
const MAX_OUTPUT = 256 * MIB;

/** A work folder lives for less than a day; see work-folders.ts. */
const LONGEST_RUN = 6 * 3600;

const LONGEST_WAIT = 30 * 24 * 3600;

/** `512MiB`, or a number of bytes. */
const amount = (min: number, max: number, limits: string) =>
  z
    .union([z.int(), bytes], `must be a number of bytes such as 512MiB, ${limits}`)
    .refine((n) => n >= min && n <= max, `must be ${limits}`);

const seconds = (max: number) => z.int(`must be a whole number of seconds from 1 to ${max}`).min(1).max(max);

const name = z
  .string()
  .regex(
    /^[a-z][a-z0-9]*(-[a-z0-9]+)*$/,
    'must be lower-case letters, digits and single hyphens, a letter first',
  )
  .max(40, 'must have at most 40 characters');

const types = z
  .array(
    z
      .string()
      .toLowerCase()
      .regex(MEDIA_RANGE, 'must be a type such as image/png, or a range such as image/*'),
  )
  .min(1, 'must name a type, or be left out for files of all types')
  .optional();

/** An environment variable of the worker that the program gets too. */
const variable = z.string().regex(/^[A-Za-z_]\w*$/, 'must be the name of an environment variable');

const common = {
  name,
  /** The detected types that the step is for; undefined: every file. */
  types,
  optional: z.boolean('must be true or false').default(true),
};

/** Of steps that run a program here. */
const ofProgram = {
  ...common,
  timeoutSeconds: seconds(LONGEST_RUN).default(300),
  memory: amount(32 * MIB, 2 ** 40, 'from 32MiB to 1TiB').default(512 * MIB),
  outputBytes: amount(1, MAX_OUTPUT, 'from 1 to 256MiB').default(64 * MIB),
  contentTypes: z
    .record(
      z.string().regex(DERIVATIVE_NAME, 'must be the name of a derived file'),
      z.string().regex(MEDIA_TYPE, 'must be a media type such as text/vtt'),
    )
    .default({}),
  passVariables: z.array(variable).default([]),
};

/** The words in braces that a command may have. */
const PLACEHOLDERS = ['input', 'output', 'id', 'folder'];

const argument = z
  .string('must be a text: put it in quotes')
  .refine((text) => !text.includes('\0'), 'must not hold the character U+0000')
  .refine(
    (text) => [...text.matchAll(/\{([a-z]+)\}/g)].every(([, word = '']) => PLACEHOLDERS.includes(word)),
    `must have no other words in braces than ${PLACEHOLDERS.map((word) => `{${word}}`).join(', ')}`,
  );

/** A step that is a command. */
export const commandStep = z.strictObject({
  ...ofProgram,
  command: z
    .array(argument, 'must be a list: the program and its arguments, each by itself')
    .min(1, 'must name a program'),
  network: z.boolean('must be true or false').default(false),
  environment: z.record(variable, z.string('must be a text: put it in quotes')).default({}),
});

/** A step that is a call of a service. */
export const serviceStep = z.strictObject({
  ...common,
  url: z.url({ protocol: /^https?$/, error: 'must be an http or https address' }),
  /** The environment variable with the secret that signs the questions. */
  secretVariable: variable,
  /** Within which the service must answer the call itself. */
  timeoutSeconds: seconds(240).default(30),
  /** Within which an answer must come that is not given at once. */
  answerWithinSeconds: seconds(LONGEST_WAIT).default(3600),
  /** Where the service reaches Landfall; undefined: PUBLIC_URL. */
  server: z
    .url({ protocol: /^https?$/, error: 'must be an http or https address' })
    .transform((url) => url.replace(/\/+$/, ''))
    .optional(),
});

/** A step that is a module: what it exports besides `run`. */
export const moduleStep = z.strictObject(ofProgram);

export type CommandStep = z.output<typeof commandStep>;
export type ServiceStep = z.output<typeof serviceStep>;
export type ModuleStep = z.output<typeof moduleStep>;
