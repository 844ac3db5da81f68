import type { DataSource } from 'typeorm';
import type { HookConfig } from '../config-groups.js';
import type { Actor } from '../database/entities/event.js';
import type { Upload } from '../database/entities/upload.js';
import { queryRows } from '../database/rows.js';
import type { Metrics } from '../metrics/metrics.js';
import type { Claim } from '../webhooks/claims.js';
import type { Post } from '../webhooks/post.js';
import type { Sender } from '../webhooks/sender.js';
import {
  type ClientRequest,
  type HookType,
  infoOfUpload,
  questionJson,
  type UploadInfo,
} from './question.js';
import type { HookResults } from './results.js';
import { HOOK_OF_EVENT } from './subscription.js';

/** The database could not be asked for the upload. */
const UNREADABLE = {
  isDelivered: false,
  status: null,
  durationMs: 0,
  answer: null,
  error: 'event_unreadable',
};

/** After the usual repetitions the receiver is told once an hour, for a month. */
const HOURLY = Array.from({ length: 30 * 24 }, () => 3600);

/**
 * Sends the post hooks: the event of a delivery in the form of tusd, made of the event and of the upload's row as it is now.
 * Any answer with 2xx means that the receiver has taken it.
 */
export function createHookSender(deps: {
  database: DataSource;
  post: Post;
  config: HookConfig;
  results: HookResults;
  metrics?: Pick<Metrics, 'hookAsked'> | undefined;
  /** Seconds before the first repetitions. */
  retrySeconds: readonly number[];
}): Sender {
  const { database, post, config, results, metrics } = deps;
  return {
    retrySeconds: [...deps.retrySeconds, ...HOURLY],
    async send(claim, signal) {
      const { subjectId, ownerId } = claim.event;
      const type = HOOK_OF_EVENT[claim.event.type] ?? 'post-finish';
      const described = await describe(database, claim).catch(() => undefined);
      if (!described) return UNREADABLE;
      const { info, request } = described;
      const sent = await post({
        url: config.url,
        headers: {
          'content-type': 'application/json',
          'Hook-Id': `${type}:${subjectId}`,
          'Hook-Attempt': String(claim.attempts),
          ...(ownerId ? { 'Hook-Owner': ownerId } : {}),
        },
        body: questionJson(type, info, request),
        signal,
      });
      const error = sent.error ?? `the hook answered ${sent.status}`;
      note(type, sent.isDelivered, sent.durationMs, error);
      return sent;
    },
  };

  function note(type: HookType, isDelivered: boolean, ms: number, error: string): void {
    const outcome = isDelivered ? 'answered' : 'failed';
    results.note(type, outcome, ms, error);
    metrics?.hookAsked(type, outcome, ms / 1000);
  }
}

type Row = Pick<Upload, 'id' | 'length' | 'offset' | 'metadata' | 'kind' | 'concatHeader'> & {
  actor: Actor | null;
};

async function describe(
  database: DataSource,
  { event }: Claim,
): Promise<{ info: UploadInfo; request: ClientRequest }> {
  const [row] = await queryRows<Row>(
    database,
    `SELECT u.id, u.length::float8 AS length, u."offset"::float8 AS "offset", u.metadata, u.kind,
       u.concat_header AS "concatHeader", e.actor
     FROM uploads u, events e WHERE u.id = $1 AND e.seq = $2`,
    [event.subjectId, event.seq],
  );
  if (!row) throw new Error(`event ${event.seq} is about no upload`);
  const partialIds = row.concatHeader?.match(/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/gi) ?? undefined;
  const info = infoOfUpload(
    row,
    partialIds?.map((id) => id.toLowerCase()),
  );
  const isNew = event.type === 'upload.created';
  return { info: isNew ? { ...info, ...atCreation(event.data) } : info, request: toRequest(row.actor) };
}

/** The row may have moved on since. */
function atCreation({
  length,
}: Claim['event']['data']): Pick<UploadInfo, 'Size' | 'SizeIsDeferred' | 'Offset'> {
  const known = typeof length === 'number' ? length : undefined;
  return { Size: known ?? 0, SizeIsDeferred: known === undefined, Offset: 0 };
}

/** What the event log knows of the request: neither its address nor its headers, which may hold secrets. */
function toRequest(actor: Actor | null): ClientRequest {
  const { address = '', userAgent, requestId } = actor ?? {};
  return {
    method: '',
    uri: '',
    remoteAddress: address,
    headers: {
      ...(userAgent ? { 'User-Agent': [userAgent] } : {}),
      ...(requestId ? { 'X-Request-Id': [requestId] } : {}),
    },
  };
}
