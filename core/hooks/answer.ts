import { validateHeaderName, validateHeaderValue } from 'node:http';
import { z } from 'zod';
import type { HookAnswer } from '../uploads/hooks.js';

/*
 * The answer of a hook, as tusd reads it (pkg/hooks/hooks.go, HookResponse). tusd decodes it by Go's encoding/json, and
 * receivers rely on that: names of fields count in any case, null is the same as an absent field, and further fields are
 * ignored. A field of the wrong type spoils the whole answer.
 */

/** What a hook has answered. */
export interface HookReply {
  /** HTTPResponse: what the hook wants in the answer to the client. */
  answer: HookAnswer;
  rejectsUpload: boolean;
  rejectsTermination: boolean;
  stopsUpload: boolean;
  /** ChangeFileInfo.MetaData; undefined: the metadata stays as it is. */
  metadata: Record<string, string> | undefined;
  /** Whether ChangeFileInfo names an id, or a place in the store. */
  namesId: boolean;
  namesStorage: boolean;
  /** Not of tusd: the owner of a new upload; see AUTH=hook. */
  owner: string | undefined;
  /** Not of tusd: where the file is to be delivered; see core/delivery. */
  deliverTo: string | undefined;
}

/** @returns the fields of an object under these names, whatever their case; null and undefined are left out */
function fields(names: readonly string[]) {
  return (value: unknown): unknown => {
    if (value === null || value === undefined) return {};
    if (typeof value !== 'object' || Array.isArray(value)) return value;
    const known = Object.entries(value).flatMap(([key, one]) => {
      const name = names.find((candidate) => candidate.toLowerCase() === key.toLowerCase());
      return name === undefined || one === null ? [] : [[name, one]];
    });
    return Object.fromEntries(known);
  };
}

/** A Go struct with these fields. */
const struct = <Shape extends z.ZodRawShape>(shape: Shape) =>
  z.preprocess(fields(Object.keys(shape)), z.object(shape));

/** A Go map[string]string, in which null is an empty string. */
const texts = z
  .record(z.string(), z.string().nullable())
  .transform((map) => Object.fromEntries(Object.entries(map).map(([key, text]) => [key, text ?? ''])));

const headers = texts.refine((map) => Object.entries(map).every(isHeader), 'must be valid headers');

/** 0 is Go's way to say nothing. */
const status = z.int().refine((code) => code === 0 || (code >= 200 && code <= 599), 'must be 200 to 599');

const reply = struct({
  HTTPResponse: struct({
    StatusCode: status.optional(),
    Body: z.string().optional(),
    Header: headers.optional(),
  }),
  RejectUpload: z.boolean().default(false),
  RejectTermination: z.boolean().default(false),
  StopUpload: z.boolean().default(false),
  ChangeFileInfo: struct({
    ID: z.string().optional(),
    MetaData: texts.optional(),
    Storage: texts.optional(),
  }),
  Owner: z.string().optional(),
  DeliverTo: z.string().optional(),
});

function isHeader([name, value]: [string, string]): boolean {
  try {
    validateHeaderName(name);
    validateHeaderValue(name, value);
    return true;
  } catch {
    return false;
  }
}

/** Reads the answer of a hook. @throws {Error} saying what is wrong with it */
export function readReply(json: string): HookReply {
  const parsed = reply.safeParse(JSON.parse(json));
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    throw new Error(`${issue?.path.join('.') || 'the answer'}: ${issue?.message}`);
  }
  const { HTTPResponse: http, ChangeFileInfo: change, ...rest } = parsed.data;
  return {
    answer: { status: http.StatusCode || undefined, headers: http.Header, body: http.Body || undefined },
    rejectsUpload: rest.RejectUpload,
    rejectsTermination: rest.RejectTermination,
    stopsUpload: rest.StopUpload,
    metadata: change.MetaData,
    namesId: Boolean(change.ID),
    namesStorage: change.Storage !== undefined,
    owner: rest.Owner || undefined,
    deliverTo: rest.DeliverTo || undefined,
  };
}

/** One answer of two, of which the later one counts more (tusd: HTTPResponse.MergeWith). */
export function mergeAnswers(earlier: HookAnswer, later: HookAnswer): HookAnswer {
  return {
    status: later.status ?? earlier.status,
    headers: { ...earlier.headers, ...later.headers },
    body: later.body ?? earlier.body,
  };
}
