import type { Upload } from '../database/entities/upload.js';
import type { Creation } from '../uploads/create.js';

/*
 * The body of a request to a hook, in the form of tusd (pkg/hooks/hooks.go, HookRequest). It has no further fields: a
 * receiver may refuse those that it does not know. What else a receiver is told stands in headers; see ask.ts.
 */

const PRE_HOOKS = ['pre-create', 'pre-finish', 'pre-terminate'] as const;
export const HOOK_TYPES = [
  ...PRE_HOOKS,
  'post-create',
  'post-receive',
  'post-finish',
  'post-terminate',
] as const;

export type HookType = (typeof HOOK_TYPES)[number];

/** The request of a client, as hooks are told of it. */
export interface ClientRequest {
  method: string;
  uri: string;
  /** Host and port. */
  remoteAddress: string;
  /** By their names in Go's form (Content-Type); each has one value or several. */
  headers: Record<string, string[]>;
}

/** There is no request: the server acts by itself. */
const NO_REQUEST: ClientRequest = { method: '', uri: '', remoteAddress: '', headers: {} };

/** `Event.Upload` of a question. */
export interface UploadInfo {
  ID: string;
  /** Bytes; 0 while the length is deferred. */
  Size: number;
  SizeIsDeferred: boolean;
  Offset: number;
  MetaData: Record<string, string>;
  IsPartial: boolean;
  IsFinal: boolean;
  PartialUploads: string[] | null;
  Storage: Record<string, string> | null;
}

/** A new upload has no id for hooks yet, as in tusd. */
export function infoOfCreation({ length, metadata, concat }: Creation): UploadInfo {
  const known = length ?? (concat?.kind === 'final' ? concat.length : undefined);
  return {
    ID: '',
    Size: known ?? 0,
    SizeIsDeferred: known === undefined,
    Offset: 0,
    MetaData: toTexts(metadata),
    IsPartial: concat?.kind === 'partial',
    IsFinal: concat?.kind === 'final',
    PartialUploads: concat?.kind === 'final' ? concat.partialIds : null,
    Storage: null,
  };
}

/** @param partialIds of a final upload */
export function infoOfUpload(
  { id, length, offset, metadata, kind }: Pick<Upload, 'id' | 'length' | 'offset' | 'metadata' | 'kind'>,
  partialIds?: string[],
): UploadInfo {
  return {
    ID: id,
    Size: length ?? 0,
    SizeIsDeferred: length === null,
    Offset: offset,
    MetaData: toTexts(metadata),
    IsPartial: kind === 'partial',
    IsFinal: kind === 'final',
    PartialUploads: partialIds ?? null,
    // Objects belong to this server: a receiver that moved one, as receivers for tusd may, would lose the file.
    Storage: null,
  };
}

/** A key without a value has an empty one in Go. */
function toTexts(metadata: Upload['metadata']): Record<string, string> {
  return Object.fromEntries(Object.entries(metadata).map(([key, value]) => [key, value ?? '']));
}

/** The body of the request to the hook. */
export function questionJson(type: HookType, upload: UploadInfo, request = NO_REQUEST): string {
  const { method: Method, uri: URI, remoteAddress: RemoteAddr, headers: Header } = request;
  return JSON.stringify({
    Type: type,
    Event: { Upload: upload, HTTPRequest: { Method, URI, RemoteAddr, Header } },
  });
}

/** Go's form of a header's name (net/http, CanonicalHeaderKey). */
export function canonicalName(name: string): string {
  return name.toLowerCase().replace(/(^|-)[a-z]/g, (letter) => letter.toUpperCase());
}
