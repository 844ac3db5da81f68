import type { Actor, Event } from '../database/entities/event.js';
import type { Problem, StepRecord } from '../database/entities/file.js';

/* What each type of event says, and how much of it leaves the house. */

type Nothing = Record<never, never>;

/** A run of a file's processing; `error` says why it ended badly. */
interface RunData {
  run: number;
  error?: Problem;
}

/** What changes the status of a file. */
export type StatusEventType = 'file.processing' | 'file.completed' | 'file.failed' | 'file.infected';

/** The data of each type, besides subject, owner and actor. Neither secrets nor content. */
interface EventData extends Record<StatusEventType, RunData> {
  /** Bytes; null: not known yet. */
  'upload.created': { length: number | null };
  'upload.expired': { reason?: string };
  'upload.terminated': Nothing;
  /** Bytes. */
  'file.created': { size: number };
  'file.step': StepRecord & { step: string };
  'file.deleted': Nothing;
  'file.purged': Nothing;
  'auth.register': { role: string; invitation?: string };
  'auth.login': Nothing;
  'auth.logout': Nothing;
  'auth.token_reused': Nothing;
  'auth.password': Nothing;
  'session.revoked': Nothing;
  'key.created': { prefix: string; scopes: string[] };
  'key.revoked': Nothing;
  'upload_token.created': Nothing;
  'upload_token.revoked': Nothing;
  'invitation.created': Nothing;
  'invitation.revoked': Nothing;
  'user.changed': Record<string, unknown>;
  'queue.changed': { method: string; path: string };
  'audit.exported': Record<string, unknown>;
  /** A request that was turned away, where no other type fits. */
  access: Nothing;
  /** Further ones of one network, or of several, that are only counted; see server/auth/refusal-counts.ts. */
  'access.counted': Nothing;
}

export type EventType = keyof EventData;

interface Common {
  /** Upload, file, user, …; null where there is none. */
  subjectId: string | null;
  /** Whose timeline it belongs to. */
  ownerId: string | null;
  /** Who did it; absent: the system itself. */
  actor?: Actor | undefined;
}

/** Something that was done. */
type DoneEvent = {
  [Type in EventType]: Common & { type: Type; result?: 'ok' } & (Nothing extends EventData[Type]
      ? { data?: EventData[Type] }
      : { data: EventData[Type] });
}[EventType];

interface StatusEvent extends Common {
  type: StatusEventType;
  result?: 'ok';
  data: RunData;
}

/** Something that somebody was not allowed to do; `data` says what was wanted and why not. */
interface RefusedEvent extends Common {
  type: EventType;
  result: 'refused';
  data?: Record<string, unknown>;
}

export type NewEvent = DoneEvent | StatusEvent | RefusedEvent;

/** What others are told of an event: not who did it, and nothing of the audit log's own. */
export interface PublicEvent {
  /** Its place in the log, by which a reader goes on; null for some moments after it was written. */
  seq: number | null;
  type: string;
  /** The upload or file that it is about. */
  subjectId: string | null;
  data: Record<string, unknown>;
  createdAt: Date;
}

export function toPublicEvent({ seq, type, subjectId, data, createdAt }: Event): PublicEvent {
  return { seq, type, subjectId, data, createdAt };
}
