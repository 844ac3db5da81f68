import type { Request } from 'express';
import { parseWholeNumber } from './fields.js';

/*
 * The versions of draft-ietf-httpbis-resumable-upload that clients speak. A client names its version in
 * Upload-Draft-Interop-Version. docs/ietf-resumable-uploads.md explains the differences.
 */

export interface Dialect {
  /**
   * Undefined: the client names no version, or one that is not known here. "Server implementations of draft versions of
   * the protocol MUST NOT send a 104 (Upload Resumption Supported) informational response when the interop version …
   * is missing or mismatching."
   */
  version: number | undefined;
  /** Upload-Incomplete has the opposite meaning. */
  completeness: 'Upload-Complete' | 'Upload-Incomplete';
  /** The meaning of a PATCH without that field; undefined: it is refused. */
  completeByDefault?: boolean;
  /** Whether 104 also tells the offset, while the body arrives. */
  progress: boolean;
  /** The key of Upload-Limit for the seconds that are left; undefined: the version has no Upload-Limit. */
  lifetime: 'expires' | 'max-age' | undefined;
  /** Whether a PATCH must have the type application/partial-upload. */
  typedPatch: boolean;
  /** The status for a piece that was appended and is not the last one. */
  appended: 201 | 204;
  /** Whether HEAD and DELETE with fields of the state are refused. */
  plainQuestions: boolean;
  /**
   * Whether an upload is complete once its offset has reached its length, whatever the client has said. Draft 05 wants the
   * client to say it, but tus-js-client, which speaks that draft, says nothing once HEAD shows that all bytes are here.
   */
  completeByLength: boolean;
  /**
   * Whether bytes beyond the length end the upload: "rejecting the request once the offset exceeds the length, marking the
   * upload resource invalid and rejecting any further interaction with it".
   */
  overflowEnds: boolean;
  /**
   * Whether the empty PATCH that completes a complete upload gets the final answer once more. Drafts 01 to 03 say nothing
   * about it. Drafts 04 to 08: "the server MUST NOT modify the upload resource and MUST reject the request". Version 8:
   * drafts 09 to 11 say so as well, and from 12 on "the server can choose to replay the final response".
   */
  replays: boolean;
  /** Whether an upload that has ended is answered like one that never was. */
  forgetsEnded: boolean;
  /** Whether refusals say if they come from the resource that the upload was sent to. */
  tellsOnErrors: boolean;
}

const v8: Dialect = {
  version: 8,
  completeness: 'Upload-Complete',
  progress: true,
  lifetime: 'max-age',
  typedPatch: true,
  appended: 204,
  plainQuestions: false,
  completeByLength: false,
  overflowEnds: true,
  replays: true,
  forgetsEnded: false,
  tellsOnErrors: true,
};

const v7: Dialect = { ...v8, version: 7, overflowEnds: false, replays: false };

const v6: Dialect = {
  ...v7,
  version: 6,
  completeByDefault: false,
  lifetime: 'expires',
  appended: 201,
  plainQuestions: true,
  completeByLength: true,
  forgetsEnded: true,
  tellsOnErrors: false,
};

const v5: Dialect = { ...v6, version: 5, lifetime: undefined, typedPatch: false, replays: true };

const v4: Dialect = { ...v5, version: 4, progress: false };

const v3: Dialect = { ...v4, version: 3, completeness: 'Upload-Incomplete', completeByDefault: true };

const DIALECTS = new Map([v3, v4, v5, v6, v7, v8].map((dialect) => [dialect.version, dialect]));

/** The versions that clients may name. */
export const VERSIONS = [...DIALECTS.keys()].filter((version) => version !== undefined);

/** The newest version, for clients of a future RFC, which name none, and of versions that are not known here. */
const UNNAMED: Dialect = { ...v8, version: undefined };

export const VERSION_FIELD = 'Upload-Draft-Interop-Version';

export function dialectOf(req: Request): Dialect {
  return DIALECTS.get(parseWholeNumber(req.get(VERSION_FIELD))) ?? UNNAMED;
}
